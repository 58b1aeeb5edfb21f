//! A terminal that is a shell's for a while: it obeys the shell's output, and every key is the shell's.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::printable;

/// A program of the shell's may have left the terminal in any state. These undo each mode by itself: a reset of all would clear the screen
/// of some terminals. The cursor stays in its line, so that earlier output stays above the next prompt. Origin mode (DECOM) alone is left,
/// since to leave it moves the cursor: it means nothing where the scroll region is the whole screen.
const USUAL: &str = concat!(
    // The end of a string that was cut off: the rest would be part of it.
    "\x1b\\",
    // The usual screen, with the cursor where that has it: 1049 leads back to the place that DECSC has saved, of each screen its own.
    "\x1b7\x1b[?1049l\x1b[?1047l\x1b[?47l",
    // The scroll region (DECSTBM) and the left and right margins (DECLRMM). Both move the cursor, which DECRC brings back.
    "\x1b7\x1b[?69l\x1b[r\x1b8",
    // Attributes, the character sets G0 and G1, and G0 as the one in use.
    "\x1b[0m\x1b(B\x1b)B\x0f",
    // Locked keys (KAM), insert mode (IRM), and line feeds that are new lines (LNM): off.
    "\x1b[2l\x1b[4l\x1b[20l",
    // Autowrap (DECAWM), auto-repeat (DECARM) and the cursor (DECTCEM): on, and the cursor in its usual form.
    "\x1b[?7h\x1b[?8h\x1b[?25h\x1b[0 q",
    // Reverse video (DECSCNM), reverse wraparound, application cursor keys (DECCKM) and keypad (DECNKM): off.
    "\x1b[?5l\x1b[?45l\x1b[?1l\x1b[?66l\x1b>",
    // The mouse in all of its forms, and reports of the focus: off.
    "\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l",
    // Marks around pasted text, updates that wait for their end, reports of colours and of the size: off.
    "\x1b[?2004l\x1b[?2026l\x1b[?2031l\x1b[?2048l",
    // Keys that are told in other ways: xterm's modifyOtherKeys, and kitty's flags.
    "\x1b[>4;0m\x1b[=0u",
    // The saved cursor has attributes, and modes, of its own.
    "\r\n\x1b7",
);

/// The terminal of this program, in its own state until it is [raw](Self::raw), and again when that is over.
#[derive(Debug)]
pub struct Terminal {
    state: Termios,
}

/// A terminal whose keys are a shell's, until it is dropped.
#[derive(Debug)]
pub struct Raw<'a>(&'a Terminal);

impl Terminal {
    /// The terminal at standard input and output; `None` where they are not one.
    pub fn of_this_program() -> Option<Self> {
        let is_one = isatty(io::stdin()) && isatty(io::stdout());
        let state = is_one.then(|| tcgetattr(io::stdin()))?.ok()?;
        Some(Self { state })
    }

    /// Its columns and rows; `None` where it does not know them.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(io::stdout().as_fd()).ok()?;
        let (columns, rows) = (size.ws_col, size.ws_row);
        (columns > 0 && rows > 0).then_some((columns, rows))
    }

    /// Its kind, as its programs know it.
    pub fn kind(&self) -> String {
        let term = std::env::var("TERM").ok();
        let term = term.filter(|term| !term.is_empty());
        term.unwrap_or_else(|| "dumb".to_owned())
    }

    /// Takes every key as it is typed.
    ///
    /// # Errors
    /// The terminal does not allow it.
    pub fn raw(&self) -> io::Result<Raw<'_>> {
        let mut raw = self.state.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(self))
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = obey(USUAL.as_bytes());
        // Keys that nobody has read, and answers of the terminal, are not for the program that reads it next.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0.state);
    }
}

/// Has the terminal obey the output of a shell of the user's own, who has asked for that, and for nothing less. That of another user's is
/// for [`Tame`](crate::Tame) first. Blocks while the terminal takes nothing.
///
/// # Errors
/// The terminal is gone.
pub fn obey(output: &[u8]) -> io::Result<()> {
    let mut terminal = io::stdout().lock();
    terminal.write_all(output)?;
    terminal.flush()
}

/// Tells the user something between a shell's output: a line by itself, on stderr.
pub fn interject(words: &str) {
    let _ = write!(io::stderr(), "\r\n[underpass: {}]\r\n", printable(words));
}

#[cfg(test)]
mod tests {
    use avt::Terminal;

    use super::USUAL;

    /// A terminal that was shown these pieces.
    fn shown(pieces: &[&str]) -> Terminal {
        let mut terminal = Terminal::new(20, 6).unwrap();
        pieces.iter().for_each(|piece| terminal.feed(*piece));
        terminal
    }

    fn text(terminal: &Terminal) -> String {
        let text = terminal.screen().text().join("\n");
        text.trim_end().to_owned()
    }

    #[test]
    fn no_mode_of_a_program_is_left() {
        // It has more than a line, goes back, and puts something in.
        let probe = "0123456789012345678901234\rab\x1b[4D\n\n\nend";
        for set in [
            "\x1b[4h",
            "\x1b[20h",
            "\x1b[?7l",
            "\x1b[2;4r",
            "\x1b[?25l",
            "\x1b[?1h",
            "\x1b[31;1m",
            "\x1b(0",
            "\x1b)0\x0e",
            "\x1b[4h\x1b[31m\x1b7",
        ] {
            let left = shown(&["line\r\n", set, "\x1b[2;1H", USUAL, probe]);
            let usual = shown(&["line\r\n", "\x1b[2;1H", USUAL, probe]);
            assert_eq!(left.dump(), usual.dump(), "{set:?}");
        }
    }

    #[test]
    fn what_was_shown_stays_where_it_was() {
        let pieces = ["one\r\ntwo", USUAL, "three"];
        assert_eq!(text(&shown(&pieces)), "one\ntwo\nthree");
        // Behind a program that had the other screen, too.
        for other in ["\x1b[?1049h", "\x1b7\x1b[?1047h", "\x1b7\x1b[?47h"] {
            let pieces = ["one\r\ntwo", other, "\x1b[Hmenu", USUAL, "three"];
            assert_eq!(text(&shown(&pieces)), "one\ntwo\nthree", "{other:?}");
        }
    }

    #[test]
    fn each_private_mode_that_reports_something_is_off() {
        for mode in [
            9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2031, 2048,
        ] {
            assert!(USUAL.contains(&format!("\x1b[?{mode}l")), "{mode}");
        }
    }
}
