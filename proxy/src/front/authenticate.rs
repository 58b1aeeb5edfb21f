//! Who is calling.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use http::{HeaderMap, header};
use rustls_pki_types::CertificateDer;

use super::ConnectionInfo;
use crate::{BoxError, Identity, Revocation, headers, limits};

/// What a caller presents: everything that an authenticator may look at.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "holds a credential")]
pub struct Caller<'a> {
    bearer: Option<&'a str>,
    certificates: &'a [CertificateDer<'static>],
    client: IpAddr,
}

impl<'a> Caller<'a> {
    /// The bearer token of the `Authorization` header.
    pub fn bearer(&self) -> Option<&'a str> {
        self.bearer
    }

    /// The verified client certificate's chain; empty without one.
    pub fn certificates(&self) -> &'a [CertificateDer<'static>] {
        self.certificates
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// Reads a request. `None`: its credential is ambiguous or unreadable, which is no way to be anybody.
    pub(crate) fn read(headers: &'a HeaderMap, info: &'a ConnectionInfo) -> Option<Self> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let bearer = match (lines.next(), lines.next()) {
            (None, _) => None,
            (Some(line), None) => Some(bearer_of(line.to_str().ok()?)?),
            (Some(_), Some(_)) => return None,
        };
        Some(Self {
            bearer,
            certificates: &info.certificates,
            client: info.client,
        })
    }
}

/// RFC 6750, section 2.1; the scheme in any case (RFC 9110, section 11.1).
fn bearer_of(line: &str) -> Option<&str> {
    let (scheme, token) = line.split_once(' ')?;
    let token = token.trim_matches(' ');
    let sane = !token.is_empty() && !token.contains(' ') && token.len() <= limits::BEARER_BYTES;
    (scheme.eq_ignore_ascii_case("bearer") && sane).then_some(token)
}

/// A caller that an authenticator vouches for.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub(crate) identity: Identity,
    pub(crate) revocation: Revocation,
}

impl Authenticated {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Turns a credential into an identity.
///
/// Only this crate can make an [`Authenticated`], so that every way in is written, and tested, here; what differs
/// between installations is behind traits such as [`TokenStore`](super::TokenStore).
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Vouches for the caller. `None`: this credential is of a kind that is not mine.
    ///
    /// # Errors
    /// The credential is mine and bad, or cannot be checked now.
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError>;
}

/// Why nobody vouches for a caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The credential is of a known kind and not valid. No other authenticator is asked.
    #[error("the credential was rejected: {0}")]
    Rejected(&'static str),
    /// Whatever must be asked cannot be reached.
    #[error("the authenticator is not available")]
    Unavailable(#[source] BoxError),
}

/// Several authenticators. The first that knows the credential's kind decides alone: a token that looks like
/// ours and is wrong is never handed to the next one.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "trait objects")]
pub struct InOrder(Vec<Arc<dyn Authenticator>>);

impl InOrder {
    /// Asks `authenticators` from first to last.
    pub fn new(authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(authenticators)
    }
}

#[async_trait]
impl Authenticator for InOrder {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        for authenticator in &self.0 {
            if let Some(authenticated) = authenticator.authenticate(caller).await? {
                return Ok(Some(authenticated));
            }
        }
        Ok(None)
    }
}

/// Moves a token that a browser put among the WebSocket subprotocols into `Authorization`, as kube-apiserver
/// reads it (apiserver/pkg/authentication/request/websocket). It is removed from there by the cleaning.
pub(crate) fn adopt_websocket_bearer(headers: &mut HeaderMap) {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    if headers.contains_key(header::AUTHORIZATION) {
        return;
    }
    let prefix = headers::BEARER_SUBPROTOCOL.as_bytes();
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut tokens = lines
        .flat_map(headers::tokens)
        .filter_map(|item| item.strip_prefix(prefix));
    let (Some(encoded), None) = (tokens.next(), tokens.next()) else {
        return;
    };
    let decoded = URL_SAFE_NO_PAD.decode(encoded);
    drop(tokens);
    let Ok(token) = decoded else { return };
    let line = [b"Bearer ", token.as_slice()].concat();
    if let Ok(mut value) = http::HeaderValue::from_bytes(&line) {
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn reads_one_bearer_token() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(bearer_of(good), Some("abc"), "{good}");
        }
        for bad in ["abc", "Basic abc", "Bearer", "Bearer ", "Bearer a b"] {
            assert_eq!(bearer_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_browser_may_send_its_token_as_a_subprotocol() {
        let mut headers = HeaderMap::new();
        let offer = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(offer),
        );
        adopt_websocket_bearer(&mut headers);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer abc");
    }
}
