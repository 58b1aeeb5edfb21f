//! Pods that join by a ServiceAccount.

use underpass_core::NodeName;
use underpass_core::service_account::Account;

use super::*;

const NODES: &str = "agents/node";

fn account() -> Account {
    NODES.parse().unwrap()
}

/// A directory in which pods of the account join `prod` as nodes.
async fn with_account() -> Arc<Directory> {
    let directory = world().await;
    let name = |draft: &mut Draft| {
        let mut prod = Cluster::clone(&draft.get("prod").unwrap().object);
        prod.join_accounts.insert(account(), AgentRole::Node);
        draft.put("prod", prod, Expect::Present)
    };
    directory.change(name).await.unwrap();
    directory
}

#[tokio::test]
async fn rule_17_a_node_by_the_clusters_word_takes_its_name_from_who_only_says_so() {
    let directory = with_account().await;
    let node: NodeName = "worker-9".parse().unwrap();
    let mut draft = Draft::new(directory.snapshot(), OffsetDateTime::now_utc());
    let impostor = Agent {
        role: AgentRole::Node,
        node: Some(node.clone()),
        ..Agent::new(draft.now(), cluster("prod"), "impostor".to_owned())
    };
    draft.put("a", impostor, Expect::Absent).unwrap();
    let (prod, account) = (cluster("prod"), account());
    let joining = PodJoining {
        cluster: &prod,
        account: &account,
        uid: "uid",
        node: Some(&node),
        labels: None,
        key: "pods",
        role: None,
    };
    let joined = draft.register_pod(&joining, |_| true).unwrap();
    let named: Vec<_> = draft
        .all::<Agent>()
        .iter()
        .filter(|(_, entry)| entry.object.node.as_ref() == Some(&node))
        .map(|(id, _)| id.clone())
        .collect();
    assert_eq!(named, [joined.agent]);
    assert!(draft.all::<Agent>()["a"].object.node.is_none());
}

#[tokio::test]
async fn rule_23_nodes_that_are_gone_do_not_fill_a_cluster() {
    let directory = with_account().await;
    let mut draft = Draft::new(directory.snapshot(), OffsetDateTime::now_utc());
    let agents = (0..limits::AGENTS_PER_CLUSTER).map(|number| {
        let agent = Agent {
            created: draft.now() + time::Duration::seconds(i64::try_from(number).unwrap()),
            role: AgentRole::Node,
            pod: Some(JoinedPod {
                account: account(),
                uid: number.to_string(),
            }),
            node: Some(format!("n{number}").parse().unwrap()),
            ..Agent::new(draft.now(), cluster("prod"), format!("k{number}"))
        };
        let entry = Entry {
            revision: Revision(1),
            object: Arc::new(agent),
        };
        (format!("a{number}"), entry)
    });
    let agents = snapshot::Table::from_iter(agents);
    *draft.table_mut() = agents;
    let (prod, account) = (cluster("prod"), account());
    let node: NodeName = "new".parse().unwrap();
    let joining = |key: &'static str| PodJoining {
        cluster: &prod,
        account: &account,
        uid: key,
        node: Some(&node),
        labels: None,
        key,
        role: None,
    };
    // The two oldest are connected.
    let is_connected = |id: &str| matches!(id, "a0" | "a1");
    let joined = draft.register_pod(&joining("new"), is_connected).unwrap();
    assert!(joined.is_new);
    let left = draft.all::<Agent>();
    assert_eq!(left.len(), limits::AGENTS_PER_CLUSTER);
    assert!(left.contains_key("a1") && !left.contains_key("a2") && left.contains_key("a3"));
    let refused = draft.register_pod(&joining("another"), |_| true);
    assert!(matches!(
        refused,
        Err(PodJoinError::Change(ChangeError::TooMany(
            ObjectKind::Agent
        )))
    ));
}

#[tokio::test]
async fn a_join_that_changes_nothing_is_known_without_a_change() {
    let directory = with_account().await;
    let (prod, account) = (cluster("prod"), account());
    let node: NodeName = "n".parse().unwrap();
    let joining = PodJoining {
        cluster: &prod,
        account: &account,
        uid: "u",
        node: Some(&node),
        labels: None,
        key: "k",
        role: None,
    };
    let before = || directory.snapshot().pod_joined_before(&joining).unwrap();
    assert_eq!(before(), None);
    let register = |draft: &mut Draft| draft.register_pod(&joining, |_| false);
    let joined = directory
        .change::<_, PodJoinError>(register)
        .await
        .unwrap()
        .value;
    let again = PodJoined {
        is_new: false,
        ..joined
    };
    assert_eq!(before(), Some(again));
    // A key that moves to another pod is a change.
    let moved = PodJoining {
        uid: "v",
        ..joining
    };
    let moves = directory.snapshot().pod_joined_before(&moved);
    assert_eq!(moves.unwrap(), None);
    let wrong = PodJoining {
        role: Some(AgentRole::Cluster),
        ..joining
    };
    let refused = directory.snapshot().pod_joined_before(&wrong);
    assert!(matches!(refused, Err(PodJoinError::OtherRole { .. })));
}
