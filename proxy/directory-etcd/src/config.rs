//! Where etcd is, and by which right it is asked.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use thiserror::Error;

use crate::limits;

/// etcd's own port for clients.
const PORT: u16 = 2379;

/// How a store reaches etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The members, or what is in front of them: asked in this order, the next one where one does not answer.
    pub endpoints: Vec<Endpoint>,
    /// PEM file with the CAs of the members' certificates. Read for each connection.
    pub ca: Option<PathBuf>,
    /// Files with a client certificate of the server's. Read for each connection.
    pub certificate: Option<ClientCertificate>,
    /// A user of etcd's.
    pub user: Option<EtcdUser>,
    /// The directory's keys begin with it.
    pub prefix: Prefix,
    /// The installation whose directory it has to be; any, or a new one, without it.
    pub installation: Option<String>,
}

/// Files of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM: the certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// A user of etcd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// Its name.
    pub name: String,
    /// The file with the password, and at most a line break behind it. Read for each login.
    pub password_file: PathBuf,
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Nowhere to ask.
    #[error("no endpoint of etcd is named")]
    NoEndpoint,
    /// Nobody is trusted for the members' certificates.
    #[error("{0} needs the CA of its certificate")]
    NoCa(Endpoint),
    /// The way to the endpoint could be read, and written.
    #[error(
        "{0} is reached without TLS, and is not on this machine: whoever is on the way could make themselves administrator of \
         all clusters. Use https"
    )]
    Plain(Endpoint),
    /// Files that would not be used.
    #[error("{0} is reached without TLS, and needs neither a CA nor a certificate")]
    TlsWithoutUse(Endpoint),
}

impl EtcdConfig {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        for endpoint in &self.endpoints {
            if endpoint.tls {
                if self.ca.is_none() {
                    return Err(ConfigError::NoCa(endpoint.clone()));
                }
                continue;
            }
            if !endpoint.is_local() {
                return Err(ConfigError::Plain(endpoint.clone()));
            }
            let all_plain = self.endpoints.iter().all(|endpoint| !endpoint.tls);
            if all_plain && (self.ca.is_some() || self.certificate.is_some()) {
                return Err(ConfigError::TlsWithoutUse(endpoint.clone()));
            }
        }
        Ok(())
    }
}

/// `https://HOST[:PORT]`, or `http://` for a member on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no endpoint of etcd: write https://HOST:PORT (http://127.0.0.1:PORT for one on this machine)"
)]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| error())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(error()),
        };
        let authority = uri.authority().ok_or_else(error)?;
        let is_bare = matches!(uri.path_and_query().map_or("/", |path| path.as_str()), "/");
        if !is_bare || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(error());
        }
        // A port that is none would be left out.
        let port = match authority.as_str().len() == authority.host().len() {
            true => PORT,
            false => authority.port_u16().ok_or_else(error)?,
        };
        Ok(Self {
            host: authority.host().to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    /// Without the brackets of an IPv6 address.
    pub(crate) fn name(&self) -> &str {
        let plain = self.host.strip_prefix('[');
        plain
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&self.host)
    }

    fn is_local(&self) -> bool {
        let address = self.name().parse::<IpAddr>();
        address.map_or(self.host == "localhost", |address| address.is_loopback())
    }
}

/// The beginning of all keys of a directory: it has a slash at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

/// A text that is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no prefix of keys: write /NAME/, of letters, digits and `/-_.`, and of {} bytes at the most",
    limits::PREFIX_BYTES
)]
pub struct PrefixError {
    text: String,
}

impl Default for Prefix {
    fn default() -> Self {
        Self("/underpass/".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let inner = text.strip_prefix('/').unwrap_or_default();
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
        let is_good = !inner.is_empty()
            && !inner.starts_with('/')
            && !inner.contains("//")
            && inner.len() < limits::PREFIX_BYTES - 1
            && inner.bytes().all(is_plain);
        match is_good {
            true => Ok(Self(format!("/{inner}/"))),
            false => Err(PrefixError {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Prefix {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoints: &[&str]) -> EtcdConfig {
        EtcdConfig {
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
            ca: None,
            certificate: None,
            user: None,
            prefix: Prefix::default(),
            installation: None,
        }
    }

    #[test]
    fn an_endpoint_is_a_url_of_a_host() {
        for (text, read) in [
            ("https://etcd-1.example:2379", "https://etcd-1.example:2379"),
            ("https://etcd-1.example", "https://etcd-1.example:2379"),
            ("https://[::1]:1", "https://[::1]:1"),
            ("http://127.0.0.1:2379/", "http://127.0.0.1:2379"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), read);
        }
        for text in [
            "",
            "etcd-1:2379",
            "etcd-1",
            "unix:///run/etcd.sock",
            "https://user:secret@etcd-1:2379",
            "https://etcd-1:2379/v3",
            "https://etcd-1:2379?x",
            "https://etcd-1:99999",
            "https://etcd-1:",
            "https://:2379",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains("https://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn a_prefix_has_a_slash_at_both_ends() {
        for (text, read) in [("/underpass/", "/underpass/"), ("/a/b-1", "/a/b-1/")] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), read);
        }
        let long = format!("/{}/", "x".repeat(limits::PREFIX_BYTES));
        for text in ["", "/", "//", "a/", "/a//b/", "/a b/", "/\u{e4}/", &long] {
            text.parse::<Prefix>().unwrap_err();
        }
    }

    #[test]
    fn rule_10_etcd_elsewhere_is_reached_over_tls_alone() {
        assert_eq!(config(&[]).check(), Err(ConfigError::NoEndpoint));
        config(&["http://127.0.0.1:2379", "http://[::1]:2379"])
            .check()
            .unwrap();
        let plain = config(&["http://localhost:1", "http://10.0.0.1:2379"]);
        assert!(matches!(plain.check(), Err(ConfigError::Plain(_))));
        let mut tls = config(&["https://10.0.0.1:2379"]);
        assert!(matches!(tls.check(), Err(ConfigError::NoCa(_))));
        tls.ca = Some("ca.pem".into());
        tls.check().unwrap();
        let mut useless = config(&["http://127.0.0.1:2379"]);
        useless.ca = Some("ca.pem".into());
        assert!(matches!(
            useless.check(),
            Err(ConfigError::TlsWithoutUse(_))
        ));
    }
}
