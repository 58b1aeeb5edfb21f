//! Texts of callers, cut to what an event may hold.

/// A text's first characters.
pub fn cut(text: &str, chars: usize) -> &str {
    let end = text.char_indices().nth(chars);
    end.and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}
