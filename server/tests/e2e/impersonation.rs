//! `kubectl --as` and its siblings, which the cluster decides about.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use underpass_testenv::Transport;
use underpass_testenv::testing::{Client, Wire, eventually, text};

use crate::audit::{AGENT, one_of_ours, one_of_theirs};
use crate::deployment::{CLUSTER, Deployment, agent_account};
use crate::flight::InFlight;
use crate::over_both_transports;

over_both_transports!(
    three_hundred_groups_list_pods,
    three_hundred_groups_of_somebody_else_list_pods,
    rule_16_allowed_and_refused_in_both_audits,
    every_part_is_the_clusters_to_allow,
    rule_12_acting_as_ends_with_the_callers_own_access,
);

const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// A ClusterRole of these rules, bound to one user or group.
pub(crate) fn bind(name: &str, kind: &str, subject: &str, rules: &Value) {
    let metadata = json!({ "name": name });
    let version = format!("{RBAC}/v1");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules },
        {
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": name },
            "subjects": [{ "apiGroup": RBAC, "kind": kind, "name": subject }],
        },
    ]});
    CLUSTER.apply(&list).unwrap();
}

/// Leave to impersonate what has these names, or any.
pub(crate) fn leave(group: &str, resource: &str, names: &[&str]) -> Value {
    json!({
        "apiGroups": [group], "resources": [resource], "verbs": ["impersonate"],
        "resourceNames": names,
    })
}

fn pods() -> Value {
    json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] }])
}

/// A name of this test's on this way.
fn name(deployment: &Deployment, name: &str) -> String {
    format!("{name}-{}", deployment.transport.as_str())
}

/// A copy of a kubeconfig whose user always acts as somebody else.
fn acting(kubeconfig: &Path, user: &str) -> PathBuf {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let token = text.find("token: ").unwrap();
    let (before, after) = text.split_at(token);
    let indentation = before.rsplit('\n').next().unwrap();
    let copy = kubeconfig.with_extension("acting");
    std::fs::write(&copy, format!("{before}as: {user}\n{indentation}{after}")).unwrap();
    copy
}

async fn whoami(client: &Client<'_>, flags: &[&str]) -> Value {
    let question = [&["auth", "whoami", "-o", "json"], flags].concat();
    let answer = client.run(&question).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["status"]["userInfo"].clone()
}

async fn three_hundred_groups_list_pods(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let user = name(deployment, "manifold");
    let groups: Vec<_> = (0..300)
        .map(|number| format!("cn=group {number},ou={user},dc=example,dc=org"))
        .collect();
    // The last one is who may.
    bind(&user, "Group", &groups[299], &pods());
    let groups: Vec<_> = groups.iter().map(String::as_str).collect();
    let kubeconfig = deployment.kubeconfig(&user, &groups).unwrap();
    for wire in [Wire::WebSocket, Wire::Spdy] {
        let client = deployment.client(&kubeconfig, wire);
        client.run(&["get", "pods", "--all-namespaces"]).await;
    }
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let who = whoami(&client, &[]).await;
    assert_eq!(who["groups"].as_array().unwrap().len(), 301);
    let few = deployment.kubeconfig(&format!("{user}-not"), &groups[..299]);
    let few = few.unwrap();
    let said = deployment
        .client(&few, Wire::WebSocket)
        .fail(&["get", "pods", "--all-namespaces"])
        .await;
    assert!(said.contains("cannot list resource \"pods\""), "{said}");
}

async fn three_hundred_groups_of_somebody_else_list_pods(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (user, other) = (name(deployment, "usher"), name(deployment, "guest"));
    let groups: Vec<_> = (0..300).map(|n| format!("{other}-group-{n}")).collect();
    let names: Vec<_> = groups.iter().map(String::as_str).collect();
    bind(&other, "Group", &groups[299], &pods());
    let rules = json!([
        leave("", "users", &[&other]),
        leave("", "groups", &names[1..]),
    ]);
    bind(&user, "User", &user, &rules);
    let kubeconfig = deployment.kubeconfig(&user, &[]).unwrap();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let list = async |groups: &[String]| {
        let flags = groups.iter().map(|group| format!("--as-group={group}"));
        let flags: Vec<_> = flags.chain([format!("--as={other}")]).collect();
        let flags = flags.iter().map(String::as_str);
        let words = ["get", "pods", "--all-namespaces"].into_iter();
        client.output(&words.chain(flags).collect::<Vec<_>>()).await
    };
    let listed = list(&groups[1..]).await;
    assert!(listed.status.success(), "{listed:?}");
    // All three hundred, of whom one is not hers to take.
    let refused = list(&groups).await;
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    let first = format!(
        "groups \"{}\" is forbidden: User \"{user}\" cannot impersonate",
        groups[0]
    );
    assert!(said.contains(&first), "{said}");
    bind(
        &user,
        "User",
        &user,
        &json!([leave("", "users", &[&other]), leave("", "groups", &names),]),
    );
    eventually("all of them are allowed", async || {
        let listed = list(&groups).await;
        listed.status.success().then_some(()).ok_or(listed)
    })
    .await;
}

async fn rule_16_allowed_and_refused_in_both_audits(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (user, other) = (name(deployment, "actor"), name(deployment, "role"));
    bind(
        &user,
        "User",
        &user,
        &json!([leave("", "users", &[&other])]),
    );
    bind(&other, "User", &other, &pods());
    let kubeconfig = deployment.kubeconfig(&user, &["troupe"]).unwrap();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let list = ["get", "pods", "--all-namespaces"];
    client.fail(&list).await;
    let acting = format!("--as={other}");
    client.run(&[&list[..], &[&acting]].concat()).await;
    let stranger = format!("{other}-stranger");
    let refused = format!("--as={stranger}");
    let said = client.fail(&[&list[..], &[&refused]].concat()).await;
    let expected = format!(
        "users \"{stranger}\" is forbidden: User \"{user}\" cannot impersonate resource \"users\" in \
         API group \"\" at the cluster scope"
    );
    assert!(said.contains(&expected), "{said}");

    let mine = |event: &Value, acts_as: &str| {
        event["user"]["username"] == user.as_str()
            && event["impersonatedUser"]["username"] == acts_as
            && event["stage"] == "ResponseComplete"
    };
    let mine_here = one_of_ours(deployment, |event| {
        mine(event, &other) && event["objectRef"]["resource"] == "pods"
    })
    .await;
    let theirs = one_of_theirs(&client, |event| event["auditID"] == mine_here["auditID"]).await;
    assert_eq!(mine_here["responseStatus"]["code"], 200);
    assert_eq!(mine_here["user"]["groups"], json!(["troupe"]));
    assert_eq!(theirs["user"]["username"], AGENT);
    assert_eq!(theirs["impersonatedUser"]["username"], other.as_str());
    // Not the caller's own groups.
    let groups = json!(["system:authenticated"]);
    assert_eq!(theirs["impersonatedUser"]["groups"], groups);
    let who = json!({ "underpass.dev/original-user": [user] });
    assert_eq!(theirs["impersonatedUser"]["extra"], who);
    assert_eq!(theirs["verb"], mine_here["verb"]);
    assert_eq!(theirs["objectRef"]["resource"], "pods");

    let refused = one_of_ours(deployment, |event| mine(event, &stranger)).await;
    assert_eq!(refused["responseStatus"]["code"], 403);
    let outcome = &refused["annotations"]["underpass.dev/outcome"];
    assert_eq!(outcome, "refused");
    // The API server was asked whether, and has seen nothing of the call itself.
    let reviews = client.audit_events(|event| {
        event["impersonatedUser"]["username"] == "underpass:access-reviewer"
            && event["objectRef"]["resource"] == "subjectaccessreviews"
    });
    assert!(!reviews.is_empty());
    let as_stranger = client.audit_events(|event| {
        event["impersonatedUser"]["username"] == stranger.as_str()
            || event["auditID"] == refused["auditID"]
    });
    assert_eq!(as_stranger, [Value::Null; 0]);
    let log = deployment.server_log().unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("underpass::audit") && line.contains(&stranger));
    assert!(line.unwrap().contains(&user), "{line:?}");
}

async fn every_part_is_the_clusters_to_allow(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (user, other) = (name(deployment, "whole"), name(deployment, "parts"));
    bind(
        &user,
        "User",
        &user,
        &json!([
            leave("", "users", &[&other]),
            leave("", "groups", &["crew"]),
            leave(AUTHENTICATION, "uids", &["7"]),
            leave(AUTHENTICATION, "userextras/example.org/team", &["ops"]),
        ]),
    );
    let kubeconfig = deployment.kubeconfig(&user, &[]).unwrap();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let acting = format!("--as={other}");
    let who = whoami(
        &client,
        &[
            &acting,
            "--as-group=crew",
            "--as-uid=7",
            "--as-user-extra=example.org/team=ops",
        ],
    )
    .await;
    assert_eq!(who["username"], other.as_str());
    assert_eq!(who["uid"], "7");
    assert_eq!(who["groups"], json!(["crew", "system:authenticated"]));
    let extra = json!({
        "example.org/team": ["ops"], "underpass.dev/original-user": [user],
    });
    assert_eq!(who["extra"], extra);
    for (flag, wanted) in [
        ("--as-group=captains", "groups \"captains\" is forbidden"),
        (
            "--as-uid=8",
            "uids.authentication.k8s.io \"8\" is forbidden",
        ),
        (
            "--as-user-extra=example.org/team=all",
            "userextras.authentication.k8s.io \"all\" is forbidden",
        ),
        (
            "--as-user-extra=example.org/else=ops",
            "resource \"userextras/example.org/else\"",
        ),
        // Rule 17, even if the cluster would allow it.
        (
            "--as-group=system:masters",
            "group \"system:masters\" may not be impersonated",
        ),
        (
            "--as-user-extra=underpass.dev/original-user=eve",
            "this Impersonate-Extra key is reserved",
        ),
    ] {
        let said = client
            .fail(&["get", "--raw", "/version", &acting, flag])
            .await;
        assert!(said.contains(wanted), "{flag}: {said}");
    }
}

async fn rule_12_acting_as_ends_with_the_callers_own_access(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let (user, other) = (name(deployment, "leaving-actor"), name(deployment, "part"));
    bind(
        &user,
        "User",
        &user,
        &json!([leave("", "users", &[&other])]),
    );
    let everything = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    bind(&other, "User", &other, &everything);
    let kubeconfig = acting(&deployment.kubeconfig(&user, &[]).unwrap(), &other);
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let open = [
        InFlight::watch(&client).await,
        InFlight::shell(&client, "acting-shell").await,
    ];
    let revoke = ["user", "remove", &user];
    deployment.administer(&revoke).unwrap();
    let ending = async {
        for open in open {
            open.ended().await.assert_error();
        }
    };
    let soon = Duration::from_secs(5);
    tokio::time::timeout(soon, ending)
        .await
        .expect("everything ends soon");
}

#[tokio::test]
async fn rule_12_a_right_taken_away_in_the_cluster_ends_what_was_opened_with_it() {
    let deployment = Deployment::shared(Transport::Quic);
    let (user, other) = ("passing-actor", "passing-part");
    bind(user, "User", user, &json!([leave("", "users", &[other])]));
    let namespaces = json!([{
        "apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"],
    }]);
    bind(other, "User", other, &namespaces);
    let own = deployment.kubeconfig(user, &[]).unwrap();
    let kubeconfig = acting(&own, other);
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let watch = InFlight::watch(&client).await;
    CLUSTER
        .run_kubectl(&["delete", "clusterrolebinding", user])
        .unwrap();
    // Within the time that docs/IMPERSONATION.md states, which is less than a test's deadline.
    watch.ended().await.assert_error();
    let said = client.fail(&["get", "namespaces"]).await;
    assert!(said.contains("cannot impersonate"), "{said}");
}

#[tokio::test]
async fn service_accounts_are_allowed_by_the_cluster_and_by_its_agent() {
    accounts_of("classic-accounts", &[]).await;
}

#[tokio::test]
async fn service_accounts_are_allowed_beside_constrained_impersonation() {
    accounts_of("constrained-accounts", &["--constrained"]).await;
}

async fn accounts_of(namespace: &str, form: &[&str]) {
    let deployment = Deployment::start(Transport::Quic).await;
    let account = format!("system:serviceaccount:{namespace}:default");
    CLUSTER
        .run_kubectl(&["create", "namespace", namespace])
        .unwrap();
    let client = deployment.admin(Wire::WebSocket);
    let acting = format!("--as={account}");
    let version = ["get", "--raw", "/version", &acting];
    // The administrator may, by the cluster's RBAC; the agent has not been told of the namespace.
    let said = client.fail(&version).await;
    let refused = format!("user \"{account}\" may not be impersonated in this cluster");
    assert!(said.contains(&refused), "{said}");
    let allow = ["--allow-service-accounts", namespace];
    let agent = format!("underpass-{namespace}");
    let agent = agent_account(&agent, &[&allow, form].concat());
    deployment.stop_agent().unwrap();
    let flags = [
        ("--kubeconfig", agent.to_str().unwrap()),
        ("--allow-service-accounts", namespace),
    ];
    deployment
        .spawn_another_agent("accounts", Transport::Quic, &flags)
        .unwrap();
    let who = eventually("the other agent serves", async || {
        let answer = client
            .output(&["auth", "whoami", "-o", "json", &acting])
            .await;
        serde_json::from_slice::<Value>(&answer.stdout).map_err(|_| answer)
    })
    .await;
    let who = &who["status"]["userInfo"];
    assert_eq!(who["username"], account.as_str());
    let groups = [
        "system:serviceaccounts",
        &format!("system:serviceaccounts:{namespace}"),
        "system:authenticated",
    ];
    assert_eq!(who["groups"], json!(groups));
    // One of another namespace is refused by the agent, before the API server can.
    let other = "--as=system:serviceaccount:kube-system:default";
    let said = client.fail(&["get", "--raw", "/version", other]).await;
    assert!(
        said.contains("may not be impersonated in this cluster"),
        "{said}"
    );
}
