//! Join tokens, and the agents that they register.

use std::collections::BTreeMap;

use time::Duration as Span;

use super::*;
use underpass_authenticate::{JoinSecret, TokenHash};
use underpass_core::Labels;

/// A directory with a join token for `prod`, and the token's secret.
struct Joins {
    directory: Arc<Directory>,
    secret: JoinSecret,
}

fn join_token(draft: &Draft, secret: &JoinSecret, uses: u32) -> JoinToken {
    JoinToken {
        created: draft.now(),
        sha256: secret.hash(),
        cluster: cluster("prod"),
        role: AgentRole::Cluster,
        uses,
        uses_left: uses,
        expires: draft.now() + Span::hours(1),
        description: String::new(),
    }
}

impl Joins {
    async fn new(uses: u32) -> Self {
        let this = Self {
            directory: world().await,
            secret: JoinSecret::generate().unwrap(),
        };
        this.put("j", uses).await;
        this
    }

    async fn put(&self, id: &str, uses: u32) {
        let put = self.directory.change(|draft| {
            let token = join_token(draft, &self.secret, uses);
            draft.put(id, token, Expect::Absent)
        });
        put.await.unwrap();
    }

    async fn change(&self, change: impl Fn(&mut JoinToken, OffsetDateTime)) {
        let changing = self.directory.change(|draft| {
            let mut token = JoinToken::clone(&draft.get("j").unwrap().object);
            change(&mut token, draft.now());
            draft.put("j", token, Expect::Present)
        });
        changing.await.unwrap();
    }

    async fn join(&self, key: &str) -> Result<Joined, JoinError> {
        self.join_as(key, None, None).await
    }

    async fn join_as(
        &self,
        key: &str,
        cluster: Option<&ClusterName>,
        role: Option<AgentRole>,
    ) -> Result<Joined, JoinError> {
        join_with(&self.directory, &self.secret.hash(), key, cluster, role).await
    }

    fn uses_left(&self) -> u32 {
        let snapshot = self.directory.snapshot();
        snapshot.get::<JoinToken>("j").unwrap().object.uses_left
    }
}

async fn join_with(
    directory: &Arc<Directory>,
    sha256: &TokenHash,
    key: &str,
    cluster: Option<&ClusterName>,
    role: Option<AgentRole>,
) -> Result<Joined, JoinError> {
    let joining = Joining {
        sha256,
        key,
        cluster,
        role,
        node: None,
        labels: None,
    };
    let registered = directory.change(|draft| draft.register(&joining)).await?;
    Ok(registered.value)
}

#[tokio::test]
async fn a_join_token_registers_as_many_agents_as_it_was_made_for() {
    let joins = Joins::new(2).await;
    let first = joins.join("k1").await.unwrap();
    assert!(first.is_new);
    assert_eq!(
        (first.cluster.as_str(), first.role),
        ("prod", AgentRole::Cluster)
    );
    let snapshot = joins.directory.snapshot();
    let (id, agent) = snapshot.agent_with_key("k1").unwrap();
    assert_eq!(id, first.agent);
    assert_eq!(agent.join_token.as_deref(), Some("j"));
    assert_eq!(snapshot.cluster_of_agent("k1"), Some(&cluster("prod")));
    joins.join("k2").await.unwrap();
    assert_eq!(joins.uses_left(), 0);
    let refused = joins.join("k3").await;
    assert!(matches!(refused, Err(JoinError::UsedUp { uses: 2 })));
    assert_eq!(joins.directory.snapshot().cluster_of_agent("k3"), None);
}

/// The answer may have been lost on the way.
#[tokio::test]
async fn the_same_key_with_the_same_token_is_the_same_agent_and_costs_no_use() {
    let joins = Joins::new(2).await;
    let first = joins.join("k1").await.unwrap();
    let revision = joins.directory.snapshot().revision();
    let again = joins.join("k1").await.unwrap();
    assert_eq!((&again.agent, again.is_new), (&first.agent, false));
    assert_eq!(joins.uses_left(), 1);
    assert_eq!(joins.directory.snapshot().revision(), revision);
    // Also once the token is used up, and once it has expired.
    joins.join("k2").await.unwrap();
    assert!(!joins.join("k1").await.unwrap().is_new);
    joins.change(|token, now| token.expires = now).await;
    assert!(!joins.join("k1").await.unwrap().is_new);
    // An agent that was revoked needs a use like any other.
    let revoke = |draft: &mut Draft| draft.remove::<Agent>(&first.agent, Expect::Present);
    joins.directory.change(revoke).await.unwrap();
    let refused = joins.join("k1").await;
    assert!(matches!(refused, Err(JoinError::Expired { .. })));
}

#[tokio::test]
async fn rule_14_an_expired_or_unknown_join_token_registers_nobody() {
    let joins = Joins::new(1).await;
    let never_made = JoinSecret::generate().unwrap().hash();
    let refused = join_with(&joins.directory, &never_made, "k", None, None).await;
    assert!(matches!(refused, Err(JoinError::UnknownToken)));
    joins.change(|token, now| token.expires = now).await;
    let refused = joins.join("k").await;
    assert!(matches!(refused, Err(JoinError::Expired { .. })));
    let delete = |draft: &mut Draft| draft.remove::<JoinToken>("j", Expect::Present);
    joins.directory.change(delete).await.unwrap();
    let refused = joins.join("k").await;
    assert!(matches!(refused, Err(JoinError::UnknownToken)));
    assert!(joins.directory.snapshot().all::<Agent>().is_empty());
}

#[tokio::test]
async fn rule_8_a_join_token_is_for_one_cluster_and_one_role() {
    let joins = Joins::new(9).await;
    let dev = cluster("dev");
    let refused = joins.join_as("k", Some(&dev), None).await;
    assert!(matches!(refused, Err(JoinError::OtherCluster { .. })));
    let refused = joins.join_as("k", None, Some(AgentRole::Node)).await;
    assert!(matches!(refused, Err(JoinError::OtherRole { .. })));
    let others = joins.directory.change(|draft| {
        let agent = |cluster: &ClusterName, key: &str| {
            Agent::new(draft.now(), cluster.clone(), key.to_owned())
        };
        let (elsewhere, here) = (agent(&dev, "dev's"), agent(&cluster("prod"), "prod's"));
        draft.put("elsewhere", elsewhere, Expect::Absent)?;
        draft.put("here", here, Expect::Absent)
    });
    others.await.unwrap();
    let refused = joins.join("dev's").await;
    assert!(matches!(refused, Err(JoinError::KeyOfAnotherCluster)));
    let refused = joins.join("prod's").await;
    assert!(matches!(refused, Err(JoinError::KeyKnown { agent }) if agent == "here"));
    assert_eq!(joins.uses_left(), 9);
    let (prod, role) = (cluster("prod"), AgentRole::Cluster);
    joins.join_as("k", Some(&prod), Some(role)).await.unwrap();
}

#[tokio::test]
async fn rule_14_of_two_joins_for_the_last_use_one_wins() {
    let store = Arc::new(MemoryStore::default());
    let one = Directory::open(store.clone()).await.unwrap();
    let secret = JoinSecret::generate().unwrap();
    let uses = 3;
    let set_up = one.change(|draft| {
        draft.put("prod", labelled(draft, &[]), Expect::Absent)?;
        draft.put("j", join_token(draft, &secret, uses), Expect::Absent)
    });
    set_up.await.unwrap();
    // At two servers that share the store, and at the same one.
    let two = Directory::open(store).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..20 {
        let directory = Arc::clone(if number % 2 == 0 { &one } else { &two });
        let hash = secret.hash();
        asking.spawn(async move {
            let key = format!("k{number}");
            join_with(&directory, &hash, &key, None, None).await
        });
    }
    let answers = asking.join_all().await;
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(JoinError::UsedUp { .. })));
    assert_eq!(refused.count(), 17, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    one.change(|draft| draft.put("alice", user(draft), Expect::Absent))
        .await
        .unwrap();
    assert_eq!(one.snapshot().all::<Agent>().len(), 3);
}

#[tokio::test]
async fn rule_14_a_join_token_is_kept_as_its_hash() {
    let store = Arc::new(MemoryStore::default());
    let directory = Directory::open(store.clone()).await.unwrap();
    let secret = JoinSecret::generate().unwrap();
    let put = directory.change(|draft| {
        draft.put("prod", labelled(draft, &[]), Expect::Absent)?;
        draft.put("j", join_token(draft, &secret, 1), Expect::Absent)
    });
    put.await.unwrap();
    let contents = store.load().await.unwrap();
    let kept = &contents.records[&(ObjectKind::JoinToken, "j".to_owned())];
    let kept = String::from_utf8(kept.value.clone()).unwrap();
    assert!(kept.contains(&secret.hash().to_hex()), "{kept}");
    assert!(
        !kept.contains(secret.expose()) && !kept.contains("upj_"),
        "{kept}"
    );
}

#[tokio::test]
async fn join_tokens_go_with_their_cluster_and_some_time_after_their_end() {
    let joins = Joins::new(1).await;
    joins.directory.forget_expired().await;
    joins
        .change(|token, now| token.expires = now - Span::hours(1))
        .await;
    joins.directory.forget_expired().await;
    assert_eq!(joins.directory.snapshot().all::<JoinToken>().len(), 1);
    joins
        .change(|token, now| token.expires = now - Span::days(2))
        .await;
    joins.directory.forget_expired().await;
    assert!(joins.directory.snapshot().all::<JoinToken>().is_empty());
    joins.put("again", 1).await;
    let remove = |draft: &mut Draft| draft.remove::<Cluster>("prod", Expect::Present);
    joins.directory.change(remove).await.unwrap();
    assert!(joins.directory.snapshot().all::<JoinToken>().is_empty());
}

#[tokio::test]
async fn rule_23_join_tokens_and_agents_of_a_cluster_are_bounded() {
    let directory = world().await;
    let many = limits::JOIN_TOKENS_PER_CLUSTER;
    let put = |draft: &mut Draft, number: usize, uses_left: u32| {
        let secret = JoinSecret::generate().unwrap();
        let token = JoinToken {
            uses_left,
            ..join_token(draft, &secret, 5)
        };
        draft.put(&format!("j{number:03}"), token, Expect::Absent)
    };
    let fill = directory.change(|draft| {
        (0..many).try_for_each(|number| put(draft, number, u32::from(number != 7)))
    });
    fill.await.unwrap();
    // One that registers nobody any more makes room; the others are somebody's.
    let one_more = |number| directory.change(move |draft| put(draft, number, 5));
    one_more(many).await.unwrap();
    assert!(directory.snapshot().get::<JoinToken>("j007").is_none());
    let refused = one_more(many + 1).await;
    assert!(matches!(
        refused,
        Err(ChangeError::TooManyJoinTokens { .. })
    ));
    for uses in [0, limits::JOIN_TOKEN_USES + 1] {
        let refused = directory.change(|draft| {
            let token = join_token(draft, &JoinSecret::generate().unwrap(), uses);
            let token = JoinToken {
                cluster: cluster("dev"),
                ..token
            };
            draft.put("dev's", token, Expect::Absent)
        });
        assert!(matches!(refused.await, Err(ChangeError::JoinTokenUses)));
    }
    let mut draft = Draft::new(directory.snapshot(), OffsetDateTime::now_utc());
    let agents = snapshot::Table::from_iter((0..limits::AGENTS_PER_CLUSTER).map(|number| {
        let agent = Agent::new(draft.now(), cluster("dev"), format!("k{number}"));
        let entry = Entry {
            revision: Revision(1),
            object: Arc::new(agent),
        };
        (format!("a{number}"), entry)
    }));
    *draft.table_mut() = agents;
    let agent = |draft: &Draft, name| Agent::new(draft.now(), cluster(name), "new".to_owned());
    let refused = draft.put("x", agent(&draft, "dev"), Expect::Absent);
    assert!(matches!(
        refused,
        Err(ChangeError::TooMany(ObjectKind::Agent))
    ));
    draft
        .put("x", agent(&draft, "prod"), Expect::Absent)
        .unwrap();
}

/// Agents of directories that were written before there were roles.
#[test]
fn an_agent_without_a_role_serves_the_cluster() {
    let text = r#"{"created":"2026-01-01T00:00:00Z","cluster":"prod","key":"k"}"#;
    let agent: Agent = serde_json::from_str(text).unwrap();
    assert_eq!((agent.role, &agent.join_token), (AgentRole::Cluster, &None));
    assert_eq!(serde_json::to_string(&agent).unwrap(), text);
}

fn zone_a() -> Labels {
    BTreeMap::from([("zone".to_owned(), "a".to_owned())])
        .try_into()
        .unwrap()
}

#[tokio::test]
async fn rule_22_a_nodes_name_is_one_agents() {
    let joins = Joins::new(9).await;
    let on = async |key: &str, node: &str| {
        let (sha256, node) = (joins.secret.hash(), node.parse().unwrap());
        let labels = zone_a();
        let joining = Joining {
            sha256: &sha256,
            key,
            cluster: None,
            role: None,
            node: Some(&node),
            labels: Some(&labels),
        };
        let registered = joins
            .directory
            .change(|draft| draft.register(&joining))
            .await;
        registered.map(|registered| registered.value)
    };
    let node_of = |id: &str| {
        let snapshot = joins.directory.snapshot();
        let node = &snapshot.get::<Agent>(id).unwrap().object.node;
        node.as_ref().map(ToString::to_string)
    };
    let labels_of = |id: &str| {
        let snapshot = joins.directory.snapshot();
        snapshot.get::<Agent>(id).unwrap().object.labels.clone()
    };
    // An agent of another role has no node.
    let cluster = on("k0", "worker-1").await.unwrap();
    assert_eq!(node_of(&cluster.agent), None);
    assert!(labels_of(&cluster.agent).is_empty());
    joins.change(|token, _| token.role = AgentRole::Node).await;
    let first = on("k1", "worker-1").await.unwrap();
    assert_eq!(node_of(&first.agent).as_deref(), Some("worker-1"));
    assert_eq!(labels_of(&first.agent), zone_a());
    let left = joins.uses_left();
    match on("k2", "worker-1").await {
        Err(JoinError::NodeTaken { node, agent }) => {
            assert_eq!((node.as_str(), agent), ("worker-1", first.agent.clone()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(joins.uses_left(), left);
    // Nor does the id of an agent become another one's name: callers may name a node by either.
    for agent in [&cluster.agent, &first.agent] {
        let taken = on("k2", agent).await;
        assert!(
            matches!(&taken, Err(JoinError::NodeTaken { agent: of, .. }) if of == agent),
            "{taken:?}"
        );
    }
    assert_eq!(joins.uses_left(), left);
    // The same key again, and another node.
    assert!(!on("k1", "worker-1").await.unwrap().is_new);
    on("k2", "worker-2").await.unwrap();
    let revoke = |draft: &mut Draft| draft.remove::<Agent>(&first.agent, Expect::Present);
    joins.directory.change(revoke).await.unwrap();
    on("k3", "worker-1").await.unwrap();
}
