//! Shells at an agent, by the program that people run, at a terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use underpass_testenv::Transport;
use underpass_testenv::testing::{eventually, run, text};

use crate::cutter::{Cuts, Cutter, Forgetful};
use crate::operations::{CLUSTER_OF_NODES, NODE, Site};
use crate::over_both_transports;
use crate::terminal::Terminal;

over_both_transports!(
    a_shell_outlives_its_viewers,
    rule_12_a_shell_ends_with_the_permission_for_it,
    what_is_pasted_arrives_whole_through_cuts_of_the_agents_connection,
    a_viewer_comes_back_at_the_byte_when_its_connection_is_cut,
    rule_12_a_shell_survives_its_server_and_ends_with_its_viewers_permission,
    what_is_typed_while_the_viewers_network_is_away_arrives_once,
);

/// Kernels differ in the protections that they give to tests.
pub(crate) const POLICY: &str = "
shells:
  node:
    program: /bin/sh
    environment: {set: {PS1: '$ ', PATH: /usr/bin:/bin}}
    mayBeMissing: [cgroup]
";

pub(crate) const SIZE: (u16, u16) = (80, 24);

pub(crate) fn shell(site: &Site, token: &Path, more: &[&str]) -> Terminal {
    let shell = ["shell", CLUSTER_OF_NODES, "--node", NODE];
    Terminal::start(&site.command(token, &[&shell[..], more].concat()), SIZE)
}

async fn listed(site: &Site, token: &Path) -> String {
    let list = ["shell", "list", CLUSTER_OF_NODES, "--node", NODE];
    let listed = run(&mut site.command(token, &list), b"").await;
    assert!(listed.status.success(), "{listed:?}");
    text(&listed.stdout)
}

/// The id that a viewer is told when it detaches.
fn id(text: &str) -> String {
    let (_, id) = text.rsplit_once("--attach ").unwrap();
    id[..32].to_owned()
}

async fn a_shell_outlives_its_viewers(transport: Transport) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "admin");
    let mut first = shell(&site, &alice, &["--kind", "node"]);
    first.shows("$ ").await;
    first.press("echo $((6*7)) $TERM; tty\r");
    first.shows("42 xterm-256color").await;
    first.shows("/dev/pts/").await;
    first.resize(100, 30);
    eventually("the shell has the terminal's size", async || {
        first.press("stty size\r");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let text = first.text();
        match text.contains("30 100") {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await;
    // Something with colours, that a fresh terminal would not show.
    first.press("clear; printf '\\033[31mred\\033[0m end\\n'\r");
    first.shows("red\u{1b}[0m end").await;
    first.press("\r~.");
    let (status, said) = first.ended().await;
    assert_eq!(status, Some(0), "{said}");
    let id = id(&said);
    let row = listed(&site, &alice).await;
    assert!(row.contains(&id) && row.contains("running"), "{row}");

    let second = shell(&site, &alice, &["--attach", &id]);
    second.shows("red").await;
    let mut third = shell(&site, &alice, &["--attach", &id]);
    third.shows("another viewer writes").await;
    eventually("both viewers show the same screen", async || {
        let screens = [second.screen(), third.screen()];
        match screens[0] == screens[1] || third.text().contains("red") {
            true => Ok(()),
            false => Err(screens),
        }
    })
    .await;
    third.press("~t");
    second
        .shows("another viewer writes to this shell now")
        .await;
    third.press("exit 7\r");
    for viewer in [second, third] {
        let (status, said) = viewer.ended().await;
        assert_eq!(status, Some(7), "{said}");
    }
    let row = listed(&site, &alice).await;
    assert!(row.contains("exit status 7"), "{row}");
    // Rule 15: the server's audit log has its beginning and its end.
    let log = site.deployment.server_log().unwrap();
    let told = log.lines().filter(|line| line.contains(&id));
    let outcomes: Vec<_> = told
        .filter(|line| line.contains("its program ended, exit status 7"))
        .collect();
    assert_eq!(outcomes.len(), 1, "{log}");
    // No viewer was lost.
    assert!(!log.contains(r#"outcome="lost""#), "{log}");
}

async fn what_is_pasted_arrives_whole_through_cuts_of_the_agents_connection(transport: Transport) {
    let mut site = Site::without_agent(transport, POLICY).await;
    let path = Forgetful::start(site.port()).await;
    site.through = Some(path.port);
    site.start_agent();
    site.connected().await;
    let alice = site.user("alice", "admin");
    let into = site.deployment.dir().join("pasted");
    let mut viewer = shell(&site, &alice, &["--kind", "node"]);
    viewer.shows("$ ").await;
    let (pieces, piece) = (3, vec![b'x'; 60_000]);
    let all = pieces * piece.len();
    viewer.press(&format!(
        "stty raw -echo; echo rea\"\"dy; head -c {all} > {}; stty sane; echo do\"\"ne\r",
        into.display()
    ));
    viewer.shows("ready").await;
    let cuts = Cuts::default();
    let pasting = async {
        for number in 0..pieces {
            let letter = b'a' + u8::try_from(number).unwrap();
            viewer.paste(vec![letter; piece.len()]).await;
            cuts.wait_for(1).await;
        }
        viewer.shows("done").await;
    };
    tokio::select! {
        () = pasting => {}
        never = path.forget_each(Duration::from_secs(1), &cuts) => match never {},
    }
    let pasted = fs::read(&into).unwrap();
    let letters: Vec<_> = pasted.chunk_by(|one, other| one == other).collect();
    let letters: Vec<_> = letters
        .iter()
        .map(|run| (run[0] as char, run.len()))
        .collect();
    let expected: Vec<_> = ('a'..'d').map(|letter| (letter, piece.len())).collect();
    assert_eq!(letters, expected);
}

async fn a_viewer_comes_back_at_the_byte_when_its_connection_is_cut(transport: Transport) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "admin");
    let path = Cutter::start(site.port()).await;
    let url = format!("https://localhost:{}", path.port);
    let open = ["shell", CLUSTER_OF_NODES, "--node", NODE, "--kind", "node"];
    let mut viewer = Terminal::start(&site.command_at(&url, &alice, &open), SIZE);
    viewer.shows("$ ").await;
    viewer.press("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done\r");
    for cut in 1..=3 {
        viewer.shows(&format!("\n{}0\r", cut * 5)).await;
        path.cut();
        eventually("the viewer is back", async || {
            let text = viewer.text();
            match text.matches("connected again").count() >= cut {
                true => Ok(()),
                false => Err(text),
            }
        })
        .await;
    }
    viewer.shows("\n250\r").await;
    viewer.press("\u{3}");
    viewer.press("exit 5\r");
    let (status, said) = viewer.ended().await;
    assert_eq!(status, Some(5), "{said}");
    let numbers = said
        .lines()
        .filter_map(|line| line.trim().parse::<u32>().ok());
    let numbers: Vec<_> = numbers.collect();
    let all: Vec<_> = (0..).take(numbers.len()).collect();
    assert_eq!(numbers, all, "{said}");
}

/// Beyond the patience of what detects a lost connection.
const OUTAGE: Duration = Duration::from_secs(12);

async fn what_is_typed_while_the_viewers_network_is_away_arrives_once(transport: Transport) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "admin");
    let path = Forgetful::start(site.port()).await;
    let url = format!("https://localhost:{}", path.port);
    let open = [
        "shell",
        CLUSTER_OF_NODES,
        "--node",
        NODE,
        "--kind",
        "node",
        "--transport",
        transport.as_str(),
    ];
    let mut viewer = Terminal::start(&site.command_at(&url, &alice, &open), SIZE);
    viewer.shows("$ ").await;
    let typed = site.deployment.dir().join("typed");
    viewer.press(&format!("cat > {}; echo do\"\"ne\r", typed.display()));
    let typing = async {
        for number in 0..20 {
            viewer.press(&format!("line {number}\r"));
            tokio::time::sleep(OUTAGE / 20).await;
        }
    };
    tokio::join!(path.fail_for(OUTAGE), typing);
    viewer.shows("connected again").await;
    viewer.press("\u{4}");
    viewer.shows("done").await;
    let expected: String = (0..20).map(|number| format!("line {number}\n")).collect();
    assert_eq!(fs::read_to_string(&typed).unwrap(), expected);
    // It was the same view all the time, in one session.
    let text = viewer.text();
    assert!(!text.contains("the connection is lost ("), "{text}");
    viewer.press("exit 3\r");
    let (status, said) = viewer.ended().await;
    assert_eq!(status, Some(3), "{said}");
}

#[tokio::test]
async fn rule_17_a_command_runs_where_the_policys_rule_takes_one() {
    let policy = POLICY.replace(
        "    program: /bin/sh\n",
        "    program: /bin/sh\n    command: true\n",
    );
    let site = Site::new(Transport::Auto, &policy).await;
    let alice = site.user("alice", "admin");
    let command = [
        "--kind",
        "node",
        "--",
        "sh",
        "-c",
        "echo \"got $1\"; exit 6",
        "sh",
        "a b",
    ];
    let viewer = shell(&site, &alice, &command);
    let (status, said) = viewer.ended().await;
    assert_eq!(status, Some(6), "{said}");
    assert!(said.contains("got a b"), "{said}");
    // Rule 15: each word, by itself.
    let audit = fs::read_to_string(site.deployment.dir().join("data/audit.log")).unwrap();
    let events = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut opened =
        events.filter(|event| event["annotations"]["underpass.dev/argument.command.00"] == "sh");
    let event = opened.next().expect("the opening");
    assert_eq!(
        event["annotations"]["underpass.dev/argument.command.04"], "a b",
        "{event}"
    );
    // Without a terminal there is one all the same, and nobody watches.
    let detach = [
        "shell",
        CLUSTER_OF_NODES,
        "--node",
        NODE,
        "--kind",
        "node",
        "--detach",
        "--",
    ];
    let mark = site.deployment.dir().join("mark");
    let script = format!("tty > {}", mark.display());
    let arguments = [&detach[..], &["sh", "-c", &script]].concat();
    let detached = run(&mut site.command(&alice, &arguments), b"").await;
    assert!(detached.status.success(), "{detached:?}");
    let id = text(&detached.stdout);
    eventually("the command has run", async || {
        let list = listed(&site, &alice).await;
        match list.contains(id.trim()) && list.contains("exit status 0") {
            true => Ok(()),
            false => Err(list),
        }
    })
    .await;
    assert!(fs::read_to_string(&mark).unwrap().starts_with("/dev/pts/"));
    let long = ["--kind", "node", "--", "sh", &"x".repeat(2048)];
    let (status, said) = shell(&site, &alice, &long).ended().await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("2048 bytes together"), "{said}");
    let unknown = ["--kind", "node", "--", "no-such-program"];
    let (status, said) = shell(&site, &alice, &unknown).ended().await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("no-such-program"), "{said}");
}

#[tokio::test]
async fn rule_17_a_command_is_no_way_round_the_policys_rule() {
    let site = Site::new(Transport::Auto, POLICY).await;
    let alice = site.user("alice", "admin");
    let mark = site.deployment.dir().join("mark");
    let script = format!("touch {}", mark.display());
    let command = ["--kind", "node", "--", "sh", "-c", &script];
    let (status, said) = shell(&site, &alice, &command).ended().await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("shells.node"), "{said}");
    assert_eq!(listed(&site, &alice).await.lines().count(), 1);
    assert!(!mark.exists());
}

async fn rule_12_a_shell_ends_with_the_permission_for_it(transport: Transport) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "admin");
    let (viewer, mark) = stubborn(&site, &alice).await;
    // Nobody else sees it.
    let bob = site.user("bob", "admin");
    assert_eq!(listed(&site, &bob).await.lines().count(), 1);
    let id = first_listed(&site, &alice).await;
    let (status, said) = shell(&site, &bob, &["--attach", &id]).ended().await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("no such shell"), "{said}");
    // Nor does a role that lets nobody onto nodes.
    let carol = site.user("carol", "shell");
    let (status, said) = shell(&site, &carol, &["--kind", "node"]).ended().await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("role admin"), "{said}");

    remove_binding(&site);
    let (status, said) = viewer.ended().await;
    assert_eq!(status, Some(1), "{said}");
    nothing_is_left(&mark).await;
    // Rule 15.
    was_revoked(&site, &id).await;
}

async fn rule_12_a_shell_survives_its_server_and_ends_with_its_viewers_permission(
    transport: Transport,
) {
    let site = Site::new(transport, POLICY).await;
    let alice = site.user("alice", "admin");
    let (mut viewer, mark) = stubborn(&site, &alice).await;
    let id = first_listed(&site, &alice).await;
    site.deployment
        .blocking(|underpass| {
            underpass.kill_server().unwrap();
            underpass.restart_server().unwrap();
        })
        .await;
    viewer.shows("connected again").await;
    viewer.press("echo still $kept\r");
    viewer.shows("still yes").await;
    // The server that has the permission now is not the one that opened the shell.
    remove_binding(&site);
    let (status, said) = viewer.ended().await;
    assert_eq!(status, Some(1), "{said}");
    nothing_is_left(&mark).await;
    was_revoked(&site, &id).await;
}

/// A shell with a process that would outlive its terminal, whose number is in the file.
async fn stubborn(site: &Site, token: &Path) -> (Terminal, PathBuf) {
    let mark = site.deployment.dir().join("pid");
    let mut viewer = shell(site, token, &["--kind", "node"]);
    viewer.shows("$ ").await;
    viewer.press(&format!(
        "trap '' HUP; kept=yes; setsid sleep 1000 & echo $! > {}; echo be\"\"gun\r",
        mark.display()
    ));
    viewer.shows("begun").await;
    (viewer, mark)
}

/// The id of the newest shell.
pub(crate) async fn first_listed(site: &Site, token: &Path) -> String {
    let list = listed(site, token).await;
    let row = list.lines().nth(1).expect("a shell");
    row.split_whitespace().next().unwrap().to_owned()
}

/// Takes alice's permission back.
fn remove_binding(site: &Site) {
    let bindings = site.administer(&["binding", "list"]);
    let mut bindings = bindings.lines();
    let binding = bindings.find(|line| line.contains("alice")).unwrap();
    let binding = binding.split_whitespace().next().unwrap();
    site.administer(&["binding", "remove", binding]);
}

/// Waits until the process is gone whose number is in a file.
async fn nothing_is_left(mark: &Path) {
    let marked = fs::read_to_string(mark).unwrap();
    eventually("nothing of the shell is left", async || {
        match Path::new(&format!("/proc/{}", marked.trim())).exists() {
            true => Err(marked.clone()),
            false => Ok(()),
        }
    })
    .await;
}

/// Waits for the event of a shell's end.
async fn was_revoked(site: &Site, id: &str) {
    let audit = site.deployment.dir().join("data/audit.log");
    eventually("the audit log has the end", async || {
        let log = fs::read_to_string(&audit).unwrap();
        let events = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let object = format!("shell/{id}");
        let mut outcomes = events
            .map(|event| event["annotations"].clone())
            .filter(|told| told["underpass.dev/object"] == object)
            .filter_map(|told| told["underpass.dev/outcome"].as_str().map(str::to_owned));
        match outcomes.any(|outcome| outcome == "revoked") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
}
