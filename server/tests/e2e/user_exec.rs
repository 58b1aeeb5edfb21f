//! `underpass exec`: kubectl's exec, which survives its user's network.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use underpass_testenv::testing::{
    Client, DEADLINE, Wire, alive, eventually, noise, run, spawn, text,
};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::cutter::{Cuts, Cutter};
use crate::deployment::{CLUSTER, changed, token_of};
use crate::over_both_transports;
use crate::terminal::Terminal;
use crate::user_session::{Laptop, OUTAGE, kill, next, way};

over_both_transports![
    a_command_goes_on_at_the_byte_after_12_s_without_network,
    bytes_both_ways_while_each_connection_is_cut,
];

/// `underpass exec`, with flags, a pod and a command.
fn exec(laptop: &Laptop, transport: Transport, arguments: &[&str]) -> Command {
    let exec = ["exec", "--transport", transport.as_str(), CLUSTER_NAME];
    laptop.underpass(&[&exec[..], arguments].concat())
}

/// A client to make pods with, in this test's name.
fn maker(test: &'static str) -> Client<'static> {
    Client::new(&CLUSTER, CLUSTER.admin_kubeconfig(), test, Wire::WebSocket)
}

async fn a_command_goes_on_at_the_byte_after_12_s_without_network(transport: Transport) {
    let laptop = Laptop::new().await;
    let pod = maker(way(transport, "exec-out")).target("count").await;
    // A shell gives a command in the background no input by itself.
    let script = "exec 3<&0; cat <&3 & i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.3; done; wait";
    let arguments = ["-i", &pod, "--", "sh", "-c", script];
    let mut child = spawn(&mut exec(&laptop, transport, &arguments));
    let mut typed = child.stdin.take().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let network = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let typing = async {
            for number in 0..20 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                typed
                    .write_all(format!("typed {number}\n").as_bytes())
                    .await
                    .unwrap();
            }
        };
        tokio::join!(laptop.path.fail_for(OUTAGE), typing);
        drop(typed);
    };
    let printed = async {
        let mut printed = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            printed.push(line);
        }
        printed
    };
    let both = async { tokio::join!(network, printed).1 };
    let printed = tokio::time::timeout(DEADLINE, both).await.unwrap();
    let (echoed, counted): (Vec<_>, Vec<_>) = printed
        .into_iter()
        .partition(|line| line.starts_with("typed"));
    let wanted: Vec<_> = (0..60).map(|number| number.to_string()).collect();
    assert_eq!(counted, wanted);
    let wanted: Vec<_> = (0..20).map(|number| format!("typed {number}")).collect();
    assert_eq!(echoed, wanted);
    let lost = next(&mut said).await;
    assert!(lost.contains("is lost, connecting again"), "{lost}");
    let back = next(&mut said).await;
    assert!(back.contains("again, and the command goes on"), "{back}");
    assert!(child.wait().await.unwrap().success());
}

async fn bytes_both_ways_while_each_connection_is_cut(transport: Transport) {
    let laptop = Laptop::new().await;
    let pod = maker(way(transport, "exec-bytes")).target("cat").await;
    let input = noise(4 << 20);
    let mut child = spawn(&mut exec(&laptop, transport, &["-i", &pod, "--", "cat"]));
    let mut typed = child.stdin.take().unwrap();
    let mut printed = child.stdout.take().unwrap();
    let cuts = Cuts::default();
    let typing = async {
        // However fast the copy is, each part but the first has a cut before it.
        for part in input.chunks(1 << 20) {
            typed.write_all(part).await.unwrap();
            cuts.wait_for(1).await;
        }
        drop(typed);
    };
    let reading = async {
        let mut output = Vec::new();
        printed.read_to_end(&mut output).await.unwrap();
        output
    };
    let both = async { tokio::join!(typing, reading).1 };
    let output = tokio::select! {
        output = tokio::time::timeout(DEADLINE, both) => output.unwrap(),
        never = laptop.path.forget_each(Duration::from_millis(400), &cuts) => match never {},
    };
    assert!(child.wait().await.unwrap().success());
    assert!(output == input, "{} bytes of {}", output.len(), input.len());
}

/// Beside each other, by the same way, which is cut once.
#[tokio::test]
async fn kubectl_dies_by_a_cut_that_the_command_survives() {
    let laptop = Laptop::new().await;
    let port = laptop.deployment.url().rsplit(':').next().unwrap();
    let path = Cutter::start(port.parse().unwrap()).await;
    let led = changed(
        laptop.deployment.admin_kubeconfig(),
        "cut",
        &format!(":{port}"),
        &format!(":{}", path.port),
    );
    let client = Client::new(&CLUSTER, &led, "beside", Wire::WebSocket);
    let pod = maker("beside").target("count").await;
    let script = "i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); sleep 0.1; done";
    let ours = [
        "exec",
        "--transport",
        "websocket",
        CLUSTER_NAME,
        &pod,
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut ours = spawn(&mut laptop.underpass_at(path.port, &ours));
    let mut theirs = spawn(&mut client.exec(&pod, &[], &["sh", "-c", script]));
    let mut our_lines = BufReader::new(ours.stdout.take().unwrap()).lines();
    let mut their_lines = BufReader::new(theirs.stdout.take().unwrap()).lines();
    for number in 0..5 {
        assert_eq!(next(&mut our_lines).await, number.to_string());
        assert_eq!(next(&mut their_lines).await, number.to_string());
    }
    assert!(path.cut() >= 2);
    for number in 5..50 {
        assert_eq!(next(&mut our_lines).await, number.to_string());
    }
    assert!(ours.wait().await.unwrap().success());
    let mut more = 5;
    while let Ok(Some(line)) = their_lines.next_line().await {
        assert_eq!(line, more.to_string());
        more += 1;
    }
    assert!(more < 50, "kubectl was not cut");
    assert!(!theirs.wait().await.unwrap().success());
}

#[tokio::test]
async fn the_streams_and_the_end_are_kubectls() {
    let laptop = Laptop::new().await;
    let maker = maker("kubectls");
    let pod = maker.target("same").await;
    let kubectl = laptop.deployment.admin(Wire::WebSocket);
    let script = "echo out; echo err >&2; exit 7";
    for (flags, command, input) in [
        (&[][..], &["sh", "-c", script][..], &b""[..]),
        (&["-i"], &["sh", "-c", "cat; echo end"], b"some\n"),
        (&["-q"], &["sh", "-c", "exit 126"], b""),
        // Without -i there is no input.
        (&[], &["sh", "-c", "cat; echo end"], b"some\n"),
        (
            &[],
            &["sh", "-c", "printf %s \"$1\"", "sh", "a b&c=d +%2F ä"],
            b"",
        ),
        (&["-n", "default", "-i"], &["sh", "-c", "kill -9 $$"], b""),
    ] {
        let arguments = [flags, &[pod.as_str(), "--"], command].concat();
        let ours = run(&mut exec(&laptop, Transport::Auto, &arguments), input).await;
        let theirs = run(&mut kubectl.exec(&pod, flags, command), input).await;
        assert_eq!(
            ours.status.code(),
            theirs.status.code(),
            "{ours:?} {theirs:?}"
        );
        assert_eq!(text(&ours.stdout), text(&theirs.stdout));
        assert_eq!(text(&ours.stderr), text(&theirs.stderr));
    }
}

#[tokio::test]
async fn what_does_not_run_says_why() {
    let laptop = Laptop::new().await;
    let maker = maker("refused");
    let pod = maker.target("pod").await;
    let fails = async |arguments: &[&str], wanted: &str| {
        let arguments = [arguments, &["--", "no-such-command"]].concat();
        let output = run(&mut exec(&laptop, Transport::Auto, &arguments), b"").await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains(wanted), "{wanted:?}: {said}");
    };
    fails(&[&pod], "executable file not found").await;
    fails(
        &["no-such-pod"],
        r#"(NotFound): pods "no-such-pod" not found"#,
    )
    .await;
    fails(&["-n", "nowhere", &pod], "(NotFound)").await;
    fails(&["-c", "other", &pod], "container other not found in pod").await;
    fails(&["deploy/none"], r#"deployments.apps "none" not found"#).await;
    fails(&["node/x"], "has no pods that this program knows").await;
    fails(&[".."], "is no name of a pod").await;
    fails(&["deploy/.."], "is no name of a deploy").await;
    fails(&["-n", "..", &pod], "is no name of a namespace").await;
    // Another user may do nothing in this cluster.
    let bob = laptop
        .deployment
        .blocking(|u| u.kubeconfig("bob", &[]).unwrap());
    let token = token_of(&bob.await);
    laptop.set_token(&token);
    fails(&[&pod], "(Forbidden): pods").await;
    laptop.set_token("upt_wrong");
    fails(&[&pod], "does not accept the credential").await;
}

#[tokio::test]
async fn an_object_leads_to_a_pod_that_is_ready() {
    let laptop = Laptop::new().await;
    let maker = maker("owner");
    let name = maker.name("web");
    let template = underpass_testenv::testing::pod(&name, "exec sleep 100000");
    let labels = serde_json::json!({"app": name});
    maker
        .create(&serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
            },
        }))
        .await;
    maker
        .run(&[
            "rollout",
            "status",
            "--timeout=60s",
            &format!("deploy/{name}"),
        ])
        .await;
    for kind in ["deploy", "deployment.apps", "deployments"] {
        let target = format!("{kind}/{name}");
        let arguments = [target.as_str(), "--", "sh", "-c", "echo $HOSTNAME"];
        let output = run(&mut exec(&laptop, Transport::Auto, &arguments), b"").await;
        assert!(text(&output.stdout).starts_with(&name), "{output:?}");
    }
    maker
        .run(&["delete", "deploy", &name, "--wait=false"])
        .await;
}

#[tokio::test]
async fn a_terminal_is_the_commands() {
    let laptop = Laptop::new().await;
    let pod = maker("exec-tty").target("tty").await;
    let mut terminal = Terminal::start(
        &exec(&laptop, Transport::Auto, &["-it", &pod, "--", "sh"]),
        (80, 24),
    );
    terminal.press("test -t 0 && test -t 1 && echo is-a''-tty\r");
    terminal.shows("is-a-tty").await;
    terminal.press("until [ \"$(stty size)\" = '24 80' ]; do :; done; echo si''zed\r");
    terminal.shows("sized").await;
    terminal.resize(100, 40);
    terminal.press("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo resi''zed\r");
    terminal.shows("resized").await;
    terminal.press("sh -c \"echo sleep''ing; exec sleep 1000\"\r");
    terminal.shows("sleeping").await;
    terminal.press("\u{3}");
    terminal.press("echo after=$?\r");
    terminal.shows("after=130").await;
    // A mode that the shell leaves behind is not left to the user.
    terminal.press("printf '\\033[4h\\033[?1004h'; exit 5\r");
    let (status, said) = terminal.ended().await;
    assert_eq!(status, Some(5), "{said}");
    assert!(
        said.contains("command terminated with exit code 5"),
        "{said}"
    );
    let left = said.rsplit("\u{1b}[?1004h").next().unwrap();
    for reset in ["\u{1b}[4l", "\u{1b}[?1004l"] {
        assert!(left.contains(reset), "{said:?}");
    }
    // Where there is none, the command gets none, and the user hears of it.
    let output = run(
        &mut exec(&laptop, Transport::Auto, &["-it", &pod, "--", "tty"]),
        b"",
    )
    .await;
    assert!(text(&output.stderr).contains("no terminal"), "{output:?}");
    assert_eq!(text(&output.stdout), "not a tty\n");
}

/// As with kubectl, the command is left alone; but its streams end at once, and not when the server has waited for their user.
#[tokio::test]
async fn a_signal_ends_the_command_line_and_its_session() {
    let laptop = Laptop::new().await;
    let pod = maker("exec-signal").target("signal").await;
    let arguments = ["-i", &pod, "--", "sh", "-c", "echo $$; exec cat"];
    let mut command = exec(&laptop, Transport::Auto, &arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let process: u32 = next(&mut lines).await.parse().unwrap();
    kill(&child, Signal::TERM);
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(143));
    eventually("its input has ended", async || match alive(process) {
        true => Err(process),
        false => Ok(()),
    })
    .await;
}

/// A pipe whose reader takes nothing.
#[tokio::test]
async fn a_reader_that_is_stuck_holds_no_signal_up() {
    let laptop = Laptop::new().await;
    let pod = maker("exec-stuck").target("stuck").await;
    let arguments = [&pod, "--", "sh", "-c", "yes | head -c 4000000"];
    let mut command = exec(&laptop, Transport::Auto, &arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).await.unwrap();
    kill(&child, Signal::TERM);
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(143));
}
