//! Agents whose records of operations cannot be used.

use std::fs;

use crate::harness::Agent;

#[test]
fn an_agent_whose_records_cannot_be_used_serves_all_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state"), "no folder").unwrap();
    let flags = [&Agent::away()[..], &["--state-dir", "state"]].concat();
    let mut agent = Agent::start_in(folder, &flags);
    agent.logs("this agent runs no operations");
    agent.logs("trying again");
}

#[test]
fn an_agent_whose_records_are_anothers_does_not_start() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let flags = [&Agent::away()[..], &["--state-dir", state]].concat();
    let start = || Agent::start_in(tempfile::tempdir().unwrap(), &flags);
    let mut first = start();
    first.logs("trying again");
    let mut second = start();
    assert!(!second.ended().success());
    assert!(second.log().contains("another agent's"), "{}", second.log());
}
