//! Sessions that prove the new key, or do not.

use underpass_api::{KeyAnswer, KeyQuestion};
use underpass_tunnel::SessionError;

use super::*;

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
