//! Keys that give way to others, at the server's end of sessions.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, BufStream};
use underpass_api::{
    AGENT_KEY, KeyAnswer, KeyQuestion, NextKeyAnswer, NextKeyChallenge, NextKeyRefusal,
    NextKeyRequest,
};
use underpass_audit::{Backend, BackendConfig, Policy, Sink};
use underpass_core::BoxError;
use underpass_directory::{CommitError, Contents, Revision, StoreError, Write};
use underpass_tunnel::{ConnectError, Dialer, KeyChange, RotationProof, SessionError};

use super::*;
use crate::tunnel::rotation::ask;
use crate::tunnel::{AskError, have_rotated};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

/// A server's half, and an agent that has joined with the key 1.
struct World {
    directory: Arc<Directory>,
    tunnel: Tunnel,
    acceptor: Acceptor,
    _enforcing: tokio_util::task::AbortOnDropHandle<()>,
}

impl World {
    async fn new() -> Self {
        Self::over(Arc::<MemoryStore>::default(), AuditLog::default()).await
    }

    async fn over(store: Arc<dyn Store>, audit: AuditLog) -> Self {
        let directory = directory_over(store, &key(1)).await;
        let join = |draft: &mut Draft| {
            let mut agent = Agent::clone(&draft.get(ID).unwrap().object);
            agent.join_token = Some("j".to_owned());
            draft.put(ID, agent, Expect::Present)
        };
        directory.change(join).await.unwrap();
        let tunnel = Tunnel::new(Arc::clone(&directory), audit);
        let enforcing = tokio::spawn(tunnel.clone().enforce_access());
        tokio::task::yield_now().await;
        Self {
            acceptor: Acceptor::new(
                AcceptorConfig::default(),
                Arc::new(Keys(Arc::clone(&directory))),
            ),
            _enforcing: tokio_util::task::AbortOnDropHandle::new(enforcing),
            tunnel,
            directory,
        }
    }

    fn connector(&self, key: AgentKey) -> Connector {
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let config = ConnectorConfig::new("localhost", 1, ca.cert.pem().into_bytes(), key);
        Connector::new(config).unwrap()
    }

    async fn connect(&self, connector: &Connector) -> Result<Session, ConnectError> {
        let (here, there) = memory::pair();
        let (agent, accepted) = tokio::join!(
            connector.establish(Arc::new(here)),
            self.acceptor.accept(Arc::new(there))
        );
        self.tunnel.serve(accepted, HERE);
        agent
    }

    /// Carries the session on, with the connector's key.
    async fn resume(&self, connector: &Connector, session: &Session) {
        let (here, there) = memory::pair();
        let (resumed, accepted) = tokio::join!(
            connector.resume(session, Arc::new(here)),
            self.acceptor.accept(Arc::new(there))
        );
        self.tunnel.serve(accepted, HERE);
        resumed.unwrap();
    }

    async fn until_key(&self, wanted: &AgentKey) {
        let mut changes = self.directory.changes();
        let wanted = wanted.public_key().to_string();
        let is_key = || {
            let snapshot = self.directory.snapshot();
            snapshot.get::<Agent>(ID).unwrap().object.key == wanted
        };
        while !is_key() {
            let change = tokio::time::timeout(Duration::from_secs(20), changes.changed());
            change.await.expect("the key is replaced").unwrap();
        }
    }
}

async fn register(session: &Session, key: &AgentKey, next: &AgentKey) -> NextKeyAnswer {
    register_after(session, key, next, Duration::ZERO).await
}

/// The same, with a pause before the agent's line.
async fn register_after(
    session: &Session,
    key: &AgentKey,
    next: &AgentKey,
    pause: Duration,
) -> NextKeyAnswer {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = BufStream::new(dialled.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let challenge: NextKeyChallenge = serde_json::from_str(&line).unwrap();
    let change = KeyChange {
        session: session.info().id.0,
        challenge: challenge.challenge,
        key: key.public_key(),
        next: next.public_key(),
        agent: &challenge.agent,
    };
    let request = NextKeyRequest {
        key: key.public_key().to_string(),
        next_key: next.public_key().to_string(),
        proof: RotationProof::new(key, &change).to_string(),
        next_proof: RotationProof::new(next, &change).to_string(),
    };
    tokio::time::sleep(pause).await;
    send(&mut stream, &serde_json::to_string(&request).unwrap()).await;
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A stream on which the server waits for a request.
async fn challenged(session: &Session) -> BufStream<underpass_tunnel::Stream> {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = BufStream::new(dialled.unwrap());
    let mut challenge = String::new();
    stream.read_line(&mut challenge).await.unwrap();
    stream
}

async fn send(stream: &mut BufStream<underpass_tunnel::Stream>, line: &str) {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    stream.flush().await.unwrap();
}

#[track_caller]
fn assert_refused(answer: NextKeyAnswer, wanted: NextKeyRefusal) {
    let refused = matches!(&answer, NextKeyAnswer::Refused { reason, .. } if *reason == wanted);
    assert!(refused, "{answer:?}");
}

async fn closed(session: &Session) -> CloseCode {
    let closed = tokio::time::timeout(Duration::from_secs(60), session.closed());
    let error: SessionError = closed.await.expect("the session ends");
    error.close_code().unwrap()
}

/// The server's question over this session for the key with this seed, which is not answered yet.
async fn looks(session: &Session, seed: u8) -> BufStream<underpass_tunnel::Stream> {
    let incoming = session.accept().await.unwrap();
    assert_eq!(incoming.target(), AGENT_KEY);
    let mut stream = BufStream::new(incoming.accept().await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let question: KeyQuestion = serde_json::from_str(&line).unwrap();
    let key = key(seed).public_key().to_string();
    assert_eq!(question, KeyQuestion::Look { key });
    stream
}

#[tokio::test(start_paused = true)]
async fn rule_12_a_session_that_does_not_prove_the_new_key_ends() {
    let world = World::new().await;
    // Three processes.
    let [first, second, third] = [(); 3].map(|()| world.connector(key(1)));
    let moves = world.connect(&first).await.unwrap();
    let follows = world.connect(&second).await.unwrap();
    let stays = world.connect(&third).await.unwrap();
    let answer = register(&moves, &key(1), &key(2)).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { is_new: true }));
    first.renew_key(key(2));
    world.resume(&first, &moves).await;
    world.until_key(&key(2)).await;
    // Two other processes of the agent's are asked, and one of them proves the new key.
    let _asked = [looks(&follows, 2).await, looks(&stays, 2).await];
    second.renew_key(key(2));
    world.resume(&second, &follows).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(closed(&stays).await, CloseCode::KeyReplaced);
    assert!(begun.elapsed() <= 2 * limits::REPLACED_KEY_GRACE);
    tokio::time::sleep(10 * limits::REPLACED_KEY_GRACE).await;
    assert!(moves.is_open() && follows.is_open());
    assert_eq!(
        world.tunnel.by_agent().get(ID),
        Some(&2),
        "one agent, by its id"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_is_asked_for_each_key_though_they_follow_at_once() {
    let world = World::new().await;
    let [first, second] = [(); 2].map(|()| world.connector(key(1)));
    let rotates = world.connect(&first).await.unwrap();
    let follows = world.connect(&second).await.unwrap();
    let begun = tokio::time::Instant::now();
    for seed in 2..5 {
        register(&rotates, &key(seed - 1), &key(seed)).await;
        first.renew_key(key(seed));
        world.resume(&first, &rotates).await;
        world.until_key(&key(seed)).await;
        let mut asked = looks(&follows, seed).await;
        second.renew_key(key(seed));
        world.resume(&second, &follows).await;
        let uses = KeyAnswer::Uses { key: String::new() };
        send(&mut asked, &serde_json::to_string(&uses).unwrap()).await;
        // The server's end of the stream goes once it has read the answer.
        asked.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = asked.read_to_end(&mut rest).await;
    }
    assert!(begun.elapsed() < limits::REPLACED_KEY_GRACE);
    tokio::time::sleep(10 * limits::REPLACED_KEY_GRACE).await;
    assert!(rotates.is_open() && follows.is_open());
}

#[tokio::test]
async fn rule_25_a_key_that_is_replaced_in_its_handshake_opens_no_session() {
    let world = World::new().await;
    let connector = world.connector(key(1));
    let session = world.connect(&connector).await.unwrap();
    register(&session, &key(1), &key(2)).await;
    // It is let in, and before it is anywhere another handshake proves the next key.
    let (here, there) = memory::pair();
    let (late, accepted) = tokio::join!(
        connector.establish(Arc::new(here)),
        world.acceptor.accept(Arc::new(there))
    );
    let late = late.unwrap();
    world.connect(&world.connector(key(2))).await.unwrap();
    world.until_key(&key(2)).await;
    world.tunnel.serve(accepted, HERE);
    assert_eq!(closed(&late).await, CloseCode::KeyReplaced);
    // Later ones are refused in the handshake.
    let refused = world.connect(&connector).await.unwrap_err();
    assert!(refused.is_replaced_key(), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn rule_23_next_keys_of_one_agent_have_a_pace() {
    let world = World::new().await;
    let session = world.connect(&world.connector(key(1))).await.unwrap();
    let most = u8::try_from(limits::NEXT_KEYS_PER_AGENT).unwrap();
    let begun = world.directory.snapshot().revision();
    for next in 0..most {
        let answer = register(&session, &key(1), &key(100 + next)).await;
        assert!(
            matches!(answer, NextKeyAnswer::Registered { .. }),
            "{answer:?}"
        );
    }
    let written = world.directory.snapshot().revision();
    assert_ne!(begun, written);
    for next in 0..20 {
        let answer = register(&session, &key(1), &key(150 + next)).await;
        assert_refused(answer, NextKeyRefusal::TooSoon);
    }
    assert_eq!(world.directory.snapshot().revision(), written);
    assert!(session.is_open(), "and its session goes on");
}

#[tokio::test]
async fn a_registration_that_nothing_proves_changes_nothing() {
    let world = World::new().await;
    let session = world.connect(&world.connector(key(1))).await.unwrap();
    let begun = world.directory.snapshot().revision();
    // A key that is not the agent's.
    let answer = register(&session, &key(9), &key(2)).await;
    assert_refused(answer, NextKeyRefusal::NotCurrent);
    for line in ["", "{}", "no JSON"] {
        let mut stream = challenged(&session).await;
        send(&mut stream, line).await;
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        let answer = serde_json::from_str(&answer).unwrap();
        assert_refused(answer, NextKeyRefusal::Malformed);
    }
    // More than is read: the server has answered, and has gone, before it has all.
    let mut stream = challenged(&session).await;
    let _ = stream.write_all(&[b'x'; 100_000]).await;
    let _ = stream.flush().await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(world.directory.snapshot().revision(), begun);
    assert!(session.is_open());
}

/// Answers the server's next question over this session.
async fn answers(agent: &Session, answer: impl AsRef<str>) {
    let incoming = agent.accept().await.unwrap();
    let mut stream = BufStream::new(incoming.accept().await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    send(&mut stream, answer.as_ref()).await;
    stream.shutdown().await.unwrap();
}

fn uses(key: &str) -> String {
    let uses = KeyAnswer::Uses { key: key.into() };
    serde_json::to_string(&uses).unwrap()
}

#[tokio::test(start_paused = true)]
async fn rule_12_an_agents_word_is_no_proof_that_its_old_key_is_gone() {
    let world = World::new().await;
    let connector = world.connector(key(1));
    let agent = world.connect(&connector).await.unwrap();
    let session = world.tunnel.of_agent(ID).pop().unwrap();
    let [first, second, other] = [1, 2, 9].map(|seed| key(seed).public_key().to_string());
    let rotate = async |answer: &str| {
        let asking = have_rotated(&session, &world.directory, ID, &first);
        tokio::join!(asking, answers(&agent, uses(answer))).0
    };
    // Neither a text nor a key that nothing was heard of is one.
    for untrue in ["k", &other, &second] {
        let rotated = rotate(untrue).await;
        assert!(matches!(rotated, Err(AskError::Untrue)), "{rotated:?}");
    }
    let kept = rotate(&first).await;
    assert!(matches!(kept, Err(AskError::Kept)), "{kept:?}");
    // Both count until the next one is proved.
    register(&agent, &key(1), &key(2)).await;
    let begun = tokio::time::Instant::now();
    let unproved = rotate(&second).await;
    assert!(matches!(unproved, Err(AskError::NotYet)), "{unproved:?}");
    assert!(begun.elapsed() <= limits::ASK_AGENT_TIME + Duration::from_secs(1));
    connector.renew_key(key(2));
    let (rotated, ()) = tokio::join!(rotate(&second), world.resume(&connector, &agent));
    assert_eq!(rotated.unwrap(), key(2).public_key());
    let snapshot = world.directory.snapshot();
    assert_eq!(snapshot.get::<Agent>(ID).unwrap().object.key, second);
}

#[tokio::test]
async fn a_node_is_reached_after_its_agents_key_was_rotated() {
    let world = World::new().await;
    let node: underpass_core::NodeName = "n1".parse().unwrap();
    let put = |draft: &mut Draft| {
        let mut agent = Agent::clone(&draft.get(ID).unwrap().object);
        agent.role = AgentRole::Node;
        agent.node = Some(node.clone());
        draft.put(ID, agent, Expect::Present)
    };
    world.directory.change(put).await.unwrap();
    let connector = world.connector(key(1));
    let agent = world.connect(&connector).await.unwrap();
    register(&agent, &key(1), &key(2)).await;
    connector.renew_key(key(2));
    world.resume(&connector, &agent).await;
    world.until_key(&key(2)).await;
    let edge = ClusterName::new("edge").unwrap();
    let target = "unix:/run/docker.sock".parse().unwrap();
    let open = Open::new(target, "who".into(), StreamClass::Default, "id");
    let declining = async {
        let incoming = agent.accept().await.unwrap();
        incoming.refuse(ResetCode::Forbidden, "no rule");
    };
    let connecting = world.tunnel.connect_node(&edge, &node, &open);
    let connecting = tokio::time::timeout(Duration::from_secs(20), connecting);
    let connected = tokio::select! {
        connected = connecting => connected.expect("an answer"),
        connected = async { declining.await; std::future::pending().await } => connected,
    };
    let error = connected.err().unwrap();
    assert!(
        matches!(error, underpass_core::ConnectError::Declined { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_agents_answer_to_a_question_is_one_that_is_understood() {
    let world = World::new().await;
    let agent = world.connect(&world.connector(key(1))).await.unwrap();
    let session = world.tunnel.of_agent(ID).pop().unwrap();
    let question = KeyQuestion::Rotate {};
    let (asked, ()) = tokio::join!(ask(&session, question.clone()), answers(&agent, uses("k")));
    assert_eq!(asked.unwrap(), "k");
    let failed = r#"{"failed":{"detail":"the disk is full"}}"#;
    let (asked, ()) = tokio::join!(ask(&session, question.clone()), answers(&agent, failed));
    assert!(matches!(asked, Err(AskError::Failed(detail)) if detail == "the disk is full"));
    let (asked, ()) = tokio::join!(ask(&session, question.clone()), answers(&agent, "yes"));
    assert!(matches!(asked, Err(AskError::Unreadable(_))), "{asked:?}");
    // An agent that knows no such target is of another time.
    let refusing = async {
        let incoming = agent.accept().await.unwrap();
        incoming.refuse(ResetCode::UnknownTarget, "no such target");
    };
    let (asked, ()) = tokio::join!(ask(&session, question.clone()), refusing);
    assert!(matches!(asked, Err(AskError::Unknown)), "{asked:?}");
}

/// A store that takes its time, or fails, or does not say what it has done.
#[derive(Default)]
struct Disk {
    store: MemoryStore,
    fault: Mutex<Fault>,
}

#[derive(Clone, Copy, Default)]
enum Fault {
    #[default]
    None,
    Slow,
    Full,
    Unsure,
    /// As unsure, and nothing is written.
    Lost,
}

#[async_trait]
impl Store for Disk {
    async fn load(&self) -> Result<Contents, StoreError> {
        self.store.load().await
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let fault = *self.fault.lock().unwrap();
        let unknown = || CommitError::Unknown("the disk says nothing".into());
        match fault {
            Fault::None => {}
            Fault::Slow => tokio::time::sleep(Duration::from_secs(2)).await,
            Fault::Full => return Err(CommitError::Store(StoreError("the disk is full".into()))),
            Fault::Unsure => {
                self.fails(Fault::None);
                self.store.commit(at, writes).await?;
                return Err(unknown());
            }
            Fault::Lost => return Err(unknown()),
        }
        self.store.commit(at, writes).await
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        self.store.changed(after).await
    }
}

impl Disk {
    fn fails(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

/// Events, as they are written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Sink for Kept {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let events = events
            .iter()
            .map(|event| String::from_utf8_lossy(event).into_owned());
        self.0.lock().unwrap().extend(events);
        Ok(())
    }
}

impl Kept {
    fn log(&self) -> AuditLog {
        let backend = Backend::start("kept", Box::new(self.clone()), BackendConfig::default());
        AuditLog::new(Policy::everything(), vec![backend])
    }

    /// Waits for an event with this text.
    async fn says(&self, text: &str) -> String {
        let find = || {
            let events = self.0.lock().unwrap();
            events.iter().find(|event| event.contains(text)).cloned()
        };
        let said = async {
            loop {
                match find() {
                    Some(event) => break event,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(60), said).await;
        said.unwrap_or_else(|_| panic!("no {text:?}: {:?}", self.0.lock().unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn rule_15_no_next_key_is_registered_without_its_event() {
    let (disk, kept) = (Arc::<Disk>::default(), Kept::default());
    let world = World::over(Arc::clone(&disk) as _, kept.log()).await;
    let connector = world.connector(key(1));
    let session = world.connect(&connector).await.unwrap();
    let next_key = |seed| format!("next key {}", key(seed).public_key());
    // In time, and written after that.
    disk.fails(Fault::Slow);
    let late = Duration::from_secs(9);
    let answer = register_after(&session, &key(1), &key(2), late).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { is_new: true }));
    kept.says(&next_key(2)).await;
    // Written, and the disk does not say so.
    disk.fails(Fault::Unsure);
    let answer = register(&session, &key(1), &key(3)).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { is_new: true }));
    kept.says(&format!("instead of the {}", next_key(2))).await;
    // Nor when the next key takes the place of the other one.
    disk.fails(Fault::Unsure);
    connector.renew_key(key(3));
    world.resume(&connector, &session).await;
    world.until_key(&key(3)).await;
    kept.says(&format!("replaced: key {}", key(1).public_key()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn rule_15_a_next_key_of_which_the_store_says_nothing_is_written_down_as_unsure() {
    let (disk, kept) = (Arc::<Disk>::default(), Kept::default());
    let world = World::over(Arc::clone(&disk) as _, kept.log()).await;
    let session = world.connect(&world.connector(key(1))).await.unwrap();
    disk.fails(Fault::Lost);
    let answer = register(&session, &key(1), &key(2)).await;
    assert_refused(answer, NextKeyRefusal::Unavailable);
    let unsure = "the store does not say whether it is written";
    let event = kept.says(unsure).await;
    let next = format!("next key {}", key(2).public_key());
    assert!(event.contains(&next), "{event}");
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["responseStatus"]["code"], 500);
    // A store that speaks again registers it.
    disk.fails(Fault::None);
    let answer = register(&session, &key(1), &key(2)).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { .. }));
}

#[tokio::test(start_paused = true)]
async fn rule_14_a_next_key_that_was_proved_is_displaced_by_no_other_one() {
    let disk = Arc::<Disk>::default();
    let world = World::over(Arc::clone(&disk) as _, AuditLog::default()).await;
    let connector = world.connector(key(1));
    let session = world.connect(&connector).await.unwrap();
    register(&session, &key(1), &key(2)).await;
    // It is proved, and cannot be written down.
    disk.fails(Fault::Full);
    connector.renew_key(key(2));
    world.resume(&connector, &session).await;
    let other = register(&session, &key(1), &key(3)).await;
    assert_refused(other, NextKeyRefusal::Unavailable);
    let same = register(&session, &key(1), &key(2)).await;
    assert!(
        matches!(same, NextKeyAnswer::Registered { is_new: false }),
        "{same:?}"
    );
    disk.fails(Fault::None);
    world.until_key(&key(2)).await;
}
