//! The server asks an agent about its key.

use underpass_api::{KeyAnswer, KeyQuestion};

use super::*;
use crate::tunnel::rotation::ask;
use crate::tunnel::{AskError, have_rotated};

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
