//! How shells end, with all of their processes.

use std::time::{Duration, Instant};

use underpass_agent_shell::{
    Attach, Cause, End, Event, Exit, Fault, Given, InputError, RecordedPlace, RecorderEvent,
    Recording, limits,
};

use crate::world::{
    FROM_THE_START, World, alice, eventually, lives, owner, rule, script, terminal,
};

#[tokio::test]
async fn an_end_is_told_with_its_status_and_remembered() {
    let world = World::new();
    for (says, exit) in [
        ("exit 0", Exit::Status(0)),
        ("exit 3", Exit::Status(3)),
        ("kill -TERM $$", Exit::Signal(15)),
    ] {
        let mut seen = world
            .run(&script(&format!("echo last words; {says}"), ""))
            .await;
        let end = End {
            exit,
            cause: Cause::Program,
        };
        assert_eq!(seen.end().await, end);
        let refused = seen.input().write(b"x").await;
        assert!(matches!(refused, Err(InputError::Ended)), "{refused:?}");
        assert_eq!(world.record(&seen.id()).end, Some(end));
        let mut late = world.attach(&seen.id(), Attach::default()).await;
        assert_eq!(late.end().await, end);
        let redraw = String::from_utf8(late.redraw.unwrap()).unwrap();
        assert!(redraw.contains("last words"), "{redraw:?}");
    }
}

#[tokio::test]
async fn every_process_of_a_shell_ends_with_it() {
    let world = World::new();
    // In its session, in another one, in another one of whose parent nothing is left, and stopped.
    let leaves = "sleep 1000 & echo pid $!; \
                  setsid sh -c 'echo pid $$; exec sleep 1000' & \
                  (setsid sh -c 'sleep 1000 & echo pid $!' &); \
                  sleep 1000 & kill -STOP $!; echo pid $!; \
                  read -r _; exit 5";
    let mut seen = world.run(&script(leaves, "")).await;
    let mut pids = Vec::new();
    while pids.len() < 4 {
        seen.event().await;
        let text = seen.text();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole.to_owned());
        let whole = whole.unwrap_or_default();
        let found = whole
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pid "));
        pids = found.map(str::to_owned).collect();
    }
    let id = seen.id();
    let outside = pids.iter().map(|pid| world.outside(&id, pid));
    let pids: Vec<_> = outside.collect();
    assert!(pids.iter().all(|pid| lives(pid)), "{pids:?}");
    seen.type_in("\n").await;
    assert_eq!(seen.end().await.exit, Exit::Status(5));
    assert_eq!(pids.iter().find(|pid| lives(pid)), None);
}

#[tokio::test]
async fn a_program_that_ignores_the_hangup_is_killed() {
    let world = World::new();
    // Neither ends where the other is killed first.
    let stubborn = "trap '' HUP TERM; sh -c 'echo $$; while :; do sleep 1000; done'; while :; do sleep 1000; done";
    let mut seen = world.run(&script(stubborn, "")).await;
    let child = seen.until("\n").await.trim().to_owned();
    let child = world.outside(&seen.id(), &child);
    world.shells.end(&seen.id(), &alice()).unwrap();
    // From now on a clock that goes on where all else waits.
    tokio::time::pause();
    let end = loop {
        if let Some(Event::Ended(end)) = seen.hear().await {
            break end;
        }
    };
    let killed = End {
        exit: Exit::Signal(9),
        cause: Cause::Owner,
    };
    assert_eq!(end, killed);
    assert!(!lives(&child));
}

#[tokio::test]
async fn a_program_has_time_to_end_by_itself() {
    let world = World::new();
    let tidy = "trap 'echo bye; exit 4' HUP; echo ready; while :; do sleep 0.05; done";
    let mut seen = world.run(&script(tidy, "")).await;
    seen.until("ready").await;
    world.shells.end(&seen.id(), &alice()).unwrap();
    let end = End {
        exit: Exit::Status(4),
        cause: Cause::Owner,
    };
    assert_eq!(seen.end().await, end);
    assert!(seen.text().contains("bye"), "{}", seen.text());
}

#[tokio::test]
async fn a_shell_ends_where_nobody_comes_back_or_nothing_happens() {
    let world = World::new();
    let id = world.open(&rule("program: /bin/cat, detached: 1s")).await;
    let seen = world.attach(&id, Attach::default()).await;
    let idle = rule("program: /bin/cat, detached: 1s, idle: 2s");
    let mut idle = world.run(&idle).await;
    // A viewer that does nothing keeps it from being detached.
    assert_eq!(idle.end().await.cause, Cause::Idle);
    assert_eq!(world.record(&id).end, None);
    drop(seen);
    eventually("it is detached", || world.record(&id).end.is_some()).await;
    assert_eq!(world.record(&id).end.unwrap().cause, Cause::Detached);
}

#[tokio::test]
async fn rule_12_shells_of_a_user_whose_access_ends_end() {
    let world = World::new();
    let cat = rule("program: /bin/cat");
    let mut seen = world.run(&cat).await;
    let terminal = crate::world::terminal();
    let bobs = world
        .shells
        .open(&cat, owner("bob"), terminal)
        .await
        .unwrap();
    world.shells.revoke(|record| record.owner == alice());
    assert_eq!(seen.end().await.cause, Cause::Revoked);
    assert_eq!(
        world.shells.read(&bobs.id, &owner("bob")).unwrap().end,
        None
    );
}

#[tokio::test]
async fn rule_12_nothing_of_a_revoked_shell_is_left_within_a_second() {
    let world = World::new();
    // Nothing of it ends by itself, and no viewer takes its output.
    let stubborn =
        "trap '' HUP TERM; sh -c 'echo $$; while :; do sleep 1000; done' & read -r _; yes";
    let mut seen = world.run(&script(stubborn, "")).await;
    let child = seen.until("\n").await.trim().to_owned();
    let id = seen.id();
    let child = world.outside(&id, &child);
    seen.type_in("\n").await;
    let full = seen.next() + u64::try_from(limits::OUTPUT_BYTES).unwrap();
    eventually("it is full", || world.record(&id).output == full).await;
    assert!(lives(&child));
    let before = Instant::now();
    world.shells.revoke(|_| true);
    // Its screen is nobody's either: the user's name may be another user's next.
    let is_gone = || world.shells.read(&id, &alice()).is_err();
    eventually("it has ended", is_gone).await;
    assert!(!lives(&child));
    let took = before.elapsed();
    // Searches take longer where other programs have the processor.
    assert!(took < limits::HANGUP_GRACE, "{took:?}");
    assert_eq!(seen.end().await.cause, Cause::Revoked);
}

#[tokio::test]
async fn rule_19_shells_that_have_ended_are_not_kept_without_bound() {
    let world = World::new();
    let ends = rule("program: /bin/true, perUser: 64, perNode: 64");
    let bobs = world
        .shells
        .open(&ends, owner("bob"), crate::world::terminal())
        .await
        .unwrap();
    let all = limits::ENDED_OF_USER + 3;
    for _ in 0..all {
        world.run(&ends).await.end().await;
    }
    let of_alice = || world.shells.list(|record| record.owner == alice());
    eventually("the oldest are gone", || of_alice().len() == all - 3).await;
    // Those of another user are not displaced.
    world.shells.read(&bobs.id, &owner("bob")).unwrap();
}

#[tokio::test]
async fn an_agent_that_stops_ends_every_shell() {
    let world = World::new();
    let mut seen = world.run(&rule("program: /bin/cat")).await;
    world.shells.stop().await;
    assert_eq!(seen.end().await.cause, Cause::Stopping);
    let refused = world
        .try_open(&rule("program: /bin/cat"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("stopping"), "{refused}");
}

/// A program that prints without end, and a recorder that writes nothing down: nothing makes room for what it would print.
#[tokio::test]
async fn rule_15_a_recorder_that_cannot_write_ends_the_shell_at_once() {
    let world = World::new();
    let recording = Recording {
        required: true,
        input: false,
        wait: Duration::from_secs(3600),
    };
    let rule = script("exec yes", "");
    let opening = world.shells.open_recorded(
        &rule,
        alice(),
        terminal(),
        Given::default(),
        Some(recording),
    );
    let id = opening.await.unwrap().id;
    let mut seen = world.attach(&id, FROM_THE_START).await;
    let full = u64::try_from(limits::OUTPUT_BYTES).unwrap();
    eventually("it is full", || world.record(&id).output == full).await;
    let begin = RecordedPlace::default();
    let before = world.shells.record(&id, &alice(), begin).unwrap();
    let mut recorder = world.shells.record(&id, &alice(), begin).unwrap();
    // Only the newest recorder counts.
    before.acks().end(Fault::Full);
    recorder.acks().end(Fault::TooLarge);
    let end = seen.end().await;
    assert_eq!(end.cause, Cause::Unrecordable(Fault::TooLarge));
    assert!(end.cause.to_string().contains("the size that one may have"));
    // The recorder hears how much there was of it, though it has written nothing down.
    let mut heard = 0;
    let ended = loop {
        match recorder.next().await.unwrap() {
            RecorderEvent::Output(_, data) => heard += data.len(),
            RecorderEvent::Ended(_, end) => break end,
            _ => {}
        }
    };
    assert_eq!((heard, ended), (limits::OUTPUT_BYTES, end));
}

/// The program has ended, its output waits for a recorder, and none comes.
#[tokio::test]
async fn rule_15_a_shell_whose_recorder_stays_away_is_over_when_it_has_waited_for_long_enough() {
    let world = World::new();
    let recording = Recording {
        required: true,
        input: false,
        wait: Duration::from_secs(3),
    };
    let rule = script("yes & wait", "");
    let opening = world.shells.open_recorded(
        &rule,
        alice(),
        terminal(),
        Given::default(),
        Some(recording),
    );
    let id = opening.await.unwrap().id;
    let mut seen = world.attach(&id, FROM_THE_START).await;
    let full = u64::try_from(limits::OUTPUT_BYTES).unwrap();
    eventually("it is full", || world.record(&id).output == full).await;
    world.shells.end(&id, &alice()).unwrap();
    assert_eq!(seen.end().await.cause, Cause::Owner);
}
