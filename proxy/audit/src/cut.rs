//! Texts of callers, cut to an event's bounds.

/// A text's first characters.
pub fn cut(text: &str, chars: usize) -> &str {
    let end = text.char_indices().nth(chars);
    end.and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// The beginning of a text that takes no more than so many bytes between the quotes of JSON: a character that JSON escapes
/// takes up to six.
pub(super) fn cut_json(text: &str, bytes: usize) -> &str {
    let mut left = bytes;
    for (at, char) in text.char_indices() {
        match left.checked_sub(json_bytes(char)) {
            Some(rest) => left = rest,
            None => return text.get(..at).unwrap_or_default(),
        }
    }
    text
}

/// The bytes of a text in JSON, with its quotes and the comma.
pub(super) fn json_len(text: &str) -> usize {
    text.chars().map(json_bytes).sum::<usize>() + 3
}

fn json_bytes(char: char) -> usize {
    match char {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        char => char.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_takes_no_more_in_json() {
        let text: String = (0_u8..128)
            .map(char::from)
            .chain(['é', '…', '🦀'])
            .collect();
        for bytes in 0..300 {
            let cut = cut_json(&text, bytes);
            let json = serde_json::to_string(cut).unwrap();
            assert!(json.len() - 2 <= bytes, "{bytes}: {json}");
            assert_eq!(json.len() + 1, json_len(cut));
        }
        assert_eq!(cut_json(&text, 300), text);
    }
}
