//! `kubectl exec`

use std::path::Path;

use serde_json::Value;

use super::turn;
use crate::testing::{Client, Terminal, alive, eventually, noise, run, succeed, text};

const INPUT: usize = 8 << 20;

const OUTPUT: usize = 32 << 20;

/// Output, errors and the exit code arrive each by itself.
pub async fn keeps_streams_and_exit_code_apart(client: &Client<'_>) {
    let pod = client.target("exec").await;
    let script = "echo out; echo err >&2; exit 7";
    let output = run(&mut client.exec(&pod, &[], &["sh", "-c", script]), b"").await;
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(
        text(&output.stderr),
        "err\ncommand terminated with exit code 7\n"
    );
}

/// The end of the input passes, and the output goes on after it.
pub async fn carries_the_end_of_input(client: &Client<'_>) {
    let pod = client.target("stdin-eof").await;
    let command = ["sh", "-c", "cat; echo end"];
    let output = succeed(&mut client.exec(&pod, &["-i"], &command), b"some\n").await;
    assert_eq!(text(&output), "some\nend\n");
}

/// The output equals the input, byte for byte.
pub async fn carries_8_mib_both_ways(client: &Client<'_>) {
    let pod = client.target("large-in").await;
    let _turn = turn().await;
    let input = noise(INPUT);
    let output = succeed(&mut client.exec(&pod, &["-i"], &["cat"]), &input).await;
    same(&output, &input);
}

/// A long output is whole.
pub async fn carries_32_mib_out(client: &Client<'_>) {
    let pod = client.target("large-out").await;
    let _turn = turn().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = noise(OUTPUT);
    std::fs::write(file.path(), &bytes).unwrap();
    // Pods see this machine's files.
    let path = file.path().to_str().unwrap();
    let output = succeed(&mut client.exec(&pod, &[], &["cat", path]), b"").await;
    same(&output, &bytes);
}

fn same(got: &[u8], wanted: &[u8]) {
    assert_eq!(got.len(), wanted.len());
    assert!(
        got == wanted,
        "the same number of bytes, but not the same bytes"
    );
}

/// The command runs as the pod.
pub async fn runs_where_the_pod_does(client: &Client<'_>) {
    let pod = client.target("where").await;
    let script = "echo here > file; echo $HOSTNAME; pwd; readlink /proc/$PPID/exe";
    let output = succeed(&mut client.exec(&pod, &[], &["sh", "-c", script]), b"").await;
    let output = text(&output);
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(pod.as_str()));
    let dir = Path::new(lines.next().unwrap());
    assert!(dir.starts_with(client.cluster().dir()), "{output}");
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "here\n");
}

/// The runtime's error reaches the user.
pub async fn reports_a_missing_command(client: &Client<'_>) {
    let pod = client.target("missing").await;
    let output = run(&mut client.exec(&pod, &[], &["no-such-command"]), b"").await;
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("executable file not found"),
        "{output:?}"
    );
}

/// A shell with a window: its size, resizing it, Ctrl-C, the exit code.
pub async fn on_a_terminal(client: &Client<'_>) {
    let pod = client.target("tty").await;
    let mut terminal = Terminal::run(client, &format!("exec -it {pod} -- sh")).await;
    // The quotes keep the terminal's echo of a command from looking like its output.
    terminal
        .send("test -t 0 && test -t 1 && echo is-a''-tty\n")
        .await;
    terminal.expect("is-a-tty").await;
    // kubectl tells the size beside what is typed: on a slow way it comes later.
    terminal
        .send("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo si''zed\n")
        .await;
    terminal.expect("sized").await;

    terminal.resize(50, 120).await;
    terminal
        .send("until [ \"$(stty size)\" = '50 120' ]; do :; done; echo resi''zed\n")
        .await;
    terminal.expect("resized").await;

    // The process that prints it is already the terminal's foreground job: Ctrl-C cannot reach the shell in its place.
    terminal
        .send("sh -c \"echo sleep''ing; exec sleep 1000\"\n")
        .await;
    terminal.expect("sleeping").await;
    terminal.send("\x03").await;
    terminal.send("echo after=$?\n").await;
    terminal.expect("after=130").await;

    terminal.send("exit 5\n").await;
    assert_eq!(terminal.exit_code().await, Some(5));
}

/// A window that is closed ends the shell in it.
pub async fn ends_when_its_client_does(client: &Client<'_>) {
    let pod = client.target("hangup").await;
    let mut terminal = Terminal::run(client, &format!("exec -it {pod} -- sh")).await;
    terminal.send("echo pid=''$$.\n").await;
    let find = |seen: &str| {
        let pid = seen
            .split("pid=")
            .find_map(|rest| rest.split_once('.')?.0.parse::<u32>().ok())?;
        Some((pid, seen.len()))
    };
    let pid = terminal.screen().until_some("pid=<number>.", find).await;
    assert!(alive(pid));
    terminal.kill().await;
    eventually(
        "the shell ends",
        async || {
            if alive(pid) { Err(pid) } else { Ok(()) }
        },
    )
    .await;
}

/// The API server sees the protocol that the client speaks: nothing on the way has translated it, and kubectl has not
/// fallen back to the other one.
pub async fn starts_as_the_protocol_that_is_meant(client: &Client<'_>) {
    let pod = client.target("protocol").await;
    succeed(&mut client.exec(&pod, &[], &["true"]), b"").await;
    let events: Vec<Value> = eventually("the exec in the audit log", async || {
        let events = client.audit_events(|event| {
            let object = &event["objectRef"];
            object["name"] == pod.as_str() && object["subresource"] == "exec"
        });
        if events.is_empty() {
            Err("none")
        } else {
            Ok(events)
        }
    })
    .await;
    for event in events {
        assert_eq!(event["verb"], client.wire().verb(), "{event}");
        assert_eq!(event["responseStatus"]["code"], 101, "{event}");
    }
}
