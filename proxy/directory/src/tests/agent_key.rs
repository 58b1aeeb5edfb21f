//! An agent's keys, one after the other.

use super::*;
use underpass_core::limits;

const ID: &str = "a1";

async fn with_agent(joined: bool) -> Arc<Directory> {
    let directory = world().await;
    let put = directory.change(|draft| {
        let mut agent = Agent::new(draft.now(), cluster("prod"), "k1".to_owned());
        agent.join_token = joined.then(|| "j".to_owned());
        draft.put(ID, agent, Expect::Absent)
    });
    put.await.unwrap();
    directory
}

async fn register(
    directory: &Arc<Directory>,
    key: &str,
    next: &str,
) -> Result<Waiting, RotationError> {
    let agent = ID;
    let rotation = Rotation { agent, key, next };
    let registered = directory.change(|draft| draft.register_next_key(&rotation));
    Ok(registered.await?.value)
}

async fn replace(directory: &Arc<Directory>, next: &str) -> Option<Rotated> {
    let replaced = directory.change(|draft| draft.replace_key(next));
    replaced.await.unwrap().value
}

fn counting(directory: &Directory) -> Vec<&'static str> {
    let snapshot = directory.snapshot();
    let keys = ["k1", "k2", "k3"].into_iter();
    keys.filter(|key| snapshot.agent_with_key(key).is_some())
        .collect()
}

#[tokio::test]
async fn rule_12_a_key_counts_until_the_next_one_is_proved_and_not_after() {
    let directory = with_agent(true).await;
    assert!(register(&directory, "k1", "k2").await.unwrap().is_new);
    assert_eq!(counting(&directory), ["k1", "k2"], "make before break");
    let rotated = replace(&directory, "k2").await.unwrap();
    assert_eq!((rotated.agent.as_str(), rotated.old.as_str()), (ID, "k1"));
    assert_eq!(counting(&directory), ["k2"]);
    let snapshot = directory.snapshot();
    assert!(snapshot.is_replaced_key("k1"), "told from an unknown one");
    let (_, agent) = snapshot.agent_with_key("k2").unwrap();
    assert_eq!(
        (agent.next_key.as_ref(), &agent.key),
        (None, &"k2".to_owned())
    );
    // The proof comes twice, as over two links.
    assert_eq!(replace(&directory, "k2").await, None);
    assert_eq!(replace(&directory, "k1").await, None);
    assert_eq!(replace(&directory, "unknown").await, None);
}

#[tokio::test]
async fn rule_14_a_key_that_was_replaced_registers_no_next_one() {
    let directory = with_agent(true).await;
    register(&directory, "k1", "k2").await.unwrap();
    replace(&directory, "k2").await.unwrap();
    let refused = register(&directory, "k1", "k3").await;
    assert!(matches!(refused, Err(RotationError::NotCurrent)));
    // Nor does it come back as the next one of its successor.
    let refused = register(&directory, "k2", "k1").await;
    assert!(matches!(refused, Err(RotationError::KeyKnown)));
    let refused = register(&directory, "k2", "k2").await;
    assert!(matches!(refused, Err(RotationError::KeyKnown)));
    assert_eq!(counting(&directory), ["k2"]);
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_the_same_again() {
    let directory = with_agent(true).await;
    register(&directory, "k1", "k2").await.unwrap();
    let revision = directory.snapshot().revision();
    let again = register(&directory, "k1", "k2").await.unwrap();
    assert_eq!((again.is_new, again.instead_of), (false, None));
    assert_eq!(directory.snapshot().revision(), revision, "no change");
    // An agent that has lost its next key registers another one, and that is told.
    let other = register(&directory, "k1", "k3").await.unwrap();
    assert_eq!(
        (other.is_new, other.instead_of.as_deref()),
        (true, Some("k2"))
    );
    assert_eq!(counting(&directory), ["k1", "k3"]);
    assert_eq!(replace(&directory, "k2").await, None, "it waits no more");
}

#[tokio::test]
async fn rule_12_an_agent_that_is_revoked_while_it_rotates_has_no_key() {
    let directory = with_agent(true).await;
    register(&directory, "k1", "k2").await.unwrap();
    let remove = directory.change(|draft| draft.remove::<Agent>(ID, Expect::Present));
    remove.await.unwrap();
    assert!(counting(&directory).is_empty());
    assert_eq!(replace(&directory, "k2").await, None);
    let refused = register(&directory, "k1", "k3").await;
    assert!(matches!(refused, Err(RotationError::NoAgent)));
}

#[tokio::test]
async fn a_static_tokens_key_stays() {
    let directory = with_agent(false).await;
    let refused = register(&directory, "k1", "k2").await;
    assert!(matches!(refused, Err(RotationError::StaticToken)));
    assert_eq!(counting(&directory), ["k1"]);
}

#[tokio::test]
async fn no_agent_has_a_key_that_another_one_has_had() {
    let directory = with_agent(true).await;
    register(&directory, "k1", "k2").await.unwrap();
    for taken in ["k1", "k2"] {
        let put = directory.change(|draft| {
            let agent = Agent::new(draft.now(), cluster("prod"), taken.to_owned());
            draft.put("a2", agent, Expect::Absent)
        });
        assert!(matches!(put.await, Err(ChangeError::Twice { .. })));
    }
    replace(&directory, "k2").await.unwrap();
    let put = directory.change(|draft| {
        let agent = Agent::new(draft.now(), cluster("prod"), "k1".to_owned());
        draft.put("a2", agent, Expect::Absent)
    });
    assert!(matches!(put.await, Err(ChangeError::Twice { .. })));
}

#[tokio::test]
async fn an_agents_first_key_is_told_from_an_unknown_one_for_ever() {
    let directory = with_agent(true).await;
    let put = directory.change(|draft| {
        let mut agent = Agent::clone(&draft.get(ID).unwrap().object);
        draft.remove::<Agent>(ID, Expect::Present)?;
        let id = agent.id();
        // All between are forgotten.
        agent.key = "k2".to_owned();
        draft.put(&id, agent, Expect::Absent)?;
        Ok::<_, ChangeError>(id)
    });
    let id = put.await.unwrap().value;
    let snapshot = directory.snapshot();
    let (agent, _, standing) = snapshot.standing_of_key("k1").unwrap();
    assert_eq!(
        (agent, standing),
        (id.as_str(), KeyStanding::Replaced(None))
    );
    assert!(snapshot.agent_with_key("k1").is_none());
}

#[tokio::test]
async fn rule_23_as_many_keys_that_were_replaced_are_remembered_as_there_is_room_for() {
    let directory = with_agent(true).await;
    let mut keys = vec!["k1".to_owned()];
    let most = limits::REPLACED_KEYS + limits::EARLIER_KEYS;
    for number in 0..=most {
        let next = format!("n{number}");
        register(&directory, &keys[number], &next).await.unwrap();
        replace(&directory, &next).await.unwrap();
        keys.push(next);
    }
    let snapshot = directory.snapshot();
    let agent = &snapshot.get::<Agent>(ID).unwrap().object;
    assert_eq!(agent.replaced_keys.len(), limits::REPLACED_KEYS);
    assert!(!snapshot.is_replaced_key(&keys[0]), "it is forgotten");
    let current = keys.pop().unwrap();
    for old in &keys[1..] {
        assert!(snapshot.is_replaced_key(old), "{old}");
        assert!(snapshot.agent_with_key(old).is_none(), "{old}");
    }
    // Without a time, and by the store's text as well.
    let text = serde_json::to_string(&**agent).unwrap();
    assert_eq!(serde_json::from_str::<Agent>(&text).unwrap(), **agent);
    let (id, _, standing) = snapshot.standing_of_key(&keys[1]).unwrap();
    assert_eq!((id, standing), (ID, KeyStanding::Replaced(None)));
    // None of them comes back.
    let refused = register(&directory, &current, &keys[1]).await;
    assert!(matches!(refused, Err(RotationError::KeyKnown)));
    let known = register(&directory, &keys[1], "new").await;
    assert!(matches!(known, Err(RotationError::NotCurrent)));
}
