//! Users of different rights: each may do in the cluster exactly what its RBAC says.

use std::path::PathBuf;

use serde_json::{Value, json};
use underpass_testenv::testing::{Client, Wire, text};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{CLUSTER, Deployment};
use crate::over_both_transports;

over_both_transports!(
    each_user_may_do_what_rbac_says,
    whoami_is_the_user_and_its_groups,
    rule_17_system_masters_is_refused,
    rule_5_a_right_in_the_cluster_opens_no_other_cluster,
);

/// A namespace in which a subject may do some things with ConfigMaps.
fn rights(namespace: &str, verbs: &[&str], subject: (&str, &str)) -> Value {
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let metadata = json!({ "name": "rights", "namespace": namespace });
    let rule = json!({ "apiGroups": [""], "resources": ["configmaps"], "verbs": verbs });
    let subject = json!({ "apiGroup": group, "kind": subject.0, "name": subject.1 });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } },
        { "apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule] },
        {
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "rights" },
            "subjects": [subject],
        },
    ]})
}

struct Two {
    reader: PathBuf,
    reader_name: String,
    writer: PathBuf,
    writer_name: String,
    reads: String,
    writes: String,
}

/// A reader who is bound by name, and a writer who is bound by a group.
fn two_users(deployment: &Deployment) -> Two {
    let way = deployment.transport.as_str();
    let (reads, writes) = (format!("reads-{way}"), format!("writes-{way}"));
    let (reader_name, writer_name) = (format!("reader-{way}"), format!("writer-{way}"));
    let group = format!("writers of {way}");
    let reader = rights(&reads, &["get", "list"], ("User", &reader_name));
    CLUSTER.apply(&reader).unwrap();
    let writer = rights(&writes, &["*"], ("Group", &group));
    CLUSTER.apply(&writer).unwrap();
    Two {
        reader: deployment.kubeconfig(&reader_name, &[]).unwrap(),
        reader_name,
        writer: deployment.kubeconfig(&writer_name, &[&group]).unwrap(),
        writer_name,
        reads,
        writes,
    }
}

async fn each_user_may_do_what_rbac_says(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let two = two_users(deployment);
    let reader = deployment.client(&two.reader, Wire::WebSocket);
    let writer = deployment.client(&two.writer, Wire::WebSocket);
    let (reads, writes) = (two.reads.as_str(), two.writes.as_str());
    for (client, user, verb, namespace, allowed) in [
        (&reader, &two.reader_name, "list", reads, true),
        (&reader, &two.reader_name, "create", reads, false),
        (&reader, &two.reader_name, "list", writes, false),
        (&reader, &two.reader_name, "create", writes, false),
        (&writer, &two.writer_name, "list", reads, false),
        (&writer, &two.writer_name, "create", reads, false),
        (&writer, &two.writer_name, "create", writes, true),
        (&writer, &two.writer_name, "list", writes, true),
    ] {
        let question = ["auth", "can-i", verb, "configmaps", "-n", namespace];
        let answer = client.output(&question).await;
        assert_eq!(answer.status.success(), allowed, "{question:?}: {answer:?}");
        let list = ["get", "configmaps", "-n", namespace];
        let create = ["create", "configmap", "made", "-n", namespace];
        let call = if verb == "list" { &list[..] } else { &create };
        let done = client.output(call).await;
        assert_eq!(done.status.success(), allowed, "{user}, {call:?}: {done:?}");
        // In the API server's words: it was the API server that decided.
        let refused = format!("configmaps is forbidden: User \"{user}\" cannot {verb}");
        let said = text(&done.stderr);
        assert!(allowed || said.contains(&refused), "{said}");
    }
}

async fn whoami_is_the_user_and_its_groups(transport: Transport) {
    let deployment = Deployment::shared(transport);
    // The directory gives groups in the order of their names.
    let groups = ["a:b", "developers", "on call", "ünïcode"];
    let kubeconfig = deployment.kubeconfig("zoë@example.com", &groups).unwrap();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let answer = client.run(&["auth", "whoami", "-o", "json"]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "zoë@example.com");
    let all = [&groups[..], &["system:authenticated"]].concat();
    assert_eq!(user["groups"], json!(all));
    // The same question, straight to the API server with a certificate for the same user, is answered the same.
    let direct = CLUSTER.kubeconfig_for("zoë@example.com", &groups).unwrap();
    let direct = Client::new(&CLUSTER, &direct, "direct", Wire::WebSocket);
    let list = ["auth", "can-i", "--list"];
    assert_eq!(client.run(&list).await, direct.run(&list).await);
}

async fn rule_17_system_masters_is_refused(transport: Transport) {
    let deployment = Deployment::shared(transport);
    let kubeconfig = deployment
        .kubeconfig("mallory", &["system:masters"])
        .unwrap();
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let said = client.fail(&["get", "secrets"]).await;
    assert!(said.contains("(Forbidden)"), "{said}");
    assert!(
        said.contains("group \"system:masters\" may not be impersonated"),
        "{said}"
    );
}

async fn rule_5_a_right_in_the_cluster_opens_no_other_cluster(transport: Transport) {
    let deployment = Deployment::shared(transport);
    deployment.administer(&["cluster", "add", "other"]).unwrap();
    let admin = deployment.admin_kubeconfig();
    let kubeconfig = crate::deployment::led_to(admin, "other-cluster", CLUSTER_NAME, "other");
    let client = deployment.client(&kubeconfig, Wire::WebSocket);
    let said = client.fail(&["get", "secrets"]).await;
    let refused = "clusters.underpass.dev \"other\" is forbidden: User \"e2e-admin\" cannot";
    assert!(
        said.contains("(Forbidden)") && said.contains(refused),
        "{said}"
    );
}
