//! A proxy's address, and this side's credentials for it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use thiserror::Error;
use zeroize::Zeroizing;

use underpass_dial::ServerAddress;

use crate::socks::Login;

/// A proxy's URL: `http://[USER:PASSWORD@]HOST[:PORT]`, `https://` for an HTTP proxy that is spoken to
/// over TLS, or `socks5://` (`socks5h://` is the same: the proxy resolves names). Without a scheme it is `http://`; ports are 80, 443
/// and 1080 unless named.
///
/// User and password may be percent-encoded, as `%40` for `@`. They are erased from memory when the last
/// copy is dropped, and neither `Debug` nor `Display` shows them.
#[derive(Clone)]
pub struct ProxyUrl {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: ServerName<'static>,
    /// Boxed: errors hold URLs.
    credentials: Option<Box<Credentials>>,
}

/// User and password, in the form that the proxy takes.
#[derive(Clone)]
enum Credentials {
    /// The value of Proxy-Authorization (RFC 7617).
    Basic(Zeroizing<String>),
    /// For a SOCKS5 proxy.
    Login(Login),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    Socks5,
}

impl Scheme {
    fn of(text: &str) -> Option<Self> {
        let known = [
            ("http", Self::Http),
            ("https", Self::Https),
            ("socks5", Self::Socks5),
            ("socks5h", Self::Socks5),
        ];
        let mut known = known.into_iter();
        known
            .find(|(name, _)| text.eq_ignore_ascii_case(name))
            .map(|(_, scheme)| scheme)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Socks5 => 1080,
        }
    }
}

/// Why a text is not the URL of a proxy that can be used. The text is not repeated: it may hold a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyUrlError {
    /// It is a proxy of another kind.
    #[error("a proxy's URL starts with http://, https:// or socks5://")]
    Scheme,
    /// The host is missing or malformed.
    #[error("a proxy's URL is http://[USER:PASSWORD@]HOST[:PORT]: there is no host in this one")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("a proxy's port is a number from 1 to 65535")]
    Port,
    /// Something follows the host and port.
    #[error("a proxy's URL ends with its host and port")]
    Path,
    /// Basic authentication cannot carry such a name (RFC 7617, section 2).
    #[error("a user of a proxy cannot have a colon in its name")]
    User,
    /// SOCKS5 cannot carry them (RFC 1929).
    #[error("a user and a password of a SOCKS5 proxy have 1 to 255 bytes each")]
    Login,
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Scheme::of(scheme).ok_or(ProxyUrlError::Scheme)?, rest),
            None => (Scheme::Http, text),
        };
        // The last one: people do not always encode the `@` of their password.
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, rest),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        if place.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let (host, port) = host_and_port(place).ok_or(ProxyUrlError::Host)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => Some(scheme.port()),
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ProxyUrlError::Host)?;
        let credentials = match (scheme, user_info) {
            (_, None) => None,
            (Scheme::Socks5, Some(user_info)) => Some(Credentials::Login(login(user_info)?)),
            (_, Some(user_info)) => Some(Credentials::Basic(basic(user_info)?)),
        };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port: port.ok_or(ProxyUrlError::Port)?,
            name,
            credentials: credentials.map(Box::new),
        })
    }
}

impl ProxyUrl {
    /// The value of Proxy-Authorization.
    pub(super) fn authorization(&self) -> Option<&str> {
        match self.credentials.as_deref() {
            Some(Credentials::Basic(value)) => Some(value),
            _ => None,
        }
    }

    /// The message of RFC 1929.
    pub(super) fn login(&self) -> Option<&Login> {
        match self.credentials.as_deref() {
            Some(Credentials::Login(login)) => Some(login),
            _ => None,
        }
    }
}

/// Takes `HOST[:PORT]` apart, where an IPv6 address has brackets unless it stands alone.
pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    Some(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

/// The credentials of Basic authentication for a URL's user information.
fn basic(user_info: &str) -> Result<Zeroizing<String>, ProxyUrlError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    // As large as it can become: memory that is moved is not erased.
    let mut plain = Zeroizing::new(Vec::with_capacity(user_info.len() + 1));
    plain.extend(percent_decode_str(user));
    if plain.contains(&b':') {
        return Err(ProxyUrlError::User);
    }
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let mut value = Zeroizing::new(String::with_capacity(6 + plain.len().div_ceil(3) * 4));
    value.push_str("Basic ");
    BASE64_STANDARD.encode_string(&plain[..], &mut value);
    Ok(value)
}

fn login(user_info: &str) -> Result<Login, ProxyUrlError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let plain = |text: &str| Zeroizing::new(percent_decode_str(text).collect::<Vec<u8>>());
    Login::new(&plain(user), &plain(password)).ok_or(ProxyUrlError::Login)
}

/// Without user and password.
impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name())?;
        ServerAddress::new(self.host.as_str(), self.port).fmt(f)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProxyUrl")
            .field(&format_args!("{self}"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<String>), ProxyUrlError> {
        let url: ProxyUrl = text.parse()?;
        let authorization = url.authorization().map(str::to_owned);
        Ok((url.to_string(), authorization))
    }

    #[test]
    fn proxies_are_named_as_other_programs_name_them() {
        for (text, shown) in [
            ("http://proxy.corp:3128", "http://proxy.corp:3128"),
            ("proxy.corp:3128", "http://proxy.corp:3128"),
            ("  HTTP://proxy.corp  ", "http://proxy.corp:80"),
            ("https://proxy.corp/", "https://proxy.corp:443"),
            ("10.0.0.1", "http://10.0.0.1:80"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
            ("http://[fd00::1]", "http://[fd00::1]:80"),
            ("socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
            ("SOCKS5h://u:p@proxy.corp:9999/", "socks5://proxy.corp:9999"),
        ] {
            assert_eq!(parsed(text), Ok((shown.to_owned(), None)), "{text}");
        }
    }

    #[test]
    fn credentials_are_basic_and_percent_decoded() {
        for (text, plain) in [
            ("http://Aladdin:open%20sesame@p", "Aladdin:open sesame"),
            ("alice:pass@p:1", "alice:pass"),
            ("http://alice@p", "alice:"),
            ("http://alice:a:b@p", "alice:a:b"),
            ("http://alice:p@ss/w#rd@p", "alice:p@ss/w#rd"),
            ("http://a%40corp:%C3%A4@p", "a@corp:ä"),
            ("http://alice:100%@p", "alice:100%"),
        ] {
            let (_, authorization) = parsed(text).unwrap();
            let value = authorization.unwrap();
            let encoded = value.strip_prefix("Basic ").unwrap();
            let decoded = BASE64_STANDARD.decode(encoded).unwrap();
            assert_eq!(String::from_utf8(decoded).unwrap(), plain, "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_told_apart() {
        for (text, error) in [
            ("socks4://p:1080", ProxyUrlError::Scheme),
            ("ftp://p", ProxyUrlError::Scheme),
            ("socks5://alice@p", ProxyUrlError::Login),
            ("", ProxyUrlError::Host),
            ("http://", ProxyUrlError::Host),
            ("http://:3128", ProxyUrlError::Host),
            ("http://not a host", ProxyUrlError::Host),
            ("http://[::1", ProxyUrlError::Host),
            ("http://[p]:1", ProxyUrlError::Host),
            ("http://p:", ProxyUrlError::Port),
            ("http://p:0", ProxyUrlError::Port),
            ("http://p:65536", ProxyUrlError::Port),
            ("http://p:1:2", ProxyUrlError::Port),
            ("http://p/path", ProxyUrlError::Path),
            ("http://p?q", ProxyUrlError::Path),
            ("http://a%3Ab:c@p", ProxyUrlError::User),
        ] {
            assert_eq!(parsed(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn rule_11_credentials_are_not_shown() {
        let url: ProxyUrl = "http://alice:secret@p:1".parse().unwrap();
        let shown = format!("{url} {url:?} {url:#?}");
        let encoded = BASE64_STANDARD.encode("alice:secret");
        for hidden in ["alice", "secret", encoded.as_str(), "Basic"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}
