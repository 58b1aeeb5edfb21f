//! Agents that register credentials, over connections in memory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use underpass_api::OfferedCredential;
use underpass_core::{Clusters, ConnectError, Open, RegistrationRules, StreamClass, Target};
use underpass_direct::{DirectClusters, Plugins};
use underpass_directory::seal::SealingKey;
use underpass_directory::{Agent, Draft, MemoryStore, Rotation};
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    Acceptor, AcceptorConfig, AgentKey, CloseCode, Connector, ConnectorConfig, OpenRequest,
    StreamError,
};

use super::*;
use crate::audit::Kept;
use crate::router::Ways;
use crate::tunnel::{Keys, Tunnel};

const SOON: Duration = Duration::from_secs(20);

/// Agents, by the seeds of their keys.
const CLUSTER: u8 = 1;
const SECOND: u8 = 2;
const NODE: u8 = 3;
const OTHERS: u8 = 4;
/// The next key of the first one.
const NEXT: u8 = 5;

struct World {
    directory: Arc<Directory>,
    tunnel: Tunnel,
    registrations: Arc<Registrations>,
    acceptor: Acceptor,
    events: Kept,
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
                    join_token: Some("j".to_owned()),
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
        let events = Kept::default();
        let audit = events.audit_log();
        let registrations = Registrations::new(Arc::clone(&directory), Arc::new(keys), own, audit);
        let registrations = Arc::new(registrations);
        let tunnel = Tunnel::new(Arc::clone(&directory), AuditLog::default())
            .with_registrations(Arc::clone(&registrations));
        let keys = Keys(Arc::clone(&directory));
        let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(keys));
        Self {
            directory,
            tunnel,
            registrations,
            acceptor,
            events,
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
        self.connect_over(seed).await.0
    }

    /// With the agent's end of the connection.
    async fn connect_over(&self, seed: u8) -> (Session, Arc<dyn Transport>) {
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key(seed));
        let connector = Connector::new(config).unwrap();
        let (here, there) = memory::pair();
        let here: Arc<dyn Transport> = Arc::new(here);
        let (agent, accepted) = tokio::join!(
            connector.establish(Arc::clone(&here)),
            self.acceptor.accept(Arc::new(there))
        );
        self.tunnel.serve(accepted, IpAddr::from([127, 0, 0, 1]));
        (agent.unwrap(), here)
    }

    /// The server's end of an agent's session.
    fn served(&self, agent: &Session) -> Session {
        let sessions = self.tunnel.sessions().into_iter();
        let mut same = sessions.filter(|session| session.info().id == agent.info().id);
        same.next().unwrap()
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

#[tokio::test]
async fn rule_12_a_replaced_key_registers_nothing_and_what_it_has_registered_goes() {
    let world = World::allowing().await;
    let agent = world.connect(CLUSTER).await;
    registered(&say(&agent, &register("c2ln")).await);
    let old = key(CLUSTER).public_key().to_string();
    assert_eq!(world.kept("edge").unwrap().key, Some(old.clone()));
    let next = key(NEXT).public_key().to_string();
    let rotate = |draft: &mut Draft| {
        let rotation = Rotation {
            agent: "agent1",
            key: &old,
            next: &next,
        };
        draft.register_next_key(&rotation)
    };
    world.directory.change(rotate).await.unwrap();
    let held = world.directory.snapshot();
    let replace = |draft: &mut Draft| draft.replace_key(&next);
    world.directory.change(replace).await.unwrap();
    assert!(world.kept("edge").is_none());
    // The session goes on for a while, as the agent may prove the next key in it.
    assert!(agent.is_open());
    for line in [register("c2ln"), withdraw()] {
        let said = say(&agent, &line).await.unwrap_err();
        assert!(said.starts_with("overloaded"), "{said}");
        assert!(said.contains("another key"), "{said}");
    }
    assert!(world.kept("edge").is_none());
    // A decision from before the rotation is looked at again (rule 25).
    let by_before = agent_of(&world.served(&agent), &held);
    let Ok(before) = by_before else {
        panic!("it counted before");
    };
    let offered: OfferedCredential = serde_json::from_value(offer("c2ln")).unwrap();
    let offer = Offer::read(offered, OffsetDateTime::now_utc());
    let session = world.served(&agent);
    let registering = world.registrations.register(&session, &before, offer);
    assert!(registering.await.is_err());
    assert!(world.kept("edge").is_none());
    // With the next key it registers anew.
    let next = world.connect(NEXT).await;
    registered(&say(&next, &register("c2ln")).await);
}

/// A stream that is accepted, and says nothing yet.
async fn begun(session: &Session) -> underpass_tunnel::Stream {
    let request = OpenRequest {
        target: underpass_api::CREDENTIALS_TARGET.to_owned(),
        ..OpenRequest::default()
    };
    let mut stream = session.open(request).await.unwrap();
    stream.accepted().await.unwrap();
    stream
}

#[tokio::test]
async fn rule_17_an_agent_withdraws_while_its_registration_is_under_way() {
    let world = World::allowing().await;
    let agent = world.connect(CLUSTER).await;
    let mut first = begun(&agent).await;
    assert_eq!(
        say(&agent, &withdraw()).await,
        Ok(RegistrationAnswer::Withdrawn {})
    );
    // The later word counts.
    first.write_all(&register("c2ln")).await.unwrap();
    let mut answer = Vec::new();
    let reading = timeout(SOON, first.read_to_end(&mut answer)).await;
    reading.unwrap().unwrap();
    let answer = serde_json::from_slice(&answer).unwrap();
    assert_eq!(refused(Ok(answer)), RegistrationRefusal::Unavailable);
    assert!(world.kept("edge").is_none());
    // Streams of a session have a bound.
    let held = [begun(&agent).await, begun(&agent).await];
    let said = say(&agent, &withdraw()).await.unwrap_err();
    assert!(said.starts_with("overloaded"), "{said}");
    drop(held);
}

#[tokio::test]
async fn rule_17_a_registered_credential_vouches_for_no_user() {
    let world = World::allowing().await;
    let agent = world.connect(CLUSTER).await;
    registered(&say(&agent, &register("c2ln")).await);
    agent.close(CloseCode::Shutdown, "done");
    let edge = ClusterName::new("edge").unwrap();
    let connect = async |way: &dyn Clusters| {
        let open = Open::new(
            Target::KubeApi,
            Default::default(),
            StreamClass::Default,
            "id",
        );
        let connected = way.connect(&edge, &open).await;
        connected.map(|_| ())
    };
    let gone = async {
        while world.tunnel.connected(&edge) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
    // As the server is put together.
    let sealing = SealingKey::from_text(&SealingKey::generate().unwrap()).unwrap();
    let keys = Arc::new(Keyring::new(sealing, vec![]));
    let direct = Arc::new(DirectClusters::new(keys, Plugins::default()));
    let ways = Ways::new(&world.directory, &direct, &world.tunnel);
    connect(&*ways.calls).await.unwrap();
    connect(&*ways.reviews).await.unwrap();
    for way in [&ways.vouching, &ways.joining] {
        let refused = connect(&**way).await.unwrap_err();
        assert!(matches!(refused, ConnectError::NoAgent), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registered_credential_waits_for_an_agent_that_may_come_back() {
    let world = World::allowing().await;
    let edge = ClusterName::new("edge").unwrap();
    let open = || {
        Open::new(
            Target::KubeApi,
            Default::default(),
            StreamClass::Default,
            "id",
        )
    };
    let lost = async |seed| {
        let (agent, wire) = world.connect_over(seed).await;
        registered(&say(&agent, &register("c2ln")).await);
        let served = world.served(&agent);
        wire.close(CloseCode::Shutdown, "");
        timeout(SOON, served.detached()).await.unwrap();
        assert!(served.is_reachable());
        (agent, served)
    };
    let (_agent, served) = lost(CLUSTER).await;
    let call = open();
    world.tunnel.connect(&edge, &call).await.unwrap();
    assert!(!served.is_reachable());
    assert!(call.via.through().unwrap().by_credential);
    // One that is back in time serves the call.
    let (_agent, _served) = lost(SECOND).await;
    let call = open();
    let (connected, _back) =
        tokio::join!(world.tunnel.connect(&edge, &call), world.connect(SECOND));
    connected.unwrap();
    assert!(!call.via.through().unwrap().by_credential);
}

#[tokio::test]
async fn rule_15_what_an_agent_registers_and_withdraws_is_written_down() {
    let world = World::allowing().await;
    let agent = world.connect(CLUSTER).await;
    let text = |event: &Value, name: &str| {
        assert!(!event.to_string().contains("c2ln"), "{event}");
        assert_eq!(event["user"]["username"], "underpass:agent:agent1");
        let found = event["annotations"][format!("underpass.dev/{name}")].as_str();
        found.unwrap_or_default().to_owned()
    };
    let what = "a/b at https://10.255.0.1:6443 until ";
    registered(&say(&agent, &register("c2ln")).await);
    let made = world.events.nth(1).await;
    assert_eq!(made["verb"], "create");
    assert!(text(&made, "grant").starts_with(what), "{made}");
    assert_eq!(text(&made, "subject"), "cluster:edge");
    registered(&say(&agent, &register("b3RoZXI")).await);
    let renewed = world.events.nth(2).await;
    assert_eq!(renewed["verb"], "update");
    assert!(
        text(&renewed, "change").starts_with(&format!("replaced: {what}")),
        "{renewed}"
    );
    say(&agent, &withdraw()).await.unwrap();
    let withdrawn = world.events.nth(3).await;
    assert_eq!(withdrawn["verb"], "delete");
    assert!(
        text(&withdrawn, "change").starts_with(&format!("removed: {what}")),
        "{withdrawn}"
    );
    // Nothing is removed again.
    say(&agent, &withdraw()).await.unwrap();
    registered(&say(&agent, &register("c2ln")).await);
    assert_eq!(world.events.nth(4).await["verb"], "create");
}
