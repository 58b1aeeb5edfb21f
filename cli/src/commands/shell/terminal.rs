//! This program's terminal.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use underpass_api::TerminalSize;

/// The terminal, in its own state until it is [raw](Self::raw), and again when that is over.
#[derive(Debug)]
pub(super) struct Terminal {
    state: Termios,
}

/// A terminal whose keys are the shell's, until it is dropped.
pub(super) struct Raw<'a>(&'a Terminal);

impl Terminal {
    /// The terminal at standard input and output; `None` where they are not one.
    pub(super) fn of_this_program() -> Option<Self> {
        let is_one = isatty(io::stdin()) && isatty(io::stdout());
        let state = is_one.then(|| tcgetattr(io::stdin()))?.ok()?;
        Some(Self { state })
    }

    /// Its size; no cells where it does not know.
    pub(super) fn size(&self) -> TerminalSize {
        let size = tcgetwinsize(io::stdout().as_fd());
        size.map_or(
            TerminalSize {
                columns: 0,
                rows: 0,
            },
            |size| TerminalSize {
                columns: size.ws_col,
                rows: size.ws_row,
            },
        )
    }

    /// Its kind, as its programs know it.
    pub(super) fn kind(&self) -> String {
        let term = std::env::var("TERM").ok();
        let term = term.filter(|term| !term.is_empty());
        term.unwrap_or_else(|| "dumb".to_owned())
    }

    /// Takes every key as it is typed.
    ///
    /// # Errors
    /// The terminal does not allow it.
    pub(super) fn raw(&self) -> io::Result<Raw<'_>> {
        let mut raw = self.state.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(self))
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // The shell's programs may have left the terminal in any state: attributes, the other screen, a hidden cursor, pasting, the mouse.
        const USUAL: &[u8] =
            b"\x1b[0m\x1b[?1049l\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1l\x1b>\r\n";
        let _ = io::stdout().write_all(USUAL);
        let _ = io::stdout().flush();
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0.state);
    }
}
