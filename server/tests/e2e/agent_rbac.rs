//! The output of `underpass-agent rbac`, in a real API server. Every other test runs with its defaults.

use std::path::Path;

use serde_json::{Value, json};
use underpass_testenv::Transport;
use underpass_testenv::testing::{Client, Wire, eventually, spawn};

use crate::audit::{one_of_ours, one_of_theirs};
use crate::deployment::{ADMIN, CLUSTER, Deployment, agent_account};
use crate::impersonation::{bind, leave};

fn direct(kubeconfig: &Path) -> Client<'_> {
    Client::new(&CLUSTER, kubeconfig, "agent", Wire::WebSocket)
}

fn account(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:underpass-agent")
}

/// The account may impersonate, and what everybody may: ask who it is and what it may.
async fn assert_impersonates_only(agent: &Path) {
    let client = direct(agent);
    let list = client.run(&["auth", "can-i", "--list"]).await;
    for line in list.lines().skip(1) {
        let common = line.starts_with("selfsubject") && line.ends_with("[create]");
        // Paths, like /healthz and /api.
        let path = line.trim_start().starts_with('[') && line.ends_with("[get]");
        let verbs = line.rsplit_once('[').unwrap().1.trim_end_matches(']');
        let impersonates = verbs
            .split_whitespace()
            .all(|verb| verb.starts_with("impersonate"));
        assert!(common || path || impersonates, "{line:?} in\n{list}");
    }
    for (verb, resource) in [
        ("get", "pods"),
        ("list", "secrets"),
        ("create", "pods"),
        ("create", "tokenreviews.authentication.k8s.io"),
        ("create", "subjectaccessreviews.authorization.k8s.io"),
        ("create", "serviceaccounts/token"),
        ("bind", "clusterroles.rbac.authorization.k8s.io"),
        ("escalate", "clusterroles.rbac.authorization.k8s.io"),
        ("impersonate", "serviceaccounts"),
        ("approve", "certificatesigningrequests.certificates.k8s.io"),
    ] {
        let ask = ["auth", "can-i", verb, resource, "--all-namespaces"];
        let answer = client.output(&ask).await;
        assert!(!answer.status.success(), "{verb} {resource}: {answer:?}");
    }
    client.fail(&["get", "pods"]).await;
    client.fail(&["get", "secrets", "--all-namespaces"]).await;
    client.fail(&["create", "configmap", "x"]).await;
}

/// A user with a role lists pods and has a shell.
async fn assert_serves(deployment: &Deployment) {
    let client = deployment.admin(Wire::WebSocket);
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = deployment.admin(wire);
        let pod = client.target("manifests").await;
        client.run(&["get", "pods"]).await;
        let mut exec = spawn(&mut client.exec(&pod, &[], &["true"]));
        assert!(exec.wait().await.unwrap().success());
        client.run(&["logs", &pod]).await;
    }
    client.run(&["get", "--raw", "/version"]).await;
    client
        .run(&["label", "namespace", "default", "--overwrite", "x=y"])
        .await;
}

#[tokio::test]
async fn the_agents_account_impersonates_and_does_nothing_else() {
    let agent = agent_account("underpass-plain", &[]);
    let deployment = Deployment::start_as(Transport::WebSocket, agent.clone()).await;
    assert_serves(&deployment).await;
    assert_impersonates_only(&agent).await;
    // RBAC cannot keep it from this. Its own policy does: see `rule_17_system_masters_is_refused`.
    let node = ["get", "--raw", "/version", "--as=system:node:node"];
    direct(&agent).run(&node).await;
    let account = "--as=system:serviceaccount:kube-system:default";
    let said = direct(&agent)
        .fail(&["get", "--raw", "/version", account])
        .await;
    assert!(
        said.contains("cannot impersonate resource \"serviceaccounts\""),
        "{said}"
    );
}

#[tokio::test]
async fn rule_17_constrained_the_api_server_refuses_nodes_and_accounts() {
    let agent = agent_account("underpass-constrained", &["--constrained"]);
    let deployment = Deployment::start_as(Transport::Quic, agent.clone()).await;
    assert_serves(&deployment).await;
    assert_impersonates_only(&agent).await;
    let client = direct(&agent);
    client.run(&["auth", "whoami", "--as=somebody"]).await;
    for (flags, wanted) in [
        (
            &["--as=system:node:node"][..],
            "impersonate-on:arbitrary-node:get",
        ),
        (
            &["--as=system:serviceaccount:kube-system:default"],
            "impersonate-on:serviceaccount:get",
        ),
        (
            &["--as=somebody", "--as-group=system:masters"],
            "impersonating the system:masters group is not allowed",
        ),
        (
            &["--as=system:node:node", "--as-group=system:nodes"],
            "users \"system:node:node\" is forbidden",
        ),
    ] {
        let version = ["get", "--raw", "/version"];
        let said = client.fail(&[&version, flags].concat()).await;
        assert!(
            said.contains("(Forbidden)") && said.contains(wanted),
            "{flags:?}: {said}"
        );
    }

    // One thing is different for users: an extra's key needs a domain. It is kube-apiserver that says so.
    let extra = ["--as=somebody", "--as-user-extra=team=ops"];
    let said = deployment
        .admin(Wire::WebSocket)
        .fail(&[&["get", "--raw", "/version"][..], &extra].concat())
        .await;
    assert!(said.contains("must be a domain-prefixed path"), "{said}");

    // Nothing else is: acting as somebody else, groups by the hundred, both audits.
    let (user, other) = ("constrained-actor", "constrained-part");
    let groups: Vec<_> = (0..300).map(|n| format!("constrained-{n}")).collect();
    let groups: Vec<_> = groups.iter().map(String::as_str).collect();
    bind(
        user,
        "Group",
        groups[299],
        &json!([leave("", "users", &[other])]),
    );
    let kubeconfig = deployment.kubeconfig(user, &groups).unwrap();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let acting = format!("--as={other}");
    client.run(&["get", "--raw", "/version"]).await;
    client.run(&["get", "--raw", "/version", &acting]).await;
    let here = one_of_ours(&deployment, |event| {
        event["impersonatedUser"]["username"] == other
    })
    .await;
    let there = one_of_theirs(&client, |event| event["auditID"] == here["auditID"]).await;
    assert_eq!(here["user"]["username"], user);
    assert_eq!(there["user"]["username"], account("underpass-constrained"));
    let constraint = &there["authenticationMetadata"]["impersonationConstraint"];
    assert_eq!(constraint, "impersonate:user-info");
    let who = json!({ "underpass.dev/original-user": [user] });
    assert_eq!(there["impersonatedUser"]["extra"], who);
    assert_eq!(there["impersonatedUser"]["username"], other);
}

/// By both forms. Without a reviewer nobody acts as anybody, even if their own role allows it.
#[tokio::test]
async fn users_and_groups_that_are_not_listed_are_refused_by_the_api_server() {
    for (namespace, form) in [
        ("underpass-narrow", None),
        ("underpass-narrow-constrained", Some("--constrained")),
    ] {
        let listed = [
            &["--users", ADMIN, "narrow-guest", "--groups", "narrow-group"][..],
            &["--no-access-reviewer"],
        ]
        .concat();
        let flags: Vec<_> = listed.into_iter().chain(form).collect();
        let agent = agent_account(namespace, &flags);
        let deployment = Deployment::start_as(Transport::Quic, agent).await;
        let version = ["get", "--raw", "/version"];
        let admin = deployment.admin(Wire::WebSocket);
        admin.run(&version).await;
        for (user, group, wanted) in [
            ("narrow-guest", "narrow-group", None),
            ("narrow-guest", "other-group", Some("\"other-group\"")),
            (
                "narrow-stranger",
                "narrow-group",
                Some("\"narrow-stranger\""),
            ),
        ] {
            // A user has the groups of its kubeconfig before, too.
            let _ = deployment.administer(&["user", "remove", user]);
            let kubeconfig = deployment.kubeconfig(user, &[group]).unwrap();
            let client = deployment.client(&kubeconfig, Wire::WebSocket);
            match wanted {
                None => drop(client.run(&version).await),
                Some(wanted) => {
                    let said = client.fail(&version).await;
                    let who = format!("User \"{}\" cannot impersonate", account(namespace));
                    assert!(said.contains(wanted) && said.contains(&who), "{said}");
                }
            }
        }
        let said = admin
            .fail(&["get", "--raw", "/version", "--as=narrow-guest"])
            .await;
        let wanted = "the cluster does not let Underpass ask whether you may";
        assert!(said.contains(wanted), "{said}");
        let told = "does not let user underpass:access-reviewer create \
                    subjectaccessreviews.authorization.k8s.io";
        deployment.logged(told).await;
        let refused = one_of_ours(&deployment, |event| {
            event["impersonatedUser"]["username"] == "narrow-guest"
        })
        .await;
        assert_eq!(refused["user"]["username"], ADMIN, "{refused:?}");
        assert_ne!(refused["responseStatus"]["code"], Value::from(200));
    }
}

#[tokio::test]
async fn rule_17_an_operator_names_more_that_are_never_impersonated() {
    let deployment = Deployment::start(Transport::Quic).await;
    deployment.stop_agent().unwrap();
    let flags = [("--deny-user", "root"), ("--deny-group", "wheel")];
    deployment
        .spawn_another_agent("denying", Transport::Quic, &flags)
        .unwrap();
    let admin = deployment.admin(Wire::WebSocket);
    let version = ["get", "--raw", "/version"];
    eventually("the other agent serves", async || {
        let answer = admin.output(&version).await;
        answer.status.success().then_some(()).ok_or(answer)
    })
    .await;
    for (user, groups, what) in [
        ("root", &[][..], "user \"root\""),
        ("carol", &["staff", "wheel"], "group \"wheel\""),
    ] {
        let kubeconfig = deployment.kubeconfig(user, groups).unwrap();
        let client = deployment.client(&kubeconfig, Wire::WebSocket);
        let said = client.fail(&version).await;
        let wanted = format!("{what} may not be impersonated in this cluster");
        assert!(said.contains(&wanted), "{said}");
    }
}
