//! Where a claim stands in a token.

use serde_json::Value;

use super::verify::Signed;
use crate::config::{ConfigError, Misconfigured, not_empty};

/// A claim by its name, or by a JSON Pointer (RFC 6901) where the text begins with `/`.
///
/// It is parsed once, when the configuration is read, and every rule about a claim asks the parsed path: `email`,
/// `/email` and `/e~0mail` must not be three answers to the question whether a claim holds an e-mail address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimPath {
    segments: Vec<String>,
    written: String,
}

impl ClaimPath {
    /// Parses the value of `field` in the configuration.
    pub(super) fn parse(field: &str, written: &str) -> Result<Self, ConfigError> {
        not_empty(field, written)?;
        let segments = match written.strip_prefix('/') {
            None => vec![written.to_owned()],
            Some(pointer) => pointer
                .split('/')
                .map(unescape)
                .collect::<Option<_>>()
                .ok_or_else(|| {
                    let why = "is no JSON Pointer: after '~' stands 0 (for '~') or 1 (for '/')";
                    ConfigError::new(field, Misconfigured::Invalid(why))
                })?,
        };
        Ok(Self {
            segments,
            written: written.to_owned(),
        })
    }

    /// As the configuration has it.
    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    /// The token's own claim that it is, or is in.
    pub(super) fn outermost(&self) -> &str {
        self.segments.first().map_or("", String::as_str)
    }

    /// The claim's value.
    pub(super) fn find<'a>(&self, claims: &'a Signed) -> Option<&'a Value> {
        let (first, rest) = self.segments.split_first()?;
        rest.iter().try_fold(claims.get(first)?, step)
    }

    /// Does it name an e-mail address? Providers nest the claim, put it into a list (`emails`), and differ in its case.
    pub(super) fn is_email(&self) -> bool {
        let is_email = |segment: &String| {
            segment.eq_ignore_ascii_case("email") || segment.eq_ignore_ascii_case("emails")
        };
        self.segments.iter().any(is_email)
    }

    /// The objects that the claim stands in, from the token itself to the nearest one.
    pub(super) fn enclosing<'a>(&self, claims: &'a Signed) -> Vec<&'a Signed> {
        let mut enclosing = vec![claims];
        let mut segments = self.segments.iter();
        let mut value = segments.next().and_then(|first| claims.get(first));
        while let Some(inner) = value {
            enclosing.extend(inner.as_object());
            value = segments.next().and_then(|segment| step(inner, segment));
        }
        enclosing
    }
}

/// One segment further (RFC 6901, section 4).
fn step<'a>(value: &'a Value, segment: &String) -> Option<&'a Value> {
    match value {
        Value::Object(object) => object.get(segment),
        Value::Array(values) => {
            let plain = !segment.starts_with('0') || segment == "0";
            let digits = segment.bytes().all(|byte| byte.is_ascii_digit());
            let index = (plain && digits).then(|| segment.parse::<usize>().ok());
            values.get(index.flatten()?)
        }
        _ => None,
    }
}

/// RFC 6901, section 3: `~` stands before 0 or 1 and before nothing else.
fn unescape(segment: &str) -> Option<String> {
    let mut plain = String::with_capacity(segment.len());
    let mut characters = segment.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '~' => match characters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(written: &str) -> ClaimPath {
        ClaimPath::parse("claim", written).unwrap()
    }

    #[test]
    fn a_pointer_is_read_as_rfc_6901_has_it() {
        let claims = json!({
            "a/b": 1, "m~n": 2, "~1": 3, "https://x/team": 4, "": 5, "list": ["x", { "y": 6 }],
        });
        let claims = claims.as_object().unwrap();
        for (written, value) in [
            ("a/b", Some(json!(1))),
            ("/a~1b", Some(json!(1))),
            ("/m~0n", Some(json!(2))),
            ("/~01", Some(json!(3))),
            ("https://x/team", Some(json!(4))),
            ("/", Some(json!(5))),
            ("/list/1/y", Some(json!(6))),
            ("/list/01/y", None),
            ("/list/-", None),
            ("/list/+1", None),
            ("/a/b", None),
        ] {
            assert_eq!(path(written).find(claims).cloned(), value, "{written}");
        }
        for wrong in ["", " ", "/a~", "/a~2b", "/~x"] {
            let error = ClaimPath::parse("claim", wrong).unwrap_err();
            assert_eq!(error.field, "claim", "{wrong}");
        }
    }
}
