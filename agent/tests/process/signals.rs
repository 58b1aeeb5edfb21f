//! Signals, and the limit of open files.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Agent, write_token};

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
