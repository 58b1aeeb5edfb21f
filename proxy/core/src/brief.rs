//! Texts of peers in errors and logs, cut.

use std::{
    borrow::Cow,
    error::Error,
    fmt::{self, Write as _},
};

use crate::limits::QUOTED_CHARS;

/// The beginning of a peer's text, for an error or a log line. An ellipsis stands for the rest.
pub fn brief(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED_CHARS) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
    }
}

/// An error that quotes a peer's text in full, as serde's do: its message is cut to a few words more than that.
#[derive(Debug)]
pub struct Brief<E>(pub E);

impl<E: fmt::Display> fmt::Display for Brief<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cut = Cut {
            inner: f,
            left: QUOTED_CHARS,
            ended: false,
        };
        write!(cut, "{}", self.0)?;
        if cut.ended {
            f.write_char('…')
        } else {
            Ok(())
        }
    }
}

impl<E: Error> Error for Brief<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

struct Cut<'a, 'b> {
    inner: &'a mut fmt::Formatter<'b>,
    left: usize,
    ended: bool,
}

impl fmt::Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let Some(left) = self.left.checked_sub(1) else {
                self.ended = true;
                return Ok(());
            };
            self.left = left;
            self.inner.write_char(character)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_a_peers_text_is_brief_in_errors() {
        let long = "ü".repeat(QUOTED_CHARS + 1);
        assert_eq!(brief(&long).chars().count(), QUOTED_CHARS + 1);
        assert!(brief(&long).ends_with("ü…"));
        let fits = "ü".repeat(QUOTED_CHARS);
        assert_eq!(brief(&fits), fits);

        let json = format!("\"{}\"", "x".repeat(100_000));
        let error = serde_json::from_str::<u64>(&json).unwrap_err();
        assert!(error.to_string().len() > 100_000);
        let said = Brief(error).to_string();
        assert!(said.starts_with("invalid type: string \"xxx"), "{said}");
        assert_eq!(said.chars().count(), QUOTED_CHARS + 1);
        let error = serde_json::from_str::<u64>("x").unwrap_err();
        let whole = error.to_string();
        assert_eq!(Brief(error).to_string(), whole);
    }
}
