//! One run at a time, also where processes of an earlier one are left.

use std::fs;
use std::time::Duration;

use underpass_api::{OperationEvent, OperationState};

use super::world::{Story, World, alice, id, lives, make_running, request, script};
use crate::{Operations, Retention, RunError};

#[tokio::test]
async fn a_process_in_another_session_ends_with_its_run() {
    let world = World::new();
    let leaves = script(
        "setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000",
        ", exclusive: true",
    );
    let mut asking = world.ask("1", &leaves, None).await.unwrap();
    let pid = loop {
        if let Some(OperationEvent::Output(piece)) = asking.follower.next().await.unwrap() {
            break String::from_utf8(piece.data).unwrap().trim().to_owned();
        }
    };
    assert!(lives(&pid));
    world.operations.cancel(&id("1"), &alice()).unwrap();
    let story = Story::of(asking.follower).await;
    assert_eq!(story.record.state, OperationState::Cancelled);
    assert!(!lives(&pid));
    assert!(world.ask("2", &leaves, None).await.unwrap().is_new);
    world.operations.stop().await;
}

async fn is_free(operations: &Operations, run: &str) {
    let run = operations.0.find(&id(run)).unwrap();
    let mut now = run.now.subscribe();
    let gone = now.wait_for(|stored| !stored.remains);
    let gone = tokio::time::timeout(Duration::from_secs(30), gone).await;
    gone.unwrap().unwrap();
}

#[tokio::test]
async fn an_operation_is_busy_as_long_as_processes_of_it_may_be_left() {
    let folder = tempfile::tempdir().unwrap();
    let (state, processes) = (folder.path().join("state"), folder.path().join("proc"));
    let open = || Operations::open_with(&state, Retention::default(), &processes);
    let once = script("echo hello", ", exclusive: true");
    let several = script("echo hello", "");
    let operations = open().unwrap();
    let run = async |operations: &Operations, run, operation| {
        operations
            .run(&request(run, None), operation, &alice())
            .await
    };
    // Nobody can look for them.
    let first = run(&operations, "1", &once).await.unwrap();
    let story = Story::of(first.follower).await;
    assert_eq!(story.record.state, OperationState::Succeeded);
    let busy = |asked| matches!(asked, Err(RunError::Busy { id: run, .. }) if run == id("1"));
    assert!(busy(run(&operations, "2", &once).await));
    let beside = run(&operations, "beside", &several).await.unwrap();
    Story::of(beside.follower).await;
    operations.stop().await;
    drop(operations);
    fs::remove_file(state.join("beside.json")).unwrap();
    // Nor after a restart, whether the end is recorded or not.
    for in_its_midst in [false, true] {
        if in_its_midst {
            make_running(&state.join("1.json"));
        }
        let operations = open().unwrap();
        assert!(busy(run(&operations, "2", &once).await), "{in_its_midst}");
        operations.stop().await;
    }
    fs::create_dir(&processes).unwrap();
    let operations = open().unwrap();
    is_free(&operations, "1").await;
    assert!(run(&operations, "2", &once).await.unwrap().is_new);
    operations.stop().await;
}

#[tokio::test]
async fn an_operation_is_free_once_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (state, processes) = (folder.path().join("state"), folder.path().join("proc"));
    let operations = Operations::open_with(&state, Retention::default(), &processes).unwrap();
    let once = script("echo hello", ", exclusive: true");
    let asking = operations.run(&request("1", None), &once, &alice()).await;
    Story::of(asking.unwrap().follower).await;
    let busy = operations.run(&request("2", None), &once, &alice()).await;
    assert!(matches!(busy, Err(RunError::Busy { .. })));
    fs::create_dir(&processes).unwrap();
    is_free(&operations, "1").await;
    let free = operations.run(&request("2", None), &once, &alice()).await;
    assert!(free.unwrap().is_new);
    operations.stop().await;
}
