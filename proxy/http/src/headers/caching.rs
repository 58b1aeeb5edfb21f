//! Caches of answers.

use http::{HeaderMap, HeaderValue, header};

/// kube-apiserver's value for most answers.
const PRIVATE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// Directives by which an answer lets caches of many clients keep it (RFC 9111, section 3.5), and the one that forbids it.
const SHARING: [&str; 4] = ["public", "s-maxage", "proxy-revalidate", "private"];

/// Lets the caller's own cache keep an answer as its origin says, and no cache of many clients: one in front of this server
/// would give the answer to unauthorised callers.
pub(super) fn keep_private(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::CACHE_CONTROL).iter();
    let line = lines.next();
    if line == Some(&PRIVATE) && lines.next().is_none() {
        return;
    }
    let mut kept: Vec<&str> = Vec::new();
    for line in headers.get_all(header::CACHE_CONTROL) {
        match line.to_str() {
            // A quoted list names headers and may hold commas: it has no use in an answer that no other cache keeps.
            Ok(line) if !line.contains('"') => kept.extend(line.split(',').filter(|d| !shares(d))),
            _ => kept.push("no-cache"),
        }
    }
    let mut text = kept.iter().fold(String::new(), |text, directive| {
        text + directive.trim() + ", "
    });
    text.push_str("private");
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(PRIVATE);
    headers.insert(header::CACHE_CONTROL, value);
}

fn shares(directive: &str) -> bool {
    let (name, _) = directive.split_once('=').unwrap_or((directive, ""));
    let name = name.trim();
    name.is_empty()
        || SHARING
            .iter()
            .any(|sharing| name.eq_ignore_ascii_case(sharing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_20_no_cache_of_many_clients_keeps_an_answer() {
        for (said, kept) in [
            (&[][..], "private"),
            (&["no-cache, private"], "no-cache, private"),
            (&["public, max-age=60"], "max-age=60, private"),
            (&["Public", "S-MaxAge = 60,no-store"], "no-store, private"),
            (&["private"], "private"),
            (&["private=\"a, b\", public"], "no-cache, private"),
            (&["max-age=1, , proxy-revalidate"], "max-age=1, private"),
        ] {
            let mut headers = HeaderMap::new();
            for line in said {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(line));
            }
            keep_private(&mut headers);
            let lines: Vec<_> = headers.get_all(header::CACHE_CONTROL).iter().collect();
            assert_eq!(lines, [kept], "{said:?}");
        }
    }
}
