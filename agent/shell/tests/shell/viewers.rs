//! Viewers that come and go.

use avt::Terminal;
use underpass_agent_shell::{Attach, AttachError, Event, InputError, Size, Writes, limits};

use crate::world::{FROM_THE_START, World, eventually, rule, script};

const WATCHES: Attach = Attach {
    writes: Writes::Never,
    size: None,
    had: None,
};

/// A terminal that was fed this.
fn shown(parts: &[&[u8]]) -> Terminal {
    let mut terminal = Terminal::new(80, 24).unwrap();
    for part in parts {
        terminal.feed(&*String::from_utf8_lossy(part));
    }
    terminal
}

#[tokio::test]
async fn a_viewer_that_comes_later_sees_the_screen_as_it_is_and_then_all_that_follows() {
    let world = World::new();
    let draws = "stty -echo; printf '$ vi\\r\\n\\033[?1049h\\033[2J\\033[1;31mred\\033[0m\\033[5;10H\\033[48;2;1;2;3mh\\303\\251\\033[0m'; \
                 read -r _; printf '\\033[7m more \\033[?1049l'; read -r _";
    let id = world.open(&script(draws, "")).await;
    let all = Attach {
        writes: Writes::Never,
        ..FROM_THE_START
    };
    let mut all = world.attach(&id, all).await;
    let first = world.attach(&id, Attach::default()).await;
    all.until("48;2;1;2;3mhé\u{1b}[0m").await;
    // The laptop is closed.
    drop(first);
    let mut second = world.attach(&id, Attach::default()).await;
    let attached = second.event().await;
    let Some(Event::Attached {
        at,
        is_writer: true,
        size,
        ..
    }) = attached
    else {
        panic!("{attached:?}")
    };
    assert_eq!((at, size), (all.next(), Size::fit(80, 24)));
    let redraw = second.redraw.clone().unwrap();
    let drawn =
        b"$ vi\r\n\x1b[?1049h\x1b[2J\x1b[1;31mred\x1b[0m\x1b[5;10H\x1b[48;2;1;2;3mh\xc3\xa9\x1b[0m";
    assert_eq!(shown(&[&redraw]).dump(), shown(&[drawn]).dump());
    assert_eq!(
        shown(&[&redraw]).cursor_position(),
        shown(&[drawn]).cursor_position()
    );
    second.type_in("\n").await;
    second.until("\x1b[?1049l").await;
    let behind = b"\x1b[7m more \x1b[?1049l";
    let (now, expected) = (shown(&[&redraw, behind]), shown(&[drawn, behind]));
    assert_eq!(now.dump(), expected.dump());
    assert!(
        now.screen().text()[0].starts_with("$ vi"),
        "{:?}",
        now.screen().text()
    );
}

#[tokio::test]
async fn a_character_that_is_cut_is_whole_for_a_viewer_that_attaches_in_its_midst() {
    let world = World::new();
    let cut = "stty raw -echo; printf 'a\\342\\202'; head -c 1 >/dev/null; printf '\\254b'";
    let id = world.open(&script(cut, "")).await;
    eventually("it has begun", || world.record(&id).output == 3).await;
    let mut seen = world.attach(&id, Attach::default()).await;
    seen.event().await;
    assert_eq!(seen.next(), 1);
    seen.type_in("x").await;
    seen.end().await;
    assert_eq!(seen.text(), "€b");
}

#[tokio::test]
async fn a_viewer_that_comes_back_goes_on_behind_the_bytes_that_it_had() {
    let world = World::new();
    let prints = "stty raw -echo; i=0; while [ $i -lt 20000 ]; do printf '%06d\\n' $i; i=$((i+1)); done; head -c 1 >/dev/null; \
                  head -c 1000000 /dev/zero; head -c 1 >/dev/null";
    let id = world.open(&script(prints, "")).await;
    let mut first = world.attach(&id, FROM_THE_START).await;
    while first.next() < 70_000 {
        first.event().await;
    }
    let had = first.next();
    let mut text = first.text();
    drop(first);
    eventually("it goes on alone", || world.record(&id).output == 140_000).await;
    let back = Attach {
        had: Some(had),
        ..Attach::default()
    };
    let mut second = world.attach(&id, back).await;
    second.event().await;
    assert_eq!((second.next(), &second.redraw), (had, &None));
    text.push_str(&second.until("019999\n").await);
    let lines = text.lines().map(|line| line.parse::<u32>().unwrap());
    assert!(lines.eq(0..20_000), "lines are lost, or come twice");
    // A place that is kept no more, and one that there is not: both get the screen.
    second.type_in("x").await;
    drop(second);
    eventually("more than is kept", || {
        world.record(&id).output == 1_140_000
    })
    .await;
    for unknown in [had, 1_140_001, u64::MAX] {
        let back = Attach {
            had: Some(unknown),
            ..Attach::default()
        };
        let mut third = world.attach(&id, back).await;
        third.event().await;
        assert_eq!(third.next(), 1_140_000);
        assert!(third.redraw.is_some());
    }
}

#[tokio::test]
async fn one_viewer_writes_and_another_takes_over_when_it_says_so() {
    let world = World::new();
    let mut first = world.run(&rule("program: /bin/cat")).await;
    let mut second = world.attach(&first.id(), Attach::default()).await;
    for (seen, writes) in [(&mut first, true), (&mut second, false)] {
        let attached = seen.event().await;
        assert!(matches!(attached, Some(Event::Attached { is_writer, .. }) if is_writer == writes));
    }
    let refused = second.input().write(b"x").await;
    assert!(matches!(refused, Err(InputError::NotWriter)), "{refused:?}");
    let refused = second.input().resize(Size::fit(10, 10));
    assert!(matches!(refused, Err(InputError::NotWriter)), "{refused:?}");
    second.input().take_over(Some(Size::fit(100, 30))).unwrap();
    assert_eq!(first.event().await, Some(Event::TakenOver));
    assert_eq!(
        first.event().await,
        Some(Event::Resized(Size::fit(100, 30)))
    );
    let refused = first.input().write(b"x").await;
    assert!(matches!(refused, Err(InputError::NotWriter)), "{refused:?}");
    second.type_in("mine\n").await;
    for seen in [&mut first, &mut second] {
        seen.until("mine\r\nmine\r\n").await;
    }
    // While it attaches, too.
    let over = Attach {
        writes: Writes::TakesOver,
        ..Attach::default()
    };
    let third = world.attach(&first.id(), over).await;
    while second.event().await != Some(Event::TakenOver) {}
    third.type_in("theirs\n").await;
    first.until("theirs\r\ntheirs\r\n").await;
    // Without a writer there is none, until one says so.
    drop(third);
    let refused = first.input().write(b"x").await;
    assert!(matches!(refused, Err(InputError::NotWriter)), "{refused:?}");
    first.input().take_over(None).unwrap();
    first.type_in("again\n").await;
    second.until("again\r\nagain\r\n").await;
}

#[tokio::test]
async fn a_viewer_whose_input_waits_hears_that_another_one_has_taken_over() {
    let world = World::new();
    let first = world
        .run(&script("stty raw -echo; echo ready; sleep 1000", ""))
        .await;
    let mut first = first;
    first.until("ready").await;
    let input = first.input();
    let pasting = tokio::spawn(async move { input.write_all(&[b'x'; 1_000_000]).await });
    let second = world.attach(&first.id(), WATCHES).await;
    second.input().take_over(None).unwrap();
    let pasted = tokio::time::timeout(crate::world::DEADLINE, pasting).await;
    let pasted = pasted.unwrap().unwrap();
    assert!(matches!(pasted, Err(InputError::NotWriter)), "{pasted:?}");
    world.shells.stop().await;
}

#[tokio::test]
async fn rule_19_a_shell_has_a_bounded_number_of_viewers() {
    let world = World::new();
    let id = world.open(&rule("program: /bin/cat")).await;
    let mut all = Vec::new();
    for _ in 0..limits::VIEWERS {
        all.push(world.attach(&id, WATCHES).await);
    }
    let owner = crate::world::alice();
    let refused = world.shells.attach(&id, &owner, WATCHES).await;
    assert_eq!(refused.unwrap_err(), AttachError::TooManyViewers);
    all.pop();
    world.attach(&id, WATCHES).await;
}
