//! At most once, and records that outlive the agent.

use std::fs;
use std::process::Stdio;

use underpass_api::{OperationState, OutputStream, ProgramExit};

use super::world::{
    Story, World, alice, all, id, make_running, open_again, operation, request, script,
};
use crate::remains::MARK;
use crate::{Caller, OpenError, Operations, RecordError, Retention, RunError};

#[tokio::test]
async fn a_run_has_output_by_stream_and_an_exit_status() {
    let world = World::new();
    // Each waits until the one before was read, so that the order is certain.
    let both = script(
        "echo out; while [ ! -e \"$1\" ]; do :; done; echo err >&2; exit 3",
        "",
    );
    let go = world.path("go");
    let asking = world.ask("1", &both, Some(go.to_str().unwrap())).await;
    let asking = asking.unwrap();
    let waiting = world.operations.follow(&id("1"), 4, true).unwrap();
    let mut follower = asking.follower;
    follower.next().await.unwrap();
    follower.next().await.unwrap();
    assert_eq!(follower.record().state, OperationState::Running);
    fs::write(&go, "").unwrap();
    let story = Story::of(world.operations.follow(&id("1"), 0, true).unwrap()).await;
    let (out, err) = (OutputStream::Stdout, OutputStream::Stderr);
    assert_eq!(
        story.pieces,
        [(out, "out\n".to_owned()), (err, "err\n".to_owned())]
    );
    let record = story.record;
    assert_eq!(record.state, OperationState::Failed);
    assert_eq!(record.exit, Some(ProgramExit::Status(3)));
    assert_eq!((record.output.kept, record.user.as_str()), (8, "alice"));
    assert!(record.created <= record.started.unwrap() && record.started <= record.ended);
    // One that comes back asks for what it has not seen.
    assert_eq!(Story::of(waiting).await.text(), "err\n");
}

#[tokio::test]
async fn the_same_id_is_the_same_run() {
    let world = World::new();
    let log = world.path("log");
    let once = script("echo ran >> \"$1\"; echo hello", "");
    let x = log.to_str().unwrap();
    let first = world.ask("1", &once, Some(x)).await.unwrap();
    assert_eq!(Story::of(first.follower).await.text(), "hello\n");
    let again = world.ask("1", &once, Some(x)).await.unwrap();
    assert!(!again.is_new);
    assert_eq!(Story::of(again.follower).await.text(), "hello\n");
    let conflict = |asked: Result<_, RunError>| matches!(asked, Err(RunError::Conflict(_)));
    assert!(conflict(world.ask("1", &once, Some("/other")).await));
    let other = Caller {
        user: "bob".to_owned(),
        uid: None,
    };
    let request = request("1", Some(x));
    assert!(conflict(
        world.operations.run(&request, &once, &other).await
    ));
    // Also after the agent has been started again.
    let folder = world.path("state");
    world.operations.stop().await;
    drop(world.operations);
    let operations = open_again(&folder, Retention::default());
    let again = operations.run(&request, &once, &alice()).await.unwrap();
    assert!(!again.is_new);
    assert_eq!(Story::of(again.follower).await.text(), "hello\n");
    assert_eq!(fs::read_to_string(&log).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_run_whose_agent_died_is_interrupted_and_its_processes_are_killed() {
    let world = World::new();
    let once = script("echo hello", "");
    world.run("1", &once).await;
    let mark = |run: &str| format!("{}.{run}", world.operations.0.store.name());
    let marks = [mark("1"), mark("11"), "f.f.1".to_owned()];
    let (_folder, state) = world.stop().await;
    // As it was in the midst of the run: the record says so, and a process is left.
    make_running(&state.join("1.json"));
    fs::write(state.join("2.output"), "left over").unwrap();
    let sleep = |mark: &String| {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000").env(MARK, mark).stdin(Stdio::null());
        sleep.spawn().unwrap()
    };
    let [mut left, mut other, mut anothers] = marks.each_ref().map(sleep);

    let operations = open_again(&state, Retention::default());
    assert!(!left.wait().unwrap().success(), "killed");
    for another in [&mut other, &mut anothers] {
        assert_eq!(another.try_wait().unwrap(), None, "another's");
        another.kill().unwrap();
        another.wait().unwrap();
    }
    assert!(!state.join("2.output").exists());
    let record = operations.read(&id("1")).unwrap();
    assert_eq!(record.state, OperationState::Interrupted);
    assert_eq!(record.output.kept, 6);
    let request = request("1", None);
    let again = operations.run(&request, &once, &alice()).await.unwrap();
    assert!(!again.is_new);
    let story = Story::of(again.follower).await;
    assert_eq!(story.text(), "hello\n");
    assert_eq!(story.record.state, OperationState::Interrupted);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_not_run_again() {
    let world = World::new();
    let once = script("echo hello", "");
    world.run("1", &once).await;
    let state = world.path("state");
    world.operations.stop().await;
    drop(world.operations);
    fs::write(state.join("1.json"), "{").unwrap();
    let operations = open_again(&state, Retention::default());
    let record = operations.read(&id("1")).unwrap();
    assert_eq!(record.state, OperationState::Interrupted);
    let request = request("1", None);
    let again = operations.run(&request, &once, &alice()).await;
    assert!(matches!(again, Err(RunError::Conflict(_))));
}

#[tokio::test]
async fn two_agents_do_not_share_records() {
    let world = World::new();
    let second = Operations::open(&world.path("state"), Retention::default());
    assert!(matches!(second, Err(OpenError::InUse(_))));
}

#[tokio::test]
async fn rule_19_old_records_go() {
    let world = World::keeping(Retention {
        records: 2,
        ..Retention::default()
    });
    let once = script("echo hello", "");
    for run in ["1", "2", "3"] {
        world.run(run, &once).await;
    }
    // The task that ended the last one removes.
    world.operations.stop().await;
    assert_eq!(all(&world.operations), [id("3"), id("2")]);
    assert!(!world.path("state/1.json").exists() && !world.path("state/1.output").exists());
    let gone = world.operations.read(&id("1"));
    assert!(matches!(gone, Err(RecordError::NotFound(_))));
}

#[tokio::test]
async fn without_room_for_a_record_nothing_is_run() {
    let marker = |world: &World| world.path("ran");
    let touch = script("echo > \"$1\"", "");
    let full = World::keeping(Retention {
        room: u64::MAX,
        ..Retention::default()
    });
    let x = marker(&full);
    let asked = full.ask("1", &touch, x.to_str()).await;
    assert!(matches!(asked, Err(RunError::NoRoom { .. })));
    let broken = World::new();
    fs::remove_dir_all(broken.path("state")).unwrap();
    let y = marker(&broken);
    let asked = broken.ask("1", &touch, y.to_str()).await;
    assert!(matches!(asked, Err(RunError::Record(_))), "{asked:?}");
    assert!(!x.exists() && !y.exists());
    // The id is free again.
    for world in [full, broken] {
        assert!(all(&world.operations).is_empty());
    }
}

#[tokio::test]
async fn a_node_that_cannot_run_an_operation_says_why() {
    let world = World::new();
    for (fields, part) in [
        ("command: /no/such/program", "/no/such/program"),
        ("command: /etc/passwd", "no executable"),
        (
            "command: /bin/true, directory: /no/such",
            "directory /no/such",
        ),
        ("command: /bin/true, user: no-such-user", "no such user"),
    ] {
        let operation = operation(&format!("{{name: a, {fields}}}"));
        let error = world.ask("1", &operation, None).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let wrong = world.ask("1", &script("true", ""), Some("\n")).await;
    assert!(matches!(wrong, Err(RunError::Arguments(error)) if error.parameter() == "x"));
    assert!(all(&world.operations).is_empty());
}
