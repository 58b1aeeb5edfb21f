//! Headers whose value is a comma-separated list (RFC 9110, section 5.6.1).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Does any line of a list-valued header hold `token`, in any case?
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(tokens)
        .any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// The items of one line. Bytes, since a line that is not UTF-8 must not hide a name from us that another parser would find.
pub fn tokens(line: &HeaderValue) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.as_bytes()
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|item| !item.is_empty())
}
