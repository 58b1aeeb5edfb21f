//! Output of programs that run elsewhere.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};

use super::printable;

/// Writes bytes that a program elsewhere has written to its stdout, as they are. On a terminal nothing but its lines and tabs passes as
/// it is.
///
/// # Errors
/// Stdout cannot be written.
pub fn relay_to_stdout(data: &[u8]) -> io::Result<()> {
    let to = io::stdout();
    let is_terminal = to.is_terminal();
    relay(data, to.lock(), is_terminal)
}

/// The same of its stderr, to stderr.
///
/// # Errors
/// Stderr cannot be written.
pub fn relay_to_stderr(data: &[u8]) -> io::Result<()> {
    let to = io::stderr();
    let is_terminal = to.is_terminal();
    relay(data, to.lock(), is_terminal)
}

fn relay(data: &[u8], mut to: impl Write, is_terminal: bool) -> io::Result<()> {
    to.write_all(&visible(data, is_terminal))?;
    to.flush()
}

/// A terminal obeys what it is shown, and the node may be captured: there, nothing but lines and tabs passes as it is.
fn visible(data: &[u8], is_terminal: bool) -> Cow<'_, [u8]> {
    if !is_terminal {
        return data.into();
    }
    let text = String::from_utf8_lossy(data);
    let lines = text.split_inclusive(['\n', '\t']).map(|part| {
        let end = part
            .chars()
            .next_back()
            .filter(|end| matches!(end, '\n' | '\t'));
        let line = end.and_then(|end| part.strip_suffix(end)).unwrap_or(part);
        let mut shown = printable(line).into_owned();
        shown.extend(end);
        shown
    });
    lines.collect::<String>().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_output_does_not_command_a_terminal() {
        let hostile = b"a\tb\n\x1b]0;title\x07\xff\n";
        assert_eq!(&*visible(hostile, false), hostile);
        let shown = String::from_utf8(visible(hostile, true).into_owned()).unwrap();
        assert_eq!(shown, "a\tb\n\\u001b]0;title\\u0007\u{fffd}\n");
    }

    #[test]
    fn bytes_for_a_program_stay_as_they_are() {
        let mut to = Vec::new();
        relay(b"\x1b\xff\n", &mut to, false).unwrap();
        assert_eq!(to, b"\x1b\xff\n");
    }
}
