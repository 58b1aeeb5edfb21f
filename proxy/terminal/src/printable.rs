//! Texts of peers on terminals and in logs.
//!
//! A peer chooses texts that are logged (a reason for closing, a version, a server's answer). It must not be able to
//! begin a line, move the cursor, or turn the reading direction: terminals obey control characters (CWE-117, CWE-150),
//! and bidirectional ones show what is not there (CVE-2021-42574).

use std::{borrow::Cow, fmt::Write as _, io};

/// Characters of a text in a log line: a whole one for people, and each value of one in JSON. Errors cut the texts that they quote; this holds
/// for those that forget it, as answers of providers have a megabyte.
const TEXT_CHARS: usize = 8 * 1024;

/// The text with each character that is not to be seen written as JSON would, `\u001b` for example.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        push(&mut shown, character);
    }
    Cow::Owned(shown)
}

fn push(shown: &mut String, character: char) {
    if !is_hidden(character) {
        shown.push(character);
        return;
    }
    for unit in character.encode_utf16(&mut [0; 2]) {
        // A String takes everything.
        let _ = write!(shown, "\\u{unit:04x}");
    }
}

/// Control characters (C0, DEL, C1), line and paragraph separators, bidirectional and invisible ones, tags.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Where log lines go: each write is one line, of which only the last character ends it, and of which so much is shown. So no
/// event can forget it.
///
/// The same characters are escaped in JSON lines, which stay the same JSON.
#[derive(Debug)]
pub struct Lines<W> {
    inner: W,
    colours: bool,
}

impl<W: io::Write> Lines<W> {
    /// To `inner`. With `colours`, sequences that do nothing but set these are passed.
    pub fn new(inner: W, colours: bool) -> Self {
        Self { inner, colours }
    }

    fn line(&self, text: &str) -> String {
        let (text, end) = text
            .strip_suffix('\n')
            .map_or((text, ""), |text| (text, "\n"));
        let cut = if text.starts_with('{') {
            cut_json(text)
        } else {
            cut_text(text, self.colours)
        };
        let mut shown = String::with_capacity(cut.len() + 1);
        let mut rest = &*cut;
        while let Some(character) = rest.chars().next() {
            if let Some(colour) = self.colours.then(|| colour(rest)).flatten() {
                shown.push_str(colour);
                rest = rest.get(colour.len()..).unwrap_or_default();
                continue;
            }
            push(&mut shown, character);
            rest = rest.get(character.len_utf8()..).unwrap_or_default();
        }
        shown + end
    }
}

fn cut_text(text: &str, colours: bool) -> Cow<'_, str> {
    let Some((end, _)) = text.char_indices().nth(TEXT_CHARS) else {
        return Cow::Borrowed(text);
    };
    let begin = text.get(..end).unwrap_or_default();
    // The next line is not of its colour.
    Cow::Owned(format!(
        "{begin}…{}",
        if colours { "\u{1b}[0m" } else { "" }
    ))
}

/// Cuts each string of a JSON line by itself: the rest is JSON.
fn cut_json(line: &str) -> Cow<'_, str> {
    if line.len() <= TEXT_CHARS {
        return Cow::Borrowed(line);
    }
    let mut shown = String::new();
    let (mut quoted, mut length) = (false, 0_usize);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '"' {
            if quoted && length > TEXT_CHARS {
                shown.push('…');
            }
            (quoted, length) = (!quoted, 0);
        }
        length = length.saturating_add(1);
        // An escape stays whole: `\u` and its digits, of two of them if they are a pair.
        let escape = quoted && character == '\\';
        let kept = !quoted || length <= TEXT_CHARS;
        if kept {
            shown.push(character);
        }
        if escape {
            let escaped = characters.next();
            shown.extend(escaped.filter(|_| kept));
            if escaped == Some('u') {
                let digits = characters.by_ref().take(4);
                digits.filter(|_| kept).for_each(|digit| shown.push(digit));
            }
        }
    }
    Cow::Owned(shown)
}

/// The sequence that sets a colour at the text's beginning (ECMA-48, SGR).
fn colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let whole = parameters.get(end..)?.starts_with('m').then_some(end + 3)?;
    text.get(..whole)
}

impl<W: io::Write> io::Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = self.line(&String::from_utf8_lossy(bytes));
        self.inner.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FORGED: &str =
        "gone\r\n2026 INFO all is well\u{1b}[2J\u{9b}\u{2028}x\u{202e}y\u{7f}\u{e0041}";

    #[test]
    fn rule_23_a_peers_text_is_one_visible_line() {
        let shown = printable(FORGED);
        assert!(!shown.contains(is_hidden), "{shown}");
        assert!(shown.starts_with("gone\\u000d\\u000a2026"), "{shown}");
        assert!(shown.ends_with("\\u007f\\udb40\\udc41"), "{shown}");
        assert_eq!(printable("grün ✓"), "grün ✓");
    }

    #[test]
    fn rule_23_a_log_line_has_one_end_and_colours_only() {
        let line = |text: &str, colours| {
            let mut lines = Lines::new(Vec::new(), colours);
            lines.write_all(text.as_bytes()).unwrap();
            String::from_utf8(lines.inner).unwrap()
        };
        let text = line(&format!("{FORGED}\n"), true);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(
            line("\u{1b}[1;31mred\u{1b}[0m\n", true),
            "\u{1b}[1;31mred\u{1b}[0m\n"
        );
        assert_eq!(line("\u{1b}[1m\n", false), "\\u001b[1m\n");
    }

    #[test]
    fn rule_23_a_log_line_has_an_end_however_long_a_peers_text_is() {
        let line = |text: &str, colours| {
            let mut lines = Lines::new(Vec::new(), colours);
            lines.write_all(text.as_bytes()).unwrap();
            String::from_utf8(lines.inner).unwrap()
        };
        let long = "ü\"\\".repeat(100_000);
        let text = line(&format!("\u{1b}[31m{long}\n"), true);
        assert!(text.chars().count() < TEXT_CHARS + 10);
        assert!(text.ends_with("…\u{1b}[0m\n"));

        let controls = "\u{1b}\u{1f600}".repeat(100_000);
        let event = serde_json::json!({
            "fields": { "error": long, "a": controls, "short": "ü\"\\" }, "last": 7,
        });
        let text = line(&format!("{event}\n"), false);
        assert!(text.len() < 20 * TEXT_CHARS, "{}", text.len());
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let shown = read["fields"]["error"].as_str().unwrap();
        assert!(shown.ends_with('…') && long.starts_with(shown.trim_end_matches('…')));
        assert_eq!(read["fields"]["short"], "ü\"\\");
        assert_eq!(read["last"], 7);
    }

    #[test]
    fn rule_23_a_json_line_stays_the_same_json() {
        let json = serde_json::json!({"reason": FORGED}).to_string();
        let mut lines = Lines::new(Vec::new(), false);
        lines.write_all(json.as_bytes()).unwrap();
        assert!(!String::from_utf8_lossy(&lines.inner).contains(is_hidden));
        let read: serde_json::Value = serde_json::from_slice(&lines.inner).unwrap();
        assert_eq!(read["reason"], FORGED);
    }
}
