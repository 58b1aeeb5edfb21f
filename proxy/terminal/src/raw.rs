//! A terminal that is a shell's for a while: it obeys the shell's output, and every key is the shell's.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::printable;

/// A program of the shell's may have left the terminal in any state: attributes, the other screen, a hidden cursor, pasting, the mouse.
const USUAL: &[u8] = b"\x1b[0m\x1b[?1049l\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1l\x1b>\r\n";

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
        let _ = obey(USUAL);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0.state);
    }
}

/// Has the terminal obey a shell's output. The user has asked for that, and for nothing less. Blocks while the terminal takes nothing.
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
