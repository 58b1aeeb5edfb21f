//! Agents that do not get in: their own log says what to do, the server's says why.

use std::path::{Path, PathBuf};

use underpass_testenv::testing::{Wire, eventually};
use underpass_testenv::{Transport, Underpass};

use crate::deployment::{CLUSTER, Deployment, agent_token};
use crate::over_both_transports;

over_both_transports!(
    a_token_that_the_server_does_not_know,
    rule_10_a_ca_that_did_not_sign_the_server,
    a_server_that_is_something_else,
);

/// An agent's token from somebody else's server.
async fn foreign_token(underpass: &Underpass) -> PathBuf {
    let path = underpass.dir().join("foreign.token");
    std::fs::write(&path, agent_token().as_bytes()).unwrap();
    path
}

async fn says(log: &Path, wanted: &[&str]) {
    eventually(&format!("{wanted:?} in the log"), async || {
        let text = std::fs::read_to_string(log).unwrap();
        let line = text
            .lines()
            .find(|line| wanted.iter().all(|word| line.contains(word)));
        line.map(drop).ok_or(text.clone())
    })
    .await;
}

/// Another agent does its work meanwhile.
async fn assert_undisturbed(deployment: &Deployment) {
    deployment
        .admin(Wire::WebSocket)
        .run(&["get", "--raw", "/version"])
        .await;
}

async fn a_token_that_the_server_does_not_know(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let token = foreign_token(deployment).await;
    let secret = std::fs::read_to_string(&token).unwrap();
    let flags = [("--token-file", token.to_str().unwrap())];
    let log = deployment
        .spawn_another_agent("stranger", transport, &flags)
        .unwrap();
    says(&log, &["ERROR", "underpass cluster add", "trying again"]).await;
    eventually("the server's log says why", async || {
        let log = deployment.server_log().unwrap();
        let told = log.lines().any(|line| {
            line.contains("WARN")
                && line.contains("no session")
                && line.contains("remote=127.0.0.1")
        });
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    let logs = deployment.server_log().unwrap() + &std::fs::read_to_string(&log).unwrap();
    assert!(!logs.contains(secret.trim()), "a token in a log");
    assert_undisturbed(deployment).await;
}

async fn rule_10_a_ca_that_did_not_sign_the_server(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let ca = deployment.dir().join("other-ca.pem");
    std::fs::write(&ca, CLUSTER.ca_pem()).unwrap();
    let flags = [("--ca-file", ca.to_str().unwrap())];
    let log = deployment
        .spawn_another_agent("distrustful", transport, &flags)
        .unwrap();
    says(
        &log,
        &[
            "ERROR",
            "a certificate that the pinned CA did not sign",
            "give --ca-file",
        ],
    )
    .await;
    assert_undisturbed(deployment).await;
}

async fn a_server_that_is_something_else(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let ca = deployment.dir().join("api-ca.pem");
    std::fs::write(&ca, CLUSTER.ca_pem()).unwrap();
    let flags = [
        ("--server", CLUSTER.api_server_url()),
        ("--ca-file", ca.to_str().unwrap()),
    ];
    let log = deployment
        .spawn_another_agent("lost", transport, &flags)
        .unwrap();
    // Nobody listens on UDP there, which takes as long as a handshake may.
    says(&log, &["cannot reach the server", "trying again"]).await;
}
