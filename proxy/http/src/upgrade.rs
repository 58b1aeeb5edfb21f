//! Upgrades: checks the request, and the 101 before bytes flow (security rule 1).

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, response};

use underpass_core::list::{has_token, tokens};

/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A protocol that Kubernetes upgrades to. Anything else that a client offers is ignored, as RFC 9110
/// (section 7.8) lets a server do: h2c in particular would put unread requests on a piped connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    WebSocket,
    Spdy,
}

impl Protocol {
    fn parse(token: &[u8]) -> Option<Self> {
        if token.eq_ignore_ascii_case(b"websocket") {
            Some(Self::WebSocket)
        } else if token.eq_ignore_ascii_case(b"SPDY/3.1") {
            Some(Self::Spdy)
        } else {
            None
        }
    }

    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::WebSocket => "websocket",
            Self::Spdy => "SPDY/3.1",
        })
    }
}

/// A request to upgrade, remembered so that the answer can be held against it.
#[derive(Clone, Debug)]
pub struct UpgradeRequest {
    protocol: Protocol,
    /// `Sec-WebSocket-Accept` that the key demands.
    accept: Option<String>,
    subprotocols: Vec<Vec<u8>>,
}

/// Why a request's upgrade cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeRequestError {
    /// None, or several of them.
    #[error("an upgrade needs exactly one Upgrade header")]
    Ambiguous,
    /// Kubernetes serves no other.
    #[error("an upgrade must be a GET or a POST")]
    Method,
    /// None, or several of them (RFC 6455, section 4.2.1).
    #[error("a WebSocket handshake needs exactly one Sec-WebSocket-Key")]
    Key,
}

/// Why a 101 was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeAnswerError {
    /// RFC 9110, section 7.8.
    #[error("a 101 without Connection: Upgrade")]
    Connection,
    /// The bytes behind it would be read as a protocol that the request did not name.
    #[error("a 101 to another protocol than asked for")]
    Protocol,
    /// RFC 6455, section 4.1.
    #[error("a 101 with a wrong Sec-WebSocket-Accept")]
    Accept,
    /// RFC 6455, section 4.1.
    #[error("a 101 with a subprotocol that was not offered")]
    Subprotocol,
}

impl UpgradeRequest {
    /// Reads the upgrade that a request asks for; before its headers are cleaned. HTTP/2 has none
    /// (RFC 9113, section 8.2.2).
    pub fn from_parts(
        method: &Method,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<Option<Self>, UpgradeRequestError> {
        let asked = has_token(headers, &header::CONNECTION, "upgrade");
        if version != Version::HTTP_11 || !asked {
            return Ok(None);
        }
        let offered: Vec<_> = headers
            .get_all(header::UPGRADE)
            .iter()
            .flat_map(tokens)
            .collect();
        let Some(protocol) = offered.iter().find_map(|token| Protocol::parse(token)) else {
            return Ok(None);
        };
        if offered.len() != 1 {
            return Err(UpgradeRequestError::Ambiguous);
        }
        if method != Method::GET && (method != Method::POST || protocol == Protocol::WebSocket) {
            return Err(UpgradeRequestError::Method);
        }
        let accept = match protocol {
            Protocol::WebSocket => Some(accept_for(headers)?),
            Protocol::Spdy => None,
        };
        let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let subprotocols = lines.flat_map(tokens).map(<[u8]>::to_vec).collect();
        Ok(Some(Self {
            protocol,
            accept,
            subprotocols,
        }))
    }

    /// Is it one to a WebSocket?
    pub fn is_websocket(&self) -> bool {
        self.protocol == Protocol::WebSocket
    }

    /// Writes exactly `Connection: Upgrade` and one `Upgrade` header onto cleaned headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, self.protocol.header());
    }

    /// Holds a 101 against the request.
    ///
    /// # Errors
    /// The fault of the 101. Nothing may be relayed then.
    pub fn verify(&self, answer: &response::Parts) -> Result<(), UpgradeAnswerError> {
        debug_assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS);
        let headers = &answer.headers;
        if !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(UpgradeAnswerError::Connection);
        }
        let mut echoed = headers.get_all(header::UPGRADE).iter().flat_map(tokens);
        let same = echoed.next().and_then(Protocol::parse) == Some(self.protocol);
        if !same || echoed.next().is_some() {
            return Err(UpgradeAnswerError::Protocol);
        }
        if let Some(accept) = &self.accept {
            let mut given = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
            if given.next().is_none_or(|value| value != accept) || given.next().is_some() {
                return Err(UpgradeAnswerError::Accept);
            }
        }
        let mut chosen = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .flat_map(tokens);
        let offered = |choice: &[u8]| self.subprotocols.iter().any(|offer| offer == choice);
        if chosen.next().is_some_and(|choice| !offered(choice)) || chosen.next().is_some() {
            return Err(UpgradeAnswerError::Subprotocol);
        }
        Ok(())
    }
}

fn accept_for(headers: &HeaderMap) -> Result<String, UpgradeRequestError> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(UpgradeRequestError::Key);
    };
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.as_bytes());
    sha1.update(WEBSOCKET_GUID);
    Ok(BASE64.encode(sha1.finish()))
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, request};

    use super::*;

    fn request(method: Method, lines: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().method(method);
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn asked(
        method: Method,
        lines: &[(&str, &str)],
    ) -> Result<Option<UpgradeRequest>, UpgradeRequestError> {
        let parts = request(method, lines);
        UpgradeRequest::from_parts(&parts.method, parts.version, &parts.headers)
    }

    fn websocket() -> UpgradeRequest {
        let lines = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ];
        asked(Method::GET, &lines).unwrap().unwrap()
    }

    fn verify(lines: &[(&str, &str)]) -> Result<(), UpgradeAnswerError> {
        let mut builder = Response::builder().status(101);
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        websocket().verify(&builder.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn unknown_protocols_are_ignored() {
        let connection = ("connection", "upgrade");
        assert!(
            asked(Method::GET, &[connection, ("upgrade", "h2c")])
                .unwrap()
                .is_none()
        );
        assert!(
            asked(Method::GET, &[("upgrade", "SPDY/3.1")])
                .unwrap()
                .is_none()
        );
        let two = asked(Method::GET, &[connection, ("upgrade", "websocket, h2c")]);
        assert_eq!(two.unwrap_err(), UpgradeRequestError::Ambiguous);
        let put = asked(Method::PUT, &[connection, ("upgrade", "SPDY/3.1")]);
        assert_eq!(put.unwrap_err(), UpgradeRequestError::Method);
    }

    #[test]
    fn rule_1_a_101_is_held_against_the_request() {
        // RFC 6455's own sample.
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let connection = ("connection", "Upgrade");
        let upgrade = ("upgrade", "websocket");
        assert_eq!(verify(&[connection, upgrade, accept]), Ok(()));
        let chosen = ("sec-websocket-protocol", "v5.channel.k8s.io");
        assert_eq!(verify(&[connection, upgrade, accept, chosen]), Ok(()));
        assert_eq!(
            verify(&[upgrade, accept]),
            Err(UpgradeAnswerError::Connection)
        );
        assert_eq!(
            verify(&[connection, accept]),
            Err(UpgradeAnswerError::Protocol)
        );
        let spdy = ("upgrade", "SPDY/3.1");
        assert_eq!(
            verify(&[connection, spdy, accept]),
            Err(UpgradeAnswerError::Protocol)
        );
        assert_eq!(
            verify(&[connection, upgrade]),
            Err(UpgradeAnswerError::Accept)
        );
        let other = ("sec-websocket-protocol", "v4.channel.k8s.io");
        let unasked = verify(&[connection, upgrade, accept, other]);
        assert_eq!(unasked, Err(UpgradeAnswerError::Subprotocol));
    }
}
