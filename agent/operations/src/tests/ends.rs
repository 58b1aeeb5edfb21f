//! How runs end, and what their processes have.

use rustix::process::geteuid;
use underpass_api::{OperationState, ProgramExit};

use super::world::{Story, World, alice, all, id, lives, operation, script};
use crate::{RecordError, RunError};

fn numbers(line: &str) -> Vec<u32> {
    line.split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

/// The descriptors of this process, behind standard error, that it would pass on.
fn given() -> Vec<u32> {
    const CLOSED_ON_EXEC: u32 = 0o2_000_000;
    let passes = |number: &u32| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
        let info = info.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & CLOSED_ON_EXEC == 0)
    };
    let folder = std::fs::read_dir("/proc/self/fd").unwrap();
    let all = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    all.map(|name| name.parse().unwrap())
        .filter(|number| *number > 2)
        .filter(passes)
        .collect()
}

#[tokio::test]
async fn rule_17_a_command_has_nothing_of_the_agents() {
    let world = World::new();
    let _held = std::fs::File::open("/").unwrap();
    let shows = script(
        "ls -C -w 0 /proc/self/fd; readlink /proc/self/fd/0; env | sort; pwd",
        ", environment: {pass: [CARGO_PKG_NAME], set: {B: '2'}}",
    );
    let story = world.run("1", &shows).await;
    let text = story.text();
    let mut lines = text.lines();
    let mut open: Vec<u32> = numbers(lines.next().unwrap());
    // `ls` has the folder open. Descriptors that this process was given itself are closed by the agent's start.
    let given = given();
    open.retain(|number| !given.contains(number));
    open.retain(|number| *number > 2);
    assert!(open.len() <= 1, "{text}");
    assert_eq!(lines.next(), Some("/dev/null"));
    let named = text
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0));
    let named: Vec<_> = named.collect();
    let expected = [
        "B",
        "CARGO_PKG_NAME",
        "HOME",
        "LOGNAME",
        "PATH",
        "PWD",
        "UNDERPASS_OPERATION_ID",
        "UNDERPASS_OPERATION_RUN",
        "USER",
    ];
    assert_eq!(named, expected, "{text}");
    assert!(text.ends_with("\n/\n"), "{text}");
}

#[tokio::test]
async fn rule_17_a_command_runs_as_its_operations_user_with_one_group() {
    let world = World::new();
    let whoami = script("id -u; id -G; echo $HOME", ", user: nobody");
    match geteuid().is_root() {
        true => {
            let text = world.run("1", &whoami).await.text();
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines[..2], ["65534", "65534"], "{text}");
            // Also where it is the agent's own user.
            let own = script("id -u; id -G", ", user: root");
            assert_eq!(world.run("2", &own).await.text(), "0\n0\n");
        }
        false => {
            let refused = world.ask("1", &whoami, None).await;
            assert!(matches!(refused, Err(RunError::CannotSwitch { .. })));
        }
    }
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_killed_with_its_group() {
    let world = World::new();
    // Neither it nor its child ends at SIGTERM.
    let stubborn = script(
        "trap '' TERM; sh -c 'echo child; while :; do sleep 1000; done'",
        ", timeLimit: 1m",
    );
    let mut asking = world.ask("1", &stubborn, None).await.unwrap();
    asking.follower.next().await.unwrap();
    asking.follower.next().await.unwrap();
    // From now on a clock that goes on where all else waits.
    tokio::time::pause();
    let story = Story::of(asking.follower).await;
    assert_eq!(story.record.state, OperationState::TimedOut);
    assert_eq!(story.record.exit, Some(ProgramExit::Signal(9)));
    let reason = story.record.reason.unwrap();
    assert!(reason.contains("time limit of 60s"), "{reason}");
}

#[tokio::test]
async fn only_cancelling_ends_a_run() {
    let world = World::new();
    let waits = script(
        "trap 'echo bye; exit 4' TERM; echo begun; sleep 1000 & wait",
        "",
    );
    let mut asking = world.ask("1", &waits, None).await.unwrap();
    asking.follower.next().await.unwrap();
    asking.follower.next().await.unwrap();
    drop(asking);
    let record = world.operations.read(&id("1")).unwrap();
    assert_eq!(record.state, OperationState::Running);
    let follower = world.operations.follow(&id("1"), 0, true).unwrap();
    world.operations.cancel(&id("1"), &alice()).unwrap();
    let story = Story::of(follower).await;
    assert_eq!(story.record.state, OperationState::Cancelled);
    assert_eq!(story.record.exit, Some(ProgramExit::Status(4)));
    assert_eq!(story.text(), "begun\nbye\n");
    assert_eq!(story.record.reason.as_deref(), Some("alice cancelled it"));
    let again = world.operations.cancel(&id("1"), &alice());
    assert!(matches!(again, Err(RecordError::Ended(_))));
    let unknown = world.operations.cancel(&id("2"), &alice());
    assert!(matches!(unknown, Err(RecordError::NotFound(_))));
}

#[tokio::test]
async fn a_process_that_is_left_behind_ends_with_its_run() {
    let world = World::new();
    let leaves = script("sleep 1000 & echo $!", "");
    let story = world.run("1", &leaves).await;
    assert_eq!(story.record.state, OperationState::Succeeded);
    let pid = story.text().trim().to_owned();
    // Killed, and a zombie until its new parent has seen it.
    assert!(!lives(&pid));
}

#[tokio::test]
async fn one_at_a_time_and_not_too_many() {
    let world = World::new();
    let alone = script("sleep 1000", ", exclusive: true");
    world.ask("1", &alone, None).await.unwrap();
    match world.ask("2", &alone, None).await {
        Err(RunError::Busy { id: busy, .. }) => assert_eq!(busy, id("1")),
        other => panic!("{other:?}"),
    }
    let other = operation("{name: a, command: /bin/sleep, arguments: ['1000'], timeLimit: 1h}");
    for number in 1..crate::limits::RUNNING {
        let run = format!("other-{number}");
        world.ask(&run, &other, None).await.unwrap();
    }
    let more = world.ask("more", &other, None).await;
    assert!(matches!(more, Err(RunError::Overloaded)));
    world.operations.stop().await;
    let ids = all(&world.operations);
    assert_eq!(ids.len(), crate::limits::RUNNING);
    for id in ids {
        let record = world.operations.read(&id).unwrap();
        assert_eq!(record.state, OperationState::Interrupted, "{record:?}");
    }
    let stopped = world.ask("late", &other, None).await;
    assert!(matches!(stopped, Err(RunError::Stopping)));
}
