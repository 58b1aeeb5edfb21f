//! Agents that register credentials, over connections in memory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use underpass_audit::AuditLog;
use underpass_core::RegistrationRules;
use underpass_directory::seal::SealingKey;
use underpass_directory::{Agent, Draft, MemoryStore};
use underpass_tunnel::transport::memory;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, AgentKey, CloseCode, Connector, ConnectorConfig, OpenRequest,
    StreamError,
};

use super::*;
use crate::tunnel::{Keys, Tunnel};

const SOON: Duration = Duration::from_secs(20);

/// Agents, by the seeds of their keys.
const CLUSTER: u8 = 1;
const SECOND: u8 = 2;
const NODE: u8 = 3;
const OTHERS: u8 = 4;

struct World {
    directory: Arc<Directory>,
    tunnel: Tunnel,
    acceptor: Acceptor,
}

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

impl World {
    async fn new() -> Self {
        let directory = Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap();
        let put = |draft: &mut Draft| {
            for name in ["edge", "far"] {
                let cluster = Cluster::new(draft.now());
                draft.put(name, cluster, Expect::Absent)?;
            }
            for (seed, cluster, role) in [
                (CLUSTER, "edge", AgentRole::Cluster),
                (SECOND, "edge", AgentRole::Cluster),
                (NODE, "edge", AgentRole::Node),
                (OTHERS, "far", AgentRole::Cluster),
            ] {
                let cluster = ClusterName::new(cluster).unwrap();
                let agent = Agent {
                    role,
                    ..Agent::new(draft.now(), cluster, key(seed).public_key().to_string())
                };
                draft.put(&format!("agent{seed}"), agent, Expect::Absent)?;
            }
            Ok::<_, ChangeError>(())
        };
        directory.change(put).await.unwrap();
        let sealing = SealingKey::generate().unwrap();
        let keys = Keyring::new(SealingKey::from_text(&sealing).unwrap(), vec![]);
        let own = vec!["localhost".to_owned()];
        let registrations = Registrations::new(Arc::clone(&directory), Arc::new(keys), own);
        let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default())
            .with_registrations(Arc::new(registrations));
        let keys = Keys(Arc::clone(&directory));
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(keys));
        Self {
            directory,
            tunnel,
            acceptor,
        }
    }

    async fn allow(&self, cluster: &str, rules: Option<RegistrationRules>) {
        let set = |draft: &mut Draft| {
            let mut changed = Cluster::clone(&draft.get(cluster).unwrap().object);
            changed.registrations.clone_from(&rules);
            draft.put(cluster, changed, Expect::Present)
        };
        self.directory.change(set).await.unwrap();
    }

    /// `edge` allows them.
    async fn allowing() -> Self {
        let world = Self::new().await;
        world
            .allow("edge", Some(RegistrationRules::default()))
            .await;
        world
    }

    async fn connect(&self, seed: u8) -> Session {
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key(seed));
        let connector = Connector::new(config).unwrap();
        let (here, there) = memory::pair();
        let (agent, accepted) = tokio::join!(
            connector.establish(Arc::new(here)),
            self.acceptor.accept(Arc::new(there))
        );
        self.tunnel.serve(accepted, IpAddr::from([127, 0, 0, 1]));
        agent.unwrap()
    }

    fn kept(&self, cluster: &str) -> Option<Registration> {
        let snapshot = self.directory.snapshot();
        let entry = snapshot.get::<Registration>(cluster)?;
        Some(Registration::clone(&entry.object))
    }
}

/// The end of a stream, whose text is the refusal's.
async fn say(session: &Session, line: &[u8]) -> Result<RegistrationAnswer, String> {
    let saying = async {
        let request = OpenRequest {
            target: underpass_api::CREDENTIALS_TARGET.to_owned(),
            ..OpenRequest::default()
        };
        let mut stream = session.open(request).await.unwrap();
        match stream.accepted().await {
            Ok(()) => {}
            Err(StreamError::Refused { code, reason }) => {
                return Err(format!("{code}: {reason}"));
            }
            Err(error) => panic!("{error:?}"),
        }
        stream.write_all(line).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        Ok(serde_json::from_slice(&answer).unwrap())
    };
    timeout(SOON, saying).await.unwrap()
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn offer(signature: &str) -> Value {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let exp = OffsetDateTime::now_utc().unix_timestamp() + 3600;
    let claims = json!({ "sub": "system:serviceaccount:a:b", "exp": exp });
    let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    json!({
        "server": "https://10.255.0.1:6443", "certificateAuthority": ca.cert.pem(),
        "token": format!("{}.{}.{signature}", part(json!({})), part(claims)),
    })
}

fn register(signature: &str) -> Vec<u8> {
    line(&json!({ "register": offer(signature) }))
}

fn withdraw() -> Vec<u8> {
    line(&json!({ "withdraw": {} }))
}

fn refused(answer: Result<RegistrationAnswer, String>) -> RegistrationRefusal {
    match answer {
        Ok(RegistrationAnswer::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn registered(answer: &Result<RegistrationAnswer, String>) {
    let is_registered = matches!(answer, Ok(RegistrationAnswer::Registered { .. }));
    assert!(is_registered, "{answer:?}");
}

#[tokio::test]
async fn rule_9_no_credential_is_read_without_an_administrators_word() {
    let world = World::new().await;
    let agent = world.connect(CLUSTER).await;
    let said = say(&agent, &register("c2ln")).await.unwrap_err();
    assert!(
        said.contains("underpass cluster credentials allow edge"),
        "{said}"
    );
    assert!(said.starts_with("forbidden"), "{said}");
    // That of another cluster is not enough.
    world.allow("far", Some(RegistrationRules::default())).await;
    say(&agent, &register("c2ln")).await.unwrap_err();
    world
        .allow("edge", Some(RegistrationRules::default()))
        .await;
    registered(&say(&agent, &register("c2ln")).await);
    assert!(world.kept("far").is_none());
    let kept = world.kept("edge").unwrap();
    assert_eq!(kept.agent, "agent1");
    assert_eq!(kept.allow_service_accounts, BTreeSet::new());
    world.allow("edge", None).await;
    assert!(world.kept("edge").is_none());
}

#[tokio::test]
async fn rule_8_an_agent_on_a_node_registers_no_credential() {
    let world = World::allowing().await;
    let node = world.connect(NODE).await;
    for text in [register("c2ln"), withdraw()] {
        let said = say(&node, &text).await.unwrap_err();
        assert!(said.contains("role node"), "{said}");
    }
    assert!(world.kept("edge").is_none());
    // An agent's stream says nothing of a cluster: it registers for its own.
    let others = world.connect(OTHERS).await;
    say(&others, &register("c2ln")).await.unwrap_err();
    world.allow("far", Some(RegistrationRules::default())).await;
    registered(&say(&others, &register("c2ln")).await);
    assert!(world.kept("edge").is_none() && world.kept("far").is_some());
}

#[tokio::test]
async fn rule_9_garbage_registers_nothing_and_ends_no_session() {
    let world = World::allowing().await;
    let agent = world.connect(CLUSTER).await;
    let mut unknown = offer("c2ln");
    unknown["denyUsers"] = json!(["root"]);
    let two = [register("c2ln"), withdraw()].concat();
    let long = vec![b' '; underpass_api::REGISTRATION_LINE + 8192];
    for garbage in [
        &b""[..],
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"{\"withdraw\":{}}",
        &line(&json!({ "register": {} })),
        &line(&json!({ "register": unknown })),
        &line(&json!([1, 2])),
        &two,
        &long,
    ] {
        let answer = say(&agent, garbage).await;
        assert_eq!(
            refused(answer),
            RegistrationRefusal::Malformed,
            "{garbage:?}"
        );
    }
    for (field, value, expected) in [
        (
            "server",
            "https://127.0.0.1:1",
            RegistrationRefusal::Address,
        ),
        ("server", "http://h", RegistrationRefusal::Endpoint),
        ("token", "upu_x", RegistrationRefusal::Token),
    ] {
        let mut offer = offer("c2ln");
        offer[field] = json!(value);
        let answer = say(&agent, &line(&json!({ "register": offer }))).await;
        assert_eq!(refused(answer), expected);
    }
    assert!(world.kept("edge").is_none());
    registered(&say(&agent, &register("c2ln")).await);
}

#[tokio::test]
async fn rule_17_one_connected_agent_that_withdraws_is_enough() {
    let world = World::allowing().await;
    let (one, two) = (world.connect(CLUSTER).await, world.connect(SECOND).await);
    registered(&say(&one, &register("c2ln")).await);
    assert_eq!(
        say(&two, &withdraw()).await,
        Ok(RegistrationAnswer::Withdrawn {})
    );
    assert!(world.kept("edge").is_none());
    let answer = say(&one, &register("c2ln")).await;
    assert_eq!(refused(answer), RegistrationRefusal::Withdrawn);
    // Once it has gone, the other one's word counts.
    two.close(CloseCode::Shutdown, "done");
    let again = async {
        loop {
            match say(&one, &register("c2ln")).await {
                Ok(RegistrationAnswer::Registered { .. }) => return,
                Ok(RegistrationAnswer::Refused {
                    reason: RegistrationRefusal::Withdrawn,
                    ..
                }) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(SOON, again).await.unwrap();
    // An agent may change its mind.
    assert_eq!(
        say(&one, &withdraw()).await,
        Ok(RegistrationAnswer::Withdrawn {})
    );
    assert!(world.kept("edge").is_none());
    registered(&say(&one, &register("c2ln")).await);
}

#[tokio::test]
async fn rule_23_registrations_of_a_cluster_have_a_bound() {
    let world = World::allowing().await;
    world.allow("far", Some(RegistrationRules::default())).await;
    let agent = world.connect(CLUSTER).await;
    for _ in 0..limits::REGISTRATIONS {
        registered(&say(&agent, &register("c2ln")).await);
    }
    let answer = say(&agent, &register("c2ln")).await;
    assert_eq!(refused(answer), RegistrationRefusal::TooOften);
    // Another cluster's have their own, and withdrawing always works.
    let others = world.connect(OTHERS).await;
    registered(&say(&others, &register("c2ln")).await);
    assert_eq!(
        say(&agent, &withdraw()).await,
        Ok(RegistrationAnswer::Withdrawn {})
    );
    assert!(world.kept("edge").is_none());
}

#[tokio::test]
async fn rule_9_a_renewed_token_takes_the_place_of_the_one_before() {
    let world = World::allowing().await;
    let agent = world.connect(CLUSTER).await;
    registered(&say(&agent, &register("c2ln")).await);
    let first = world.kept("edge").unwrap();
    registered(&say(&agent, &register("b3RoZXI")).await);
    let second = world.kept("edge").unwrap();
    assert_ne!(first, second);
    let all = world.directory.snapshot().all::<Registration>().len();
    assert_eq!(all, 1);
}
