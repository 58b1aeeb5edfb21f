//! Programs that write faster than viewers read.

use std::time::{Duration, Instant};

use underpass_agent_shell::{Attach, Event, Exit, Size, Terminal, Writes, limits};

use crate::world::{World, alice, eventually, rule, script, terminal};

fn full() -> u64 {
    u64::try_from(limits::OUTPUT_BYTES).unwrap()
}

const WATCHES: Attach = Attach {
    writes: Writes::Never,
    size: None,
    had: None,
};

#[tokio::test]
async fn rule_19_a_program_waits_for_a_slow_viewer() {
    let world = World::new();
    let mut slow = world.run(&rule("program: /usr/bin/yes")).await;
    let id = slow.id();
    let mut other = world.attach(&id, WATCHES).await;
    let reading = tokio::spawn(async move { while other.hear().await.is_some() {} });
    assert!(matches!(slow.event().await, Some(Event::Attached { .. })));
    let from = slow.next();
    let output = || world.record(&id).output;
    eventually("the program waits", || output() == from + full()).await;
    // Nothing tells that nothing comes: a program that did not wait would have written megabytes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(output(), from + full());
    // The program may write as much as the viewer takes.
    while slow.next() < from + full() {
        slow.event().await;
    }
    eventually("the program goes on", || output() > from + full()).await;
    assert!(output() <= slow.next() + full());
    drop(slow);
    eventually("it waits for nobody", || output() > from + 8 * full()).await;
    world.shells.stop().await;
    reading.await.unwrap();
}

#[tokio::test]
async fn a_viewer_that_takes_nothing_is_detached_and_the_shell_goes_on() {
    let world = World::new();
    let mut stalled = world.run(&rule("program: /usr/bin/yes")).await;
    let id = stalled.id();
    let mut other = world.attach(&id, WATCHES).await;
    assert!(matches!(
        stalled.event().await,
        Some(Event::Attached { .. })
    ));
    let from = stalled.next();
    while other.next() < from + full() {
        other.event().await;
    }
    assert_eq!(world.record(&id).viewers, 2);
    // From now on a clock that goes on where all else waits.
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    other.hear().await;
    assert!(
        before.elapsed() >= limits::STALLED / 2,
        "{:?}",
        before.elapsed()
    );
    tokio::time::resume();
    while other.next() < from + 4 * full() {
        other.event().await;
    }
    assert_eq!(world.record(&id).viewers, 1);
    assert_eq!(stalled.hear().await, Some(Event::Dismissed));
    assert_eq!(stalled.hear().await, None);
    stalled.input().write(b"x").await.unwrap_err();
    world.shells.stop().await;
}

#[tokio::test]
async fn a_shell_without_a_viewer_goes_on() {
    let world = World::new();
    let prints = "head -c 5000000 /dev/zero | tr '\\0' x; printf '\\r\\nthe end'; exit 7";
    let id = world.open(&script(prints, "")).await;
    eventually("it ends", || world.record(&id).end.is_some()).await;
    assert_eq!(world.record(&id).output, 5_000_000 + 10);
    let mut late = world.attach(&id, Attach::default()).await;
    assert_eq!(late.end().await.exit, Exit::Status(7));
    let redraw = String::from_utf8(late.redraw.unwrap()).unwrap();
    assert!(redraw.contains("the end"), "{redraw:?}");
}

#[tokio::test]
async fn input_does_not_wait_for_output_that_nobody_takes() {
    let world = World::new();
    // It reads while its output stands still.
    let both = "stty raw -echo; yes & head -c 1000000 >/dev/null; kill $!; exit 3";
    let seen = world.run(&script(both, "")).await;
    let id = seen.id();
    eventually("it is full", || world.record(&id).output >= full()).await;
    seen.type_in(&"x".repeat(1_000_000)).await;
    let mut seen = seen;
    assert_eq!(seen.end().await.exit, Exit::Status(3));
}

/// Nine bytes that print a character 65,535 times.
#[tokio::test]
async fn rule_19_output_whose_screen_takes_long_holds_up_no_other_shell_and_no_end() {
    let world = World::new();
    let repeats = "stty -opost; printf x; yes \"$(printf '\\033[65535b')\"";
    // Each of them scrolls a terminal of one column.
    let narrow = Terminal {
        size: Size::fit(1, 1000),
        ..terminal()
    };
    let opened = world
        .shells
        .open(&script(repeats, ""), alice(), narrow)
        .await;
    let id = opened.unwrap().id;
    eventually("its screen is made", || world.record(&id).output > 128).await;
    let mut other = world.run(&rule("program: /bin/cat")).await;
    other.type_in("here\n").await;
    other.until("here\r\nhere\r\n").await;
    // A viewer gets the screen that there is, and the rest as output. A single piece of output takes half a minute.
    let most = Duration::from_secs(15);
    let before = Instant::now();
    let mut seen = world.attach(&id, Attach::default()).await;
    assert!(matches!(seen.event().await, Some(Event::Attached { .. })));
    assert!(matches!(seen.event().await, Some(Event::Output { .. })));
    assert!(before.elapsed() < most, "{:?}", before.elapsed());
    let before = Instant::now();
    world.shells.stop().await;
    assert!(before.elapsed() < most, "{:?}", before.elapsed());
}
