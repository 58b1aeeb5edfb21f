//! A caller's credentials.

use std::{fmt, net::IpAddr, sync::OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderValue, Uri, header};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    jwt::{self, Peeked},
    site::Site,
    token::{Token, TokenError},
};
use underpass_core::{ConnectionInfo, UnusableCertificate, limits};
use underpass_http::headers;

/// A caller's credentials: everything that an authenticator may look at.
#[allow(missing_debug_implementations, reason = "holds a credential")]
pub struct Caller<'a> {
    authorization: Authorization<'a>,
    certificates: &'a [CertificateDer<'static>],
    unusable_certificate: Option<UnusableCertificate>,
    client: IpAddr,
    site: Site<'a>,
    jwt: OnceLock<Option<Peeked>>,
}

/// The `Authorization` header.
#[derive(Clone)]
enum Authorization<'a> {
    None,
    Bearer(&'a str),
    Basic(Password),
}

/// A name and a password. The password is cleared from memory when dropped, and not in `Debug`.
#[derive(Clone)]
pub struct Password {
    user: String,
    password: Zeroizing<String>,
}

impl Password {
    /// Takes a typed name and password.
    pub fn new(user: impl Into<String>, password: Zeroizing<String>) -> Self {
        Self {
            user: user.into(),
            password,
        }
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password itself.
    pub fn expose(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({:?}, …)", self.user)
    }
}

impl<'a> Caller<'a> {
    /// The bearer token of the `Authorization` header.
    pub fn bearer(&self) -> Option<&'a str> {
        match self.authorization {
            Authorization::Bearer(token) => Some(token),
            _ => None,
        }
    }

    /// The unverified claims of the bearer token, where it is a signed one.
    pub(super) fn jwt(&self) -> Option<&Peeked> {
        let peek = || self.bearer().and_then(jwt::peek);
        self.jwt.get_or_init(peek).as_ref()
    }

    /// The name and password of the `Authorization` header.
    pub fn password(&self) -> Option<&Password> {
        match &self.authorization {
            Authorization::Basic(password) => Some(password),
            _ => None,
        }
    }

    /// The certificate chain whose key the client holds, otherwise unverified; empty without one, and behind a proxy
    /// that ends TLS.
    pub fn certificates(&self) -> &'a [CertificateDer<'static>] {
        self.certificates
    }

    /// Why the certificate that the client showed proves nothing, where there is one that does not.
    pub fn unusable_certificate(&self) -> Option<UnusableCertificate> {
        self.unusable_certificate
    }

    /// Whether the client showed a certificate, good or bad.
    pub(super) fn has_certificate(&self) -> bool {
        !self.certificates.is_empty() || self.unusable_certificate.is_some()
    }

    /// Whether the request has a credential of its own, beside a certificate of the connection's.
    pub(super) fn has_authorization(&self) -> bool {
        !matches!(self.authorization, Authorization::None)
    }

    /// The same caller without the connection's certificate.
    pub(super) fn without_certificate(&self) -> Caller<'a> {
        Caller {
            authorization: self.authorization.clone(),
            certificates: &[],
            unusable_certificate: None,
            client: self.client,
            site: self.site.clone(),
            jwt: OnceLock::new(),
        }
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// A caller who has typed a name and a password.
    pub(super) fn typed(login: Password, client: IpAddr) -> Caller<'static> {
        Caller {
            authorization: Authorization::Basic(login),
            certificates: &[],
            unusable_certificate: None,
            client,
            site: Site::NO_BROWSER,
            jwt: OnceLock::new(),
        }
    }

    /// Reads a request. `None`: its credential is ambiguous or unreadable, which identifies no caller.
    pub fn read(headers: &'a HeaderMap, info: &'a ConnectionInfo) -> Option<Self> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (lines.next(), lines.next()) {
            (None, _) => Authorization::None,
            (Some(line), None) => Authorization::read(line.to_str().ok()?)?,
            (Some(_), Some(_)) => return None,
        };
        // A proxy's own certificate does not identify its clients.
        let (certificates, unusable_certificate) = match info.peer.asks_for_others() {
            true => (&[][..], None),
            false => (&info.certificates[..], info.unusable_certificate),
        };
        Some(Self {
            authorization,
            certificates,
            unusable_certificate,
            client: info.peer.client(headers),
            site: Site::read(headers),
            jwt: OnceLock::new(),
        })
    }

    /// The same caller, who asks for this URI. HTTP/2 has the server's name there, and `Host` nowhere.
    #[must_use]
    pub fn at(mut self, uri: &'a Uri) -> Self {
        self.site = self.site.at(uri);
        self
    }

    /// Does the request come from a browser that shows a page of another origin? Then the user may know nothing of it, and
    /// credentials that the browser attached by itself do not count (security rule 27).
    pub fn is_foreign(&self) -> bool {
        self.site.is_foreign()
    }

    /// Does a page of another origin lead a browser here, by a link, a frame or a form? Credentials that the browser attached
    /// by itself open no workload then: a workload may act on a `GET`, and its page runs scripts (security rule 27).
    pub fn is_led_from_elsewhere(&self) -> bool {
        self.site.is_led_from_elsewhere()
    }
}

impl<'a> Authorization<'a> {
    /// The scheme in any case (RFC 9110, section 11.1).
    fn read(line: &'a str) -> Option<Self> {
        let (scheme, credential) = line.split_once(' ')?;
        let credential = credential.trim_matches(' ');
        let sane = !credential.is_empty()
            && !credential.contains(' ')
            && credential.len() <= limits::BEARER_BYTES;
        if !sane {
            return None;
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(credential));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            return read_basic(credential).map(Self::Basic);
        }
        None
    }
}

/// RFC 7617, section 2: UTF-8, and the first colon ends the name.
fn read_basic(credential: &str) -> Option<Password> {
    if credential.len() > limits::BASIC_BYTES {
        return None;
    }
    let bytes = Zeroizing::new(BASE64.decode(credential).ok()?);
    let (user, password) = str::from_utf8(&bytes).ok()?.split_once(':')?;
    let password = Zeroizing::new(password.to_owned());
    Some(Password::new(user, password))
}

/// Moves a token that a browser put among the WebSocket subprotocols into `Authorization`, as kube-apiserver
/// reads it (apiserver/pkg/authentication/request/websocket). It is removed from there by the cleaning.
///
/// # Errors
/// The token cannot be read, or it is not the request's only one: two credentials are refused (security rule 21).
pub fn adopt_websocket_bearer(headers: &mut HeaderMap) -> Result<(), AmbiguousBearer> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let prefix = headers::BEARER_SUBPROTOCOL.as_bytes();
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut tokens = lines
        .flat_map(underpass_core::list::tokens)
        .filter_map(|item| item.strip_prefix(prefix));
    let encoded = match (tokens.next(), tokens.next()) {
        (None, _) => return Ok(()),
        (Some(encoded), None) => encoded,
        (Some(_), Some(_)) => return Err(AmbiguousBearer),
    };
    let decoded = URL_SAFE_NO_PAD.decode(encoded);
    drop(tokens);
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(AmbiguousBearer);
    }
    let token = decoded.map_err(|_| AmbiguousBearer)?;
    let line = [b"Bearer ", token.as_slice()].concat();
    let mut value = HeaderValue::from_bytes(&line).map_err(|_| AmbiguousBearer)?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    Ok(())
}

/// Moves the credential of a request to connect (HTTP CONNECT) from `Proxy-Authorization` into `Authorization`. A password that is a
/// token of this server's is read as that token, and the name beside it says nothing: a proxy's URL has room for a name and a password
/// (`https://x:TOKEN@…`), and for no other credential.
///
/// # Errors
/// It cannot be read, or it is not the request's only one: two credentials are refused (security rule 21).
pub fn adopt_proxy_authorization(headers: &mut HeaderMap) -> Result<(), AmbiguousBearer> {
    let mut lines = headers.get_all(header::PROXY_AUTHORIZATION).iter();
    let mut line = match (lines.next(), lines.next()) {
        (None, _) => return Ok(()),
        (Some(line), None) => line.clone(),
        (Some(_), Some(_)) => return Err(AmbiguousBearer),
    };
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(AmbiguousBearer);
    }
    let read = line.to_str().ok().and_then(Authorization::read);
    if let Authorization::Basic(password) = read.ok_or(AmbiguousBearer)? {
        let token = Token::parse(password.expose());
        if !matches!(token, Err(TokenError::Foreign)) {
            let bearer = Zeroizing::new(format!("Bearer {}", password.expose()));
            line = HeaderValue::from_str(&bearer).map_err(|_| AmbiguousBearer)?;
        }
    }
    line.set_sensitive(true);
    headers.remove(header::PROXY_AUTHORIZATION);
    headers.insert(header::AUTHORIZATION, line);
    Ok(())
}

/// A credential outside of `Authorization` is unreadable, or stands beside another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmbiguousBearer;

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer_of(line: &str) -> Option<&str> {
        match Authorization::read(line)? {
            Authorization::Bearer(token) => Some(token),
            _ => None,
        }
    }

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
    fn reads_a_name_and_password() {
        let line = format!("basic {}", BASE64.encode("zoë:a:b"));
        let Some(Authorization::Basic(read)) = Authorization::read(&line) else {
            panic!("not read");
        };
        assert_eq!((read.user(), read.expose()), ("zoë", "a:b"));
        for bad in ["zoë", "YQ", "YQ==", "_-=="] {
            assert!(Authorization::read(&format!("Basic {bad}")).is_none());
        }
        let long = BASE64.encode(format!("a:{}", "x".repeat(limits::BASIC_BYTES)));
        assert!(Authorization::read(&format!("Basic {long}")).is_none());
    }

    #[test]
    fn rule_11_debug_shows_no_password() {
        let password = Password::new("alice", Zeroizing::new("hunter2".to_owned()));
        assert_eq!(format!("{password:?}"), "Password(\"alice\", …)");
    }

    #[test]
    fn a_browser_may_send_its_token_as_a_subprotocol() {
        let mut headers = HeaderMap::new();
        let offer = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(offer),
        );
        adopt_websocket_bearer(&mut headers).unwrap();
        assert_eq!(headers[header::AUTHORIZATION], "Bearer abc");
    }

    #[test]
    fn a_proxys_credential_is_read_as_any_other() {
        let token = Token::generate().unwrap();
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
        let bearer = format!("Bearer {}", token.expose());
        for (line, read) in [
            (bearer.clone(), bearer.clone()),
            (
                basic(&format!("anybody:{}", token.expose())),
                bearer.clone(),
            ),
            // One that was mistyped is no password of anybody's.
            (basic("x:upt_short"), "Bearer upt_short".to_owned()),
            (basic("alice:secret"), basic("alice:secret")),
            (basic("alice:Upt_x"), basic("alice:Upt_x")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::PROXY_AUTHORIZATION, line.parse().unwrap());
            adopt_proxy_authorization(&mut headers).unwrap();
            assert_eq!(headers[header::AUTHORIZATION], read, "{line}");
            assert!(headers[header::AUTHORIZATION].is_sensitive());
            assert!(!headers.contains_key(header::PROXY_AUTHORIZATION));
        }
    }

    #[test]
    fn rule_21_a_request_to_connect_has_one_credential() {
        for lines in [
            &[
                ("proxy-authorization", "Bearer a"),
                ("authorization", "Bearer b"),
            ][..],
            &[
                ("proxy-authorization", "Bearer a"),
                ("authorization", "Basic YTpi"),
            ],
            &[
                ("proxy-authorization", "Bearer a"),
                ("proxy-authorization", "Bearer a"),
            ],
            &[("proxy-authorization", "Bearer")],
            &[("proxy-authorization", "Negotiate abc")],
            &[("proxy-authorization", "Basic !")],
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let refused = adopt_proxy_authorization(&mut headers);
            assert_eq!(refused, Err(AmbiguousBearer), "{lines:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        adopt_proxy_authorization(&mut headers).unwrap();
        assert_eq!(headers[header::AUTHORIZATION], "Bearer a");
    }

    #[test]
    fn rule_21_a_second_token_is_refused() {
        let offer = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        let with = |name, value| {
            let mut headers = HeaderMap::new();
            headers.append(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(offer),
            );
            headers.append(name, HeaderValue::from_static(value));
            headers
        };
        for (name, second) in [
            (header::AUTHORIZATION, "Bearer abc"),
            (header::AUTHORIZATION, "Basic YTpi"),
            (
                header::SEC_WEBSOCKET_PROTOCOL,
                "base64url.bearer.authorization.k8s.io.YWJk",
            ),
            (
                header::SEC_WEBSOCKET_PROTOCOL,
                "base64url.bearer.authorization.k8s.io.!",
            ),
        ] {
            let refused = adopt_websocket_bearer(&mut with(name, second));
            assert_eq!(refused, Err(AmbiguousBearer), "{second}");
        }
        let mut other = with(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io");
        adopt_websocket_bearer(&mut other).unwrap();
        assert_eq!(other[header::AUTHORIZATION], "Bearer abc");
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            headers.append(
                header::AUTHORIZATION,
                HeaderValue::from_static("Bearer abc"),
            );
        }
        let info = ConnectionInfo {
            peer: IpAddr::from([127, 0, 0, 1]).into(),
            protocol: underpass_core::Protocol::Http1,
            server_name: None,
            certificates: vec![],
            unusable_certificate: None,
        };
        assert!(Caller::read(&headers, &info).is_none());
    }
}
