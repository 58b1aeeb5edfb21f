//! Next keys that are registered too fast, or in a way that proves nothing.

use super::*;

/// A stream on which the server waits for a request.
async fn challenged(session: &Session) -> BufStream<underpass_tunnel::Stream> {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = BufStream::new(dialled.unwrap());
    let mut challenge = String::new();
    stream.read_line(&mut challenge).await.unwrap();
    stream
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
