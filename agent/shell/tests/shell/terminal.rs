//! Terminals as programs see them, and the bytes that go through.

use underpass_agent_policy::ShellKind;
use underpass_agent_shell::{Attach, Cause, End, Event, Exit, Size, Writes};

use crate::world::{World, kind, rule, script, scripted};

#[tokio::test]
async fn what_is_typed_is_echoed_and_read() {
    let world = World::new();
    let mut seen = world.run(&rule("program: /bin/cat")).await;
    seen.type_in("grüße €\n").await;
    seen.until("grüße €\r\ngrüße €\r\n").await;
    // The end of the input, by the terminal.
    seen.type_in("\x04").await;
    let end = End {
        exit: Exit::Status(0),
        cause: Cause::Program,
    };
    assert_eq!(seen.end().await, end);
}

#[tokio::test]
async fn the_terminal_makes_signals_of_control_characters() {
    let world = World::new();
    let mut seen = world.run(&script("echo ready; exec sleep 1000", "")).await;
    seen.until("ready").await;
    seen.type_in("\x03").await;
    assert_eq!(seen.end().await.exit, Exit::Signal(2));
}

#[tokio::test]
async fn the_shell_leads_a_session_with_the_terminal_of_its_own() {
    let world = World::new();
    let says = "tty; : >/dev/tty && echo controlled; echo error >&2; read -r _ _ _ _ _ session _ </proc/self/stat; \
                test $session = $$ && echo leader; stty -a | grep -o -- '-*iutf8'";
    let mut seen = world.run(&script(says, "")).await;
    let end = seen.end().await;
    let text = seen.text();
    assert_eq!(end.exit, Exit::Status(0), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{text}");
    assert_eq!(
        lines[1..],
        ["controlled", "error", "leader", "iutf8"],
        "{text}"
    );
}

#[tokio::test]
async fn a_terminal_has_the_size_that_its_writer_says() {
    let world = World::new();
    let mut seen = world
        .run(&script(
            "stty size; while read -r _; do stty size; done",
            "",
        ))
        .await;
    seen.until("24 80").await;
    let watches = Attach {
        writes: Writes::Never,
        ..Attach::default()
    };
    let mut watcher = world.attach(&seen.id(), watches).await;
    for (columns, rows, shown) in [
        (132, 43, "43 132"),
        (1, 1, "1 1"),
        (0, 0, "24 80"),
        (1000, 1000, "131 1000"),
        (80, 24, "24 80"),
    ] {
        let size = Size::fit(columns, rows);
        seen.input().resize(size).unwrap();
        while watcher.event().await != Some(Event::Resized(size)) {}
        seen.type_in("\n").await;
        seen.until(&format!("{shown}\r\n")).await;
        // Every size has a screen.
        let mut other = world.attach(&seen.id(), watches).await;
        let attached = other.event().await;
        assert!(matches!(attached, Some(Event::Attached { size: now, .. }) if now == size));
        assert!(other.redraw.is_some());
    }
}

#[tokio::test]
async fn a_program_hears_of_another_size() {
    let world = World::new();
    let waits = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut seen = world.run(&script(waits, "")).await;
    seen.until("ready").await;
    seen.input().resize(Size::fit(100, 30)).unwrap();
    seen.until("30 100").await;
    assert_eq!(seen.end().await.exit, Exit::Status(0));
}

#[tokio::test]
async fn bytes_are_passed_unchanged() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bytes");
    let prints = "stty raw; head -c 1000000 /dev/urandom >$F; cat $F";
    let set = format!(", environment: {{set: {{F: {file:?}}}}}");
    let node = kind(ShellKind::Node, &scripted(prints, &set));
    let mut seen = world.run(&node).await;
    seen.end().await;
    assert!(seen.output == std::fs::read(&file).unwrap(), "other bytes");
}

#[tokio::test]
async fn a_paste_of_ten_megabytes_arrives_whole() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bytes");
    let reads = "stty raw -echo; echo ready; head -c 10000000 >$F";
    let set = format!(", environment: {{set: {{F: {file:?}}}}}");
    let node = kind(ShellKind::Node, &scripted(reads, &set));
    let mut seen = world.run(&node).await;
    seen.until("ready").await;
    let numbers = 0_u32..2_500_000;
    let pasted: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
    seen.input().write_all(&pasted).await.unwrap();
    assert_eq!(seen.end().await.exit, Exit::Status(0));
    assert!(pasted == std::fs::read(&file).unwrap(), "other bytes");
}
