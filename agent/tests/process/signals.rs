//! Signals, and the limit of open files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::harness::{Agent, key, write_token};
use crate::server::{Server, within};

#[test]
fn signals_that_ask_for_files_to_be_read_end_no_agent() {
    let mut agent = Agent::start();
    agent.logs("trying again");
    for (signal, name) in [
        (Signal::HUP, "signal=\"SIGHUP\""),
        (Signal::USR1, "signal=\"SIGUSR1\""),
        (Signal::USR2, "signal=\"SIGUSR2\""),
    ] {
        agent.signal(signal);
        agent.logs(name);
    }
    assert!(!agent.log().contains("connecting anew"), "the same token");
    fs::write(agent.folder.path().join("token"), "damaged").unwrap();
    agent.signal(Signal::HUP);
    agent.logs("keeping the connection to the server as it was");
    fs::write(agent.folder.path().join("kubeconfig"), "clusters: 7").unwrap();
    agent.signal(Signal::HUP);
    agent.logs("keeping the API server as it was");
    write_token(agent.folder.path(), 2);
    agent.signal(Signal::HUP);
    agent.logs("connecting anew");
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

/// Make before break: a wrong CA costs nothing, and a right one no moment without a session.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_another_ca_connects_before_it_leaves() {
    let (server, other) = (Server::start(), Server::start());
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &server.ca_pem).unwrap();
    let connect = ["--server", &server.url, "--ca-file", "ca.pem"];
    let flags = [&connect[..], &["--transport", "quic"]].concat();
    let mut agent = Agent::start_in(folder, &flags);
    let first = server.session().await;
    fs::write(&ca, &other.ca_pem).unwrap();
    agent.signal(Signal::HUP);
    agent.logs("none can be made with the files as they are now");
    assert!(first.is_open(), "{}", agent.log());
    fs::write(&ca, format!("{}{}", other.ca_pem, server.ca_pem)).unwrap();
    agent.signal(Signal::HUP);
    within(async {
        while server.now().expect("one is there").is_same(&first) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    within(first.closed()).await;
    assert!(server.now().is_some());
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

/// A key that cannot join holds up no later signal, though the join is tried for ever.
#[tokio::test(flavor = "multi_thread")]
async fn another_signal_begins_the_replacement_of_the_key_anew() {
    let (server, other) = (Server::start(), Server::start());
    let folder = tempfile::tempdir().unwrap();
    let [path, ca] = ["agent.key", "ca.pem"].map(|name| folder.path().join(name));
    let write_key = |seed| fs::write(&path, key(seed).to_secret_text().as_str()).unwrap();
    write_key(1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&ca, &server.ca_pem).unwrap();
    fs::write(folder.path().join("join"), "no join token").unwrap();
    let own = ["--key-file", "agent.key", "--join-token-file", "join"];
    let connect = ["--server", &server.url, "--ca-file", "ca.pem"];
    let flags = [&connect[..], &["--transport", "quic"]].concat();
    let mut agent = Agent::start_with(folder, &own, &flags);
    let first = server.session().await;
    write_key(2);
    agent.signal(Signal::HUP);
    agent.logs("cannot join");
    assert!(first.is_open(), "{}", agent.log());
    write_key(1);
    fs::write(&ca, format!("{}{}", other.ca_pem, server.ca_pem)).unwrap();
    agent.signal(Signal::HUP);
    within(first.closed()).await;
    assert!(server.now().is_some(), "{}", agent.log());
    agent.signal(Signal::TERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

#[test]
fn the_soft_limit_of_open_files_is_none() {
    let mut agent = Agent::start();
    agent.logs("trying again");
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = files.unwrap().split_whitespace().skip(3);
    assert_eq!(numbers.next(), numbers.next(), "{limits}");
}

#[test]
fn rule_17_descriptors_of_the_agents_parent_are_closed() {
    let mut agent = Agent::start();
    agent.logs("trying again");
    let files = fs::read_dir(format!("/proc/{}/fd", agent.child.id())).unwrap();
    let files: Vec<_> = files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .collect();
    assert!(!files.is_empty());
    assert!(!files.contains(&"/etc/passwd".into()), "{files:?}");
}
