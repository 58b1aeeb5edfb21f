//! Errors in an authenticator's configuration.

use http::Uri;

use underpass_core::BoxError;

/// A field of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{field}")]
pub struct ConfigError {
    /// Where it stands, from the authenticator's own section on: `issuer.url`.
    pub field: String,
    /// The fault of it.
    #[source]
    pub why: Misconfigured,
}

/// The fault of a field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misconfigured {
    /// It must not be empty.
    #[error("must not be empty")]
    Empty,
    /// It has to be a URL of this scheme without credentials, a query or a fragment.
    #[error("must be a URL of the form {0}://HOST[:PORT][/PATH]")]
    Url(&'static str),
    /// It is none of the allowed values.
    #[error("{value:?} is none of {allowed}")]
    NoneOf {
        /// The value.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// It stands there twice.
    #[error("{0:?} stands there twice")]
    Twice(String),
    /// It is out of range.
    #[error("must be {0}")]
    Range(&'static str),
    /// Two authenticators could give the same name.
    #[error(
        "{prefix:?} and {other:?}, which authenticator {authenticator:?} has, could give the same name: neither prefix may \
         begin with the other"
    )]
    Overlap {
        /// The value.
        prefix: String,
        /// The other one.
        other: String,
        /// The other authenticator.
        authenticator: String,
    },
    /// It is invalid.
    #[error("{0}")]
    Invalid(&'static str),
    /// It cannot be read.
    #[error("cannot be used")]
    Unusable(#[source] BoxError),
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, why: Misconfigured) -> Self {
        let field = field.into();
        Self { field, why }
    }

    pub(crate) fn unusable(
        field: impl Into<String>,
        why: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::new(field, Misconfigured::Unusable(Box::new(why)))
    }
}

/// A URL that credentials are sent to, or that trust comes from.
pub(super) fn https_url(field: &str, url: &str) -> Result<Uri, ConfigError> {
    underpass_https::https_url(url)
        .ok_or_else(|| ConfigError::new(field, Misconfigured::Url("https")))
}

pub(super) fn not_empty(field: &str, value: &str) -> Result<(), ConfigError> {
    if value.trim().is_empty() {
        return Err(ConfigError::new(field, Misconfigured::Empty));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls_pass() {
        for good in [
            "https://a.example",
            "https://a.example:8443/b/",
            "https://[::1]/",
        ] {
            https_url("url", good).unwrap();
        }
        for bad in [
            "",
            "a.example",
            "http://a.example",
            "https://",
            "https://u:p@a.example",
            "https://a.example/?x",
            "https://a.example/#x",
            "https:///path",
        ] {
            let error = https_url("issuer.url", bad).unwrap_err();
            assert_eq!(error.to_string(), "issuer.url", "{bad}");
            let why = "must be a URL of the form https://HOST[:PORT][/PATH]";
            assert_eq!(error.why.to_string(), why);
        }
    }
}
