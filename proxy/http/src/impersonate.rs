//! Writes an identity as Kubernetes' impersonation headers, last, on a map that holds none.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use underpass_core::Identity;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Why an identity was not written. The request must then not be forwarded: without these headers
/// it would run as the agent itself.
#[derive(Debug, thiserror::Error)]
pub enum ImpersonateError {
    /// The map still holds an impersonation header: it was not cleaned.
    #[error("the request already carries an impersonation header")]
    NotClean,
    /// A value or a key does not fit a header.
    #[error("the identity does not fit a header")]
    Header(#[source] http::Error),
    /// More headers than a map can hold.
    #[error("the request has too many headers")]
    TooMany,
}

/// Writes `identity` into `headers`.
///
/// # Errors
/// On any error `headers` holds no impersonation header that would be enough to forward: the caller
/// refuses the request.
pub fn write(headers: &mut HeaderMap, identity: &Identity) -> Result<(), ImpersonateError> {
    if headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
    {
        return Err(ImpersonateError::NotClean);
    }
    let lines = lines(identity)?;
    for (name, value) in lines {
        headers
            .try_append(name, value)
            .map_err(|_| ImpersonateError::TooMany)?;
    }
    Ok(())
}

fn lines(identity: &Identity) -> Result<Vec<(HeaderName, HeaderValue)>, ImpersonateError> {
    let mut lines = vec![(USER, value(identity.user())?)];
    if let Some(uid) = identity.uid() {
        lines.push((UID, value(uid)?));
    }
    for group in identity.groups() {
        lines.push((GROUP, value(group)?));
    }
    for (key, values) in identity.extra() {
        let name = extra_name(key)?;
        for text in values {
            lines.push((name.clone(), value(text)?));
        }
    }
    Ok(lines)
}

fn value(text: &str) -> Result<HeaderValue, ImpersonateError> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|e| ImpersonateError::Header(e.into()))
}

/// client-go's `headerKeyEscape`: every byte that is no header name character, and `%` itself, is
/// percent-encoded.
fn extra_name(key: &str) -> Result<HeaderName, ImpersonateError> {
    let mut name = String::from(EXTRA_PREFIX);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    HeaderName::from_bytes(name.as_bytes()).map_err(|e| ImpersonateError::Header(e.into()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn identity() -> Identity {
        let extra = BTreeMap::from([
            (
                "example.org/té%".to_owned(),
                vec!["a".to_owned(), "b".to_owned()],
            ),
            ("scopes".to_owned(), vec!["x".to_owned()]),
        ]);
        let groups = vec!["dev".to_owned(), "größe".to_owned()];
        Identity::new("zoë".into(), Some("u-1".into()), groups, extra).unwrap()
    }

    #[test]
    fn writes_every_part() {
        let mut headers = HeaderMap::new();
        write(&mut headers, &identity()).unwrap();
        assert_eq!(headers["impersonate-user"].as_bytes(), "zoë".as_bytes());
        assert_eq!(headers["impersonate-uid"], "u-1");
        let groups: Vec<_> = headers.get_all("impersonate-group").iter().collect();
        assert_eq!(groups[0], "dev");
        assert_eq!(groups[1].as_bytes(), "größe".as_bytes());
        let key = "impersonate-extra-example.org%2ft%c3%a9%25";
        assert_eq!(headers.get_all(key).iter().count(), 2);
        assert_eq!(headers["impersonate-extra-scopes"], "x");
        assert_eq!(headers.len(), 7);
    }

    #[test]
    fn rule_3_refuses_a_map_that_was_not_cleaned() {
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-extra-role", HeaderValue::from_static("root"));
        assert!(matches!(
            write(&mut headers, &identity()),
            Err(ImpersonateError::NotClean)
        ));
    }
}
