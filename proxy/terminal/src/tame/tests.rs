//! Output that a terminal is shown.

use avt::Terminal;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn tame(output: &[u8]) -> String {
    String::from_utf8(Tame::default().pass(output)).unwrap()
}

#[test]
fn rule_23_a_recording_asks_the_terminal_nothing_and_reaches_nothing_beyond_its_window() {
    for (why, sequence) in [
        ("clipboard", "\x1b]52;c;cm0gLXJmIH4K\x07"),
        ("clipboard, asked for", "\x1b]52;c;?\x1b\\"),
        ("title", "\x1b]0;owned\x07"),
        ("title, by C1", "\u{9d}0;owned\u{9c}"),
        ("colours", "\x1b]4;1;?\x07\x1b]10;?\x07\x1b]104\x07"),
        ("a link", "\x1b]8;;https://a.example/\x1b\\"),
        (
            "a folder",
            "\x1b]7;file:///etc\x07\x1b]1337;File=name=a:aaaa\x07",
        ),
        ("DA", "\x1b[c\x1b[0c\x1b[>c\x1b[=c\u{9b}c\x1bZ"),
        ("DSR", "\x1b[5n\x1b[6n\x1b[?6n\x1b[>0n"),
        ("DECRQSS", "\x1bP$q\"p\x1b\\\u{90}$qm\u{9c}"),
        ("DECRQM", "\x1b[?25$p\x1b[4$p"),
        ("XTGETTCAP", "\x1bP+q544e\x1b\\"),
        ("XTVERSION", "\x1b[>q\x1b[>0q"),
        ("window", "\x1b[8;50;132t\x1b[14t\x1b[21t\x1b[22;0t\x1b[2t"),
        ("ENQ", "\x05"),
        ("checksum of an area", "\x1b[1;1;1;1;2;2*y"),
        ("presentation", "\x1b[1$w\x1b[2$w"),
        ("parameters", "\x1b[x\x1b[1x"),
        ("locator", "\x1b[1'z\x1b['|\x1b[1'{"),
        ("kitty's keyboard", "\x1b[?u\x1b[>1u\x1b[=1u\x1b[<u"),
        ("kitty's graphics", "\x1b_Ga=q;AAAA\x1b\\"),
        ("keys", "\x1b[>4;2m\x1b[?4m\x1b[2h"),
        ("printer", "\x1b[i\x1b[5i\x1b[?5i\x1b[?1i"),
        (
            "strings",
            "\x1b^pm\x1b\\\x1bXsos\x1b\\\x1b_apc\x1b\\\x1bPdcs\x1b\\",
        ),
        (
            "mouse",
            "\x1b[?1000h\x1b[?1002;1006h\x1b[?1004h\x1b[1;2;3;4;5T",
        ),
        ("eight bits", "\x1b G\x1b[62;0\"p\x1b%@"),
        ("scrollback", "\x1b[3J"),
        ("saved modes", "\x1b[?1000s\x1b[?1000r"),
        ("wide columns", "\x1b[?3h"),
        ("flow", "\x13\x11\0\x7f"),
    ] {
        let pieces = ["one", sequence, "two"].concat();
        assert_eq!(tame(pieces.as_bytes()), "onetwo", "{why}");
    }
    // A raw C1 is no UTF-8, and none is left for a terminal that reads bytes.
    assert_eq!(tame(b"a\x9b6nb"), "a\u{fffd}6nb");
    // One in the midst of another one, and one that is given up.
    assert_eq!(tame(b"\x1b[3\x1b[6n4mx"), "4mx");
    assert_eq!(tame(b"\x1b]0;a\x18b"), "b");
    assert_eq!(tame(b"\x1b[1\x1a;2mx"), ";2mx");
}

#[test]
fn what_draws_passes_as_it_is() {
    for drawn in [
        "text é😀\t\r\n\x08\x07\x0e\x0f",
        "\x1b[1;31;48;2;1;2;3mred\x1b[m\x1b[4:3m",
        "\x1b[H\x1b[2J\x1b[K\x1b[1K\x1b[10;20H\x1b[3A\x1b[2B\x1b[5C\x1b[D\x1b[2;10r",
        "\x1b7\x1b8\x1bM\x1bD\x1bE\x1bH\x1b=\x1b>\x1b(0\x1b)B\x1b#8",
        "\x1b[?1049h\x1b[?25l\x1b[?1h\x1b[?7l\x1b[?2004h\x1b[?2026h\x1b[?1049l",
        "\x1b[?1000l\x1b[?1006l\x1b[4h\x1b[20l\x1b[!p\x1b[2 q\x1b[2;2;5;5$z",
        "\x1b[3L\x1b[2M\x1b[4P\x1b[@\x1b[5X\x1b[2S\x1b[T\x1b[3b\x1b[s\x1b[u\x1b[3g",
    ] {
        assert_eq!(tame(drawn.as_bytes()), drawn);
    }
    // The rest of a sequence passes without the mode that does not.
    assert_eq!(tame(b"\x1b[?1000;25;1006h"), "\x1b[?25h");
    assert_eq!(tame(b"\x1b[2;3J"), "\x1b[2J");
}

#[test]
fn editors_and_monitors_look_as_they_did() {
    let vim = "\x1b[?1049h\x1b[22;0;0t\x1b[>4;2m\x1b[?1h\x1b=\x1b[?2004h\x1b[?1004h\x1b[1;6r\x1b[?12h\x1b[?12l\x1b[22;2t\x1b[22;1t\
        \x1b[27m\x1b[23m\x1b[29m\x1b[m\x1b[H\x1b[2J\x1b[?25l\x1b[6;1H\"a\" 3L, 12B\x1b[2;1H\u{25bd}\x1b[6n\x1b[2;1H  \x1b[3;1H\
        \x1bPzz\x1b\\\x1b[0%m\x1b[6n\x1b[3;1H           \x1b[1;1H\x1b[>c\x1b]10;?\x07\x1b]11;?\x07one\r\ntwo\r\nthree\r\n\
        \x1b[94m~\x1b[m\x1b[4;2H\x1b[K\x1b[1;1H\x1b[?25h\x1b[?4m\x1bP+q436f\x1b\\\x1b[2;2Hx\x1b[1P\x1b[3;1H\x1b[L\x1b[31mnew";
    let top = "\x1b[?1h\x1b=\x1b[H\x1b[2J\x1b(B\x1b[mtop - 1:02\x1b(B\x1b[m\x1b[39;49m\x1b[K\r\nTasks:\x1b(B\x1b[m\x1b[1m 9\x1b(B\x1b[m total\
        \x1b[K\r\n\x1b[K\x1b[7m  PID USER \x1b(B\x1b[m\x1b[K\r\n\x1b(B\x1b[m    1 root\x1b(B\x1b[m\x1b[K\r\n\x1b[J\x1b[3;1H";
    for output in [vim, top] {
        let [mut raw, mut tamed] = [(); 2].map(|()| Terminal::new(30, 6).unwrap());
        raw.feed(output);
        tamed.feed(tame(output.as_bytes()));
        assert_eq!(tamed.screen().text(), raw.screen().text());
    }
}

#[test]
fn a_reset_resets_the_window() {
    let mut terminal = Terminal::new(10, 3).unwrap();
    terminal.feed(tame(b"one\r\ntwo\x1bcthree"));
    assert_eq!(terminal.screen().text().join("\n").trim_end(), "three");
}

#[test]
fn rule_19_an_endless_sequence_of_a_recording_costs_nothing() {
    let mut tame = Tame::default();
    let long = [&b"\x1b["[..], &[b'1'; 100_000]].concat();
    assert_eq!(tame.pass(&long), b"");
    assert!(tame.sequence.capacity() <= 2 * SEQUENCE);
    assert_eq!(tame.pass(b"mx"), b"x");
    let string = [&b"\x1bP"[..], &[b'1'; 100_000]].concat();
    assert_eq!(tame.pass(&string), b"");
    assert_eq!(tame.sequence.len() + tame.character.len(), 0);
}

/// Beginnings of sequences, bytes of which they are made, and others.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let beginnings: &[&[u8]] = &[
        b"\x1b[",
        b"\x1b[?",
        b"\xc2\x9b",
        b"\x1b]",
        b"\x1bP",
        b"\x1b",
    ];
    let likely = b"[]?=>0123456789;:$*'\"! cnhlmJKHtqpxyuiGZ\\\x07\x05\x18\x90\x9c\xc2\xe2\x82\xac";
    let piece = prop_oneof![
        1 => proptest::sample::select(beginnings).prop_map(<[u8]>::to_vec),
        3 => proptest::sample::select(&likely[..]).prop_map(|byte| vec![byte]),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    vec(piece, 0..200).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn rule_23_output_cut_anywhere_passes_as_the_whole_does(output in output(), cuts in vec(0..200_usize, 0..20)) {
        let (mut tame, mut passed, mut from) = (Tame::default(), Vec::new(), 0);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(output.len())).collect();
        cuts.push(output.len());
        cuts.sort_unstable();
        for to in cuts {
            passed.extend(tame.pass(&output[from..to]));
            from = to;
        }
        prop_assert_eq!(&passed, &Tame::default().pass(&output));
        // It draws, so that all of it passes once more.
        prop_assert_eq!(&Tame::default().pass(&passed), &passed);
        // By another rule: no string begins, and nothing is asked.
        let text = String::from_utf8(passed).unwrap();
        for introducer in ["\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x1bZ", "\x05"] {
            prop_assert!(!text.contains(introducer), "{:?}", text);
        }
        prop_assert!(!text.contains(|c: char| ('\u{80}'..='\u{9f}').contains(&c)), "{:?}", text);
        for control in text.split("\x1b[").skip(1) {
            let last = control.chars().find(|c| ('@'..='~').contains(c));
            prop_assert!(!matches!(last, Some('c' | 'n' | 'i' | 't' | 'y') | None), "{:?}", text);
        }
    }
}
