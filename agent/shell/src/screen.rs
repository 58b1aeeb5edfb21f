//! A model of a shell's screen, so that a viewer who attaches gets the screen as it is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use avt::Terminal;

use crate::modes::Modes;
use crate::size::Size;
use crate::utf8::Utf8;

/// A terminal of any state becomes a fresh one: it leaves the alternate screen, has no margins, tab stops, attributes or character sets of
/// an earlier program's, and is empty. RIS (`ESC c`) would do the same, and take the lines above the screen, which are the user's.
const CLEAR: &str = "\x18\x1b[?1049l\x1b[!p\x1b[?6l\x1b[4l\x1b[20l\x1b[?7h\x1b[?25h\x1b[?1l\x1b(B\x1b)B\x0f\x1b[r\x1b[m\x1b[H\x1b[2J\x1b[?5W";

/// The screen of a terminal: its cells, its cursor, and the modes that its programs have set.
pub(crate) struct Screen {
    terminal: Option<Terminal>,
    size: Size,
    modes: Modes,
    text: Utf8,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Screen {
    pub(crate) fn new(size: Size) -> Self {
        Self {
            terminal: terminal(size),
            size,
            modes: Modes::default(),
            text: Utf8::default(),
        }
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Bytes at the end of what it was fed that are the beginning of a character, and not on the screen yet.
    pub(crate) fn begun(&self) -> usize {
        self.text.begun()
    }

    /// Shows some more output. It may be any bytes, cut anywhere.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let text = self.text.decode(bytes);
        self.modes.feed(&text);
        self.guarded(|terminal| terminal.feed(text.as_str()));
    }

    pub(crate) fn resize(&mut self, size: Size) {
        self.size = size;
        self.guarded(|terminal| terminal.resize(size.columns().into(), size.rows().into()));
    }

    /// Sequences that bring a terminal of this size to show this screen, in any state that it is in.
    pub(crate) fn redraw(&mut self) -> Vec<u8> {
        let mut redraw = String::from(CLEAR);
        redraw.push_str(&self.modes.restore());
        // Last: it may end in the midst of a sequence, as the output did.
        let mut dump = String::new();
        self.guarded(|terminal| dump = terminal.dump());
        redraw.push_str(&dump);
        redraw.into_bytes()
    }

    /// A mistake in the terminal's code costs the model its content, which a program draws again, and nothing else: the output is any
    /// program's.
    fn guarded(&mut self, change: impl FnOnce(&mut Terminal)) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        if catch_unwind(AssertUnwindSafe(|| change(terminal))).is_err() {
            tracing::error!("the model of a shell's screen failed, and begins anew");
            self.terminal = self::terminal(self.size);
        }
    }

    #[cfg(test)]
    pub(crate) fn dump(&self) -> String {
        self.terminal.as_ref().unwrap().dump()
    }
}

/// Without lines above the screen: a viewer's own terminal keeps those that it has seen.
fn terminal(size: Size) -> Option<Terminal> {
    Terminal::new(size.columns().into(), size.rows().into()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn screen(columns: u16, rows: u16, bytes: &[u8]) -> Screen {
        let mut screen = Screen::new(Size::fit(columns, rows));
        screen.feed(bytes);
        screen
    }

    const FULL_SCREEN: &[u8] = b"$ vi\r\n\x1b[?1049h\x1b[?2004h\x1b[2J\x1b[1;31mred\x1b[0m\x1b[5;10H\x1b[48;2;1;2;3mhere\x1b[0m\x1b[?25l";

    #[test]
    fn a_terminal_of_any_state_shows_the_screen_as_it_is() {
        let mut shown = screen(40, 10, FULL_SCREEN);
        let redraw = shown.redraw();
        for before in [
            &b""[..],
            b"other text\r\nand more\x1b[3;4H\x1b[7m",
            b"\x1b[?1049h\x1b[2;5r\x1b[?6h\x1b[4h\x1b(0\x0e\x1b[?7l\x1b[?25l",
            b"\x1b]0;a title without end",
            b"\x1b[38;5",
        ] {
            let mut other = screen(40, 10, before);
            other.feed(&redraw);
            assert_eq!(other.dump(), shown.dump(), "{before:?}");
            assert_eq!(other.modes.restore(), shown.modes.restore());
        }
        // The program leaves its screen, and the one below is there.
        let mut other = screen(40, 10, &redraw);
        for each in [&mut other, &mut shown] {
            each.feed(b"\x1b[?1049l");
        }
        assert_eq!(other.dump(), shown.dump());
        assert!(other.dump().contains("$ vi"), "{:?}", other.dump());
    }

    #[test]
    fn output_that_was_cut_in_a_sequence_goes_on_after_the_screen() {
        let mut shown = screen(20, 3, b"a\x1b[3");
        let mut other = screen(20, 3, &shown.redraw());
        for each in [&mut other, &mut shown] {
            each.feed(b"1mred");
        }
        assert_eq!(other.dump(), shown.dump());
        assert!(other.dump().contains("\x1b[31m"), "{:?}", other.dump());
    }

    #[test]
    fn rule_19_no_output_makes_the_model_larger() {
        let mut shown = screen(80, 24, b"\x1b[8;60000;60000t");
        for _ in 0..64 {
            shown.feed(b"\x1b]0;");
            shown.feed(&[b'x'; 16 * 1024]);
            shown.feed(b"\r\n\x1b[65535b\x1b[65535S\x1b[65535L");
        }
        assert_eq!(shown.terminal.as_ref().unwrap().size(), (80, 24));
        assert!(
            shown.redraw().len() < 80 * 24 * 64,
            "{}",
            shown.redraw().len()
        );
    }

    fn sizes() -> impl Strategy<Value = (u16, u16)> {
        prop_oneof![
            (1_u16..5, 1_u16..5),
            (1_u16..100, 1_u16..50),
            Just((1, 1)),
            Just((1, 200)),
            Just((300, 1)),
        ]
    }

    /// Bytes that are mostly sequences, some of them wrong, and wide characters.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..8),
            "[ -~]{0,12}".prop_map(String::into_bytes),
            "[\u{4e00}-\u{4e10}\u{1f600}-\u{1f610}\u{300}\u{200d}\u{fe0f}]{0,4}"
                .prop_map(String::into_bytes),
            "\x1b\\[[?!>]?[0-9;:]{0,9}[@-~]".prop_map(String::into_bytes),
            "\x1b\\[(1|2|6|65535|99999999)?(;(1|65535))?[A-HJ-MPSTXZ@`a-fhlrstu]"
                .prop_map(String::into_bytes),
            "\x1b\\[\\?(1|5|6|7|25|47|1047|1048|1049|2004)[hl]".prop_map(String::into_bytes),
            "\x1b[ -/]{0,2}[0-~]".prop_map(String::into_bytes),
            "[\r\n\t\x08\x0e\x0f\x0b\x0c]{1,5}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn rule_19_any_output_in_any_pieces_is_the_same_screen(
            size in sizes(),
            later in sizes(),
            bytes in output(),
            more in output(),
            cuts in proptest::collection::vec(1_usize..40, 1..8),
        ) {
            let (size, later) = (Size::fit(size.0, size.1), Size::fit(later.0, later.1));
            let mut whole = Screen::new(size);
            let mut pieces = Screen::new(size);
            let mut cuts = cuts.iter().cycle();
            for (bytes, then) in [(&bytes, later), (&more, size)] {
                whole.feed(bytes);
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let cut = (*cuts.next().unwrap()).min(rest.len());
                    pieces.feed(&rest[..cut]);
                    rest = &rest[cut..];
                }
                prop_assert_eq!(whole.dump(), pieces.dump());
                prop_assert_eq!(whole.redraw(), pieces.redraw());
                let cells = usize::from(whole.size().columns()) * usize::from(whole.size().rows());
                prop_assert!(whole.redraw().len() <= 1024 + 2 * cells * 64 + 4096);
                whole.resize(then);
                pieces.resize(then);
            }
            prop_assert_eq!(whole.dump(), pieces.dump());
        }
    }
}
