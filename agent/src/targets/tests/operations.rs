//! The target `operation`.

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use underpass_agent_operations::{Operations, Retention};
use underpass_agent_policy::Policy;
use underpass_api::{OperationEvent, OperationRefusal, OperationState};
use underpass_tunnel::{ResetCode, Stream};

use super::world::*;

const HELLO: &str = "\
operations:
  - {name: hello, command: /bin/echo, arguments: [hello, '{who}'], parameters: [{name: who, oneOf: [you, me]}], timeLimit: 1m}
  - {name: waits, command: /bin/sleep, arguments: ['1000'], timeLimit: 1h, users: [alice]}
";

struct Node {
    world: World,
    operations: Operations,
    _folder: TempDir,
}

impl Node {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let operations = Operations::open(folder.path(), Retention::default()).unwrap();
        let differs = Differs {
            operations: Some(operations.clone()),
            ..Differs::default()
        };
        Self {
            world: World::differing(HELLO, differs).await,
            operations,
            _folder: folder,
        }
    }
}

async fn ask(world: &World, user: &str, question: &str) -> BufReader<Stream> {
    let mut stream = world.open_as(user, "operation").await.unwrap();
    stream.write_all(question.as_bytes()).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    stream.flush().await.unwrap();
    BufReader::new(stream)
}

async fn next(answer: &mut BufReader<Stream>) -> Option<OperationEvent> {
    let mut line = String::new();
    within(answer.read_line(&mut line)).await.unwrap();
    (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
}

async fn refusal(world: &World, user: &str, question: &str) -> OperationRefusal {
    let mut answer = ask(world, user, question).await;
    match next(&mut answer).await {
        Some(OperationEvent::Refused(problem)) => {
            assert_eq!(next(&mut answer).await, None);
            problem.reason
        }
        other => panic!("{question}: {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_has_the_record_the_output_and_the_record_again() {
    let node = Node::new().await;
    let run = r#"{"run":{"id":"1","operation":"hello","arguments":{"who":"you"}}}"#;
    let mut answer = ask(&node.world, "alice", run).await;
    let mut output = Vec::new();
    let mut states = Vec::new();
    while let Some(event) = next(&mut answer).await {
        match event {
            OperationEvent::Record(record) => states.push(record.state),
            OperationEvent::Output(piece) => output.extend(piece.data),
            OperationEvent::Refused(problem) => panic!("{problem}"),
        }
    }
    assert_eq!(output, b"hello you\n");
    assert_eq!(states.last(), Some(&OperationState::Succeeded));
    // From a byte on.
    let rest = r#"{"output":{"id":"1","from":6}}"#;
    let mut answer = ask(&node.world, "alice", rest).await;
    assert!(matches!(
        next(&mut answer).await,
        Some(OperationEvent::Record(_))
    ));
    match next(&mut answer).await {
        Some(OperationEvent::Output(piece)) => {
            assert_eq!((piece.offset, &piece.data[..]), (6, &b"you\n"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rule_17_an_operation_is_asked_of_the_policy() {
    use OperationRefusal::*;

    let node = Node::new().await;
    for (user, question, reason) in [
        (
            "alice",
            r#"{"run":{"id":"1","operation":"reboot"}}"#,
            UnknownOperation,
        ),
        (
            "alice",
            r#"{"run":{"id":"1","operation":"hello"}}"#,
            WrongArguments,
        ),
        (
            "alice",
            r#"{"run":{"id":"1","operation":"hello","arguments":{"who":"$(id)"}}}"#,
            WrongArguments,
        ),
        (
            "bob",
            r#"{"run":{"id":"1","operation":"waits"}}"#,
            Forbidden,
        ),
        (
            "alice",
            r#"{"run":{"id":"../1","operation":"waits"}}"#,
            Malformed,
        ),
        ("alice", r#"{"shell":{}}"#, Malformed),
        ("alice", r#"{"read":{"id":"1"}}"#, NotFound),
        ("alice", r#"{"cancel":{"id":"1"}}"#, NotFound),
    ] {
        assert_eq!(
            refusal(&node.world, user, question).await,
            reason,
            "{question}"
        );
    }
    assert!(node.operations.newest(1, |_| true).is_empty());
    let endless = "x".repeat(crate::limits::QUESTION_BYTES + 1);
    assert_eq!(refusal(&node.world, "alice", &endless).await, Malformed);
    for user in ["mallory", "system:admin"] {
        let (code, _) = sentence(node.world.open_as(user, "operation").await);
        assert_eq!(code, ResetCode::Forbidden);
    }
    // An agent without records.
    let world = World::new(HELLO).await;
    let (code, reason) = world.refused("operation").await;
    assert_eq!(code, ResetCode::UnknownTarget);
    assert!(reason.contains("--state-dir"), "{reason}");
}

#[tokio::test]
async fn rule_17_a_record_whose_operation_is_gone_is_for_the_user_of_the_run() {
    let node = Node::new().await;
    let run = r#"{"run":{"id":"1","operation":"waits","detach":true}}"#;
    let mut answer = ask(&node.world, "alice", run).await;
    next(&mut answer).await.unwrap();
    let without = HELLO.replace("waits", "renamed");
    let policy = Policy::from_yaml(&without).unwrap();
    node.world.policies.enforce(policy);
    for question in [
        r#"{"read":{"id":"1"}}"#,
        r#"{"output":{"id":"1"}}"#,
        r#"{"cancel":{"id":"1"}}"#,
    ] {
        let reason = refusal(&node.world, "bob", question).await;
        assert_eq!(reason, OperationRefusal::Forbidden, "{question}");
    }
    let list = r#"{"list":{}}"#;
    assert_eq!(next(&mut ask(&node.world, "bob", list).await).await, None);
    // A caller who asks again hears of the run, and not that there is no such operation.
    for question in [run, list, r#"{"cancel":{"id":"1"}}"#] {
        let mut answer = ask(&node.world, "alice", question).await;
        match next(&mut answer).await {
            Some(OperationEvent::Record(record)) => assert_eq!(record.operation, "waits"),
            other => panic!("{question}: {other:?}"),
        }
    }
    let other = run.replace(r#""1""#, r#""2""#);
    let unknown = refusal(&node.world, "alice", &other).await;
    assert_eq!(unknown, OperationRefusal::UnknownOperation);
    node.operations.stop().await;
}

#[tokio::test]
async fn rule_12_a_policy_that_changes_ends_a_story_and_not_the_run() {
    let node = Node::new().await;
    let run = r#"{"run":{"id":"1","operation":"waits"}}"#;
    let mut answer = ask(&node.world, "alice", run).await;
    assert!(matches!(
        next(&mut answer).await,
        Some(OperationEvent::Record(_))
    ));
    // Others do not hear of it, nor end it.
    for question in [
        r#"{"read":{"id":"1"}}"#,
        r#"{"output":{"id":"1"}}"#,
        r#"{"cancel":{"id":"1"}}"#,
    ] {
        let reason = refusal(&node.world, "bob", question).await;
        assert_eq!(reason, OperationRefusal::Forbidden, "{question}");
    }
    let mut all = ask(&node.world, "bob", r#"{"list":{}}"#).await;
    assert_eq!(next(&mut all).await, None);
    let narrowed = HELLO.replace("alice", "carol");
    node.world
        .policies
        .enforce(Policy::from_yaml(&narrowed).unwrap());
    let mut line = String::new();
    within(answer.read_line(&mut line)).await.unwrap_err();
    let id = "1".parse().unwrap();
    let record = node.operations.read(&id).unwrap();
    assert_eq!(record.state, OperationState::Running);
    let mut cancelled = ask(&node.world, "carol", r#"{"cancel":{"id":"1"}}"#).await;
    assert!(matches!(
        next(&mut cancelled).await,
        Some(OperationEvent::Record(_))
    ));
    node.operations.stop().await;
    let record = node.operations.read(&id).unwrap();
    assert_eq!(record.state, OperationState::Cancelled);
}

#[tokio::test]
async fn whoever_goes_away_ends_an_answer_and_no_run() {
    let node = Node::new().await;
    let run = r#"{"run":{"id":"1","operation":"waits"}}"#;
    let mut answer = ask(&node.world, "alice", run).await;
    next(&mut answer).await;
    drop(answer);
    let read = r#"{"read":{"id":"1"}}"#;
    match next(&mut ask(&node.world, "alice", read).await).await {
        Some(OperationEvent::Record(record)) => assert_eq!(record.state, OperationState::Running),
        other => panic!("{other:?}"),
    }
    node.operations.stop().await;
}
