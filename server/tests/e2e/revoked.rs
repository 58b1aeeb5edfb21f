//! Rule 12: a revocation ends dependent streams, within seconds.

use std::path::{Path, PathBuf};

use underpass_testenv::testing::Wire;
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::Deployment;
use crate::flight::{InFlight, assert_end_soon};
use crate::over_both_transports;

over_both_transports!(
    rule_12_revoking_a_token_ends_what_it_has_open,
    rule_12_removing_a_user_ends_what_they_have_open,
    rule_12_removing_a_cluster_ends_what_is_open_to_it,
);

/// A user who may do everything in the cluster, by a binding of their own.
async fn user(deployment: &Deployment, name: &str) -> (String, PathBuf) {
    let name = format!("{name}-{}", deployment.transport.as_str());
    let binding = ["--clusterrole=cluster-admin", &format!("--user={name}")];
    let bind = [&["create", "clusterrolebinding", &name][..], &binding].concat();
    deployment.admin(Wire::WebSocket).run(&bind).await;
    let kubeconfig = deployment.kubeconfig(&name, &[]).unwrap();
    (name, kubeconfig)
}

/// The user's open streams end soon after `revoke`, while another's go on.
async fn assert_ends(deployment: &Deployment, kubeconfig: &Path, test: &str, revoke: &[&str]) {
    let client = deployment.client(kubeconfig, Wire::WebSocket);
    let open = [
        InFlight::logs(&client, test).await,
        InFlight::watch(&client).await,
        InFlight::shell(&client, &format!("{test}-shell")).await,
    ];
    deployment.administer(revoke).unwrap();
    assert_end_soon(open).await;
}

async fn rule_12_revoking_a_token_ends_what_it_has_open(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (name, kubeconfig) = user(deployment, "token-loser").await;
    let other = InFlight::watch(&deployment.admin(Wire::WebSocket)).await;
    let list = deployment
        .administer(&["token", "list", "--user", &name])
        .unwrap();
    let id = list
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    assert_ends(
        deployment,
        &kubeconfig,
        "revoked",
        &["token", "revoke", &id],
    )
    .await;
    assert!(other.goes_on(), "somebody else's watch has ended");
}

async fn rule_12_removing_a_user_ends_what_they_have_open(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (name, kubeconfig) = user(deployment, "leaver").await;
    let other = InFlight::watch(&deployment.admin(Wire::WebSocket)).await;
    assert_ends(
        deployment,
        &kubeconfig,
        "removed",
        &["user", "remove", &name],
    )
    .await;
    assert!(other.goes_on(), "somebody else's watch has ended");
}

async fn rule_12_removing_a_cluster_ends_what_is_open_to_it(transport: Transport) {
    let deployment = Deployment::start(transport).await;
    let admin = deployment.admin_kubeconfig().to_owned();
    let remove = ["cluster", "remove", CLUSTER_NAME];
    assert_ends(&deployment, &admin, "cluster-gone", &remove).await;
    // The agent is cut off too, and says what to do about it.
    underpass_testenv::testing::eventually("the agent's log", async || {
        let log = deployment.agent_log().unwrap();
        let told = log
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("token"));
        if told { Ok(()) } else { Err(log) }
    })
    .await;
}
