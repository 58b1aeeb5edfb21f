//! A proxy, and the environment that names it.

use std::env;

use thiserror::Error;
use underpass_dial::ServerAddress;
use zeroize::Zeroizing;

use crate::no_proxy::NoProxy;
use crate::url::{ProxyUrl, ProxyUrlError};

/// The proxy to reach servers through, and the servers that need none.
///
/// The server's certificate is verified as ever: the proxy sees the server's name and encrypted bytes. A
/// proxy that opens TLS to look inside presents a certificate of its own.
#[derive(Debug, Clone)]
pub struct Proxy {
    url: Result<ProxyUrl, ProxyEnvError>,
    /// Servers that are reached without it.
    pub except: NoProxy,
    /// For `https://` proxies: the CAs that may sign the proxy's certificate, as PEM. `None` means
    /// those that the operating system trusts.
    pub ca_pem: Option<Vec<u8>>,
}

impl Proxy {
    /// A proxy for every server.
    pub fn new(url: ProxyUrl) -> Self {
        Self {
            url: Ok(url),
            except: NoProxy::default(),
            ca_pem: None,
        }
    }

    /// Reads the environment: the proxy of `HTTPS_PROXY`, except for the servers of `NO_PROXY` and
    /// for this machine itself (`localhost` and loopback addresses). Each variable's name in lower case
    /// counts where the one in upper case is unset or empty.
    ///
    /// A variable that cannot be used is an error of the connections that would go through the proxy ([`url`](Self::url)), and of no
    /// other: a program may need none.
    pub fn from_env() -> Option<Self> {
        Self::from_variables(variable)
    }

    /// The proxy's address, and this side's credentials for it.
    ///
    /// # Errors
    /// The environment names no proxy that can be used.
    pub fn url(&self) -> Result<&ProxyUrl, &ProxyEnvError> {
        self.url.as_ref()
    }

    fn from_variables(
        variable: impl Fn(&'static str) -> Result<Option<Zeroizing<String>>, ProxyEnvError>,
    ) -> Option<Self> {
        let mut names = ["HTTPS_PROXY", "https_proxy"].into_iter();
        let (name, found) = names.find_map(|name| Some((name, variable(name).transpose()?)))?;
        let url = found.and_then(|text| {
            let url = text.parse();
            url.map_err(|source| ProxyEnvError::Url { name, source })
        });
        let (url, except) = match NoProxy::from_variables(variable) {
            Ok(except) => (url, except),
            // Which servers it is not for is not known.
            Err(error) => (Err(error), NoProxy::default()),
        };
        Some(Self {
            url,
            except: except.and_loopback(),
            ca_pem: None,
        })
    }

    /// Whether the way to `server` leads through the proxy.
    pub fn applies_to(&self, server: &ServerAddress) -> bool {
        !self.except.matches(server)
    }
}

impl NoProxy {
    /// Reads `NO_PROXY`, or `no_proxy` where that is unset or empty.
    ///
    /// # Errors
    /// Where it is no text.
    pub fn from_env() -> Result<Self, ProxyEnvError> {
        Self::from_variables(variable)
    }

    fn from_variables(
        variable: impl Fn(&'static str) -> Result<Option<Zeroizing<String>>, ProxyEnvError>,
    ) -> Result<Self, ProxyEnvError> {
        let list = match variable("NO_PROXY")? {
            Some(list) => Some(list),
            None => variable("no_proxy")?,
        };
        Ok(list.map_or_else(Self::default, |list| Self::from(list.as_str())))
    }
}

/// A variable that is set to more than nothing.
fn variable(name: &'static str) -> Result<Option<Zeroizing<String>>, ProxyEnvError> {
    match env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(ProxyEnvError::NotText { name }),
    }
}

/// Why the environment names no usable proxy. No variable's content is repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyEnvError {
    /// It holds something else than the URL of a proxy that can be used.
    #[error(
        "the environment variable {name} names no proxy that can be used: name an http://, https:// or socks5:// proxy, unset it, or except the \
         server with NO_PROXY"
    )]
    Url {
        /// The variable.
        name: &'static str,
        /// Why not.
        source: ProxyUrlError,
    },
    /// It is no text.
    #[error("the environment variable {name} is not UTF-8")]
    NotText {
        /// The variable.
        name: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn from(variables: &[(&str, &str)]) -> Option<Proxy> {
        Proxy::from_variables(|name| {
            let found = variables.iter().find(|(set, _)| *set == name);
            let text = found.map(|(_, text)| Zeroizing::new((*text).to_owned()));
            Ok(text.filter(|text| !text.is_empty()))
        })
    }

    fn url(variables: &[(&str, &str)]) -> Option<String> {
        let proxy = from(variables)?;
        Some(proxy.url().unwrap().to_string())
    }

    #[test]
    fn the_environment_names_the_proxy() {
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[("HTTP_PROXY", "http://p:1")]), None);
        assert_eq!(
            url(&[("HTTPS_PROXY", "http://p:1"), ("https_proxy", "http://q:1")]).as_deref(),
            Some("http://p:1")
        );
        assert_eq!(
            url(&[("HTTPS_PROXY", ""), ("https_proxy", "http://q:1")]).as_deref(),
            Some("http://q:1")
        );
    }

    #[test]
    fn the_environment_names_exceptions() {
        let upper = ("NO_PROXY", "example.org");
        let proxy = from(&[("HTTPS_PROXY", "p:1"), upper, ("no_proxy", "example.com")]);
        let proxy = proxy.unwrap();
        for (host, applies) in [
            ("u.example.org", false),
            ("u.example.com", true),
            ("localhost", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            let server = ServerAddress::new(host, 443);
            assert_eq!(proxy.applies_to(&server), applies, "{host}");
        }
        // One that was named on purpose has no exceptions that were not.
        let proxy = Proxy::new("p:1".parse().unwrap());
        assert!(proxy.applies_to(&ServerAddress::new("localhost", 443)));
    }

    #[test]
    fn rule_11_an_unusable_variable_is_named_and_not_shown() {
        let proxy = from(&[("https_proxy", "ftp://u:secret@p:1")]).unwrap();
        let error = proxy.url().unwrap_err();
        let source = error.source().map(ToString::to_string);
        let told = format!("{error:?} {error} {source:?}");
        assert!(told.contains("https_proxy"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn a_variable_that_cannot_be_used_matters_where_a_proxy_is_needed() {
        let unusable = ("HTTPS_PROXY", "ftp://p:1");
        let proxy = from(&[unusable, ("NO_PROXY", ".example.org")]).unwrap();
        for (host, needed) in [
            ("u.example.org", false),
            ("::1", false),
            ("u.example.com", true),
        ] {
            assert_eq!(
                proxy.applies_to(&ServerAddress::new(host, 443)),
                needed,
                "{host}"
            );
        }
        // No other variable counts in its place.
        let proxy = from(&[unusable, ("https_proxy", "http://q:1")]).unwrap();
        assert!(matches!(
            proxy.url(),
            Err(ProxyEnvError::Url {
                name: "HTTPS_PROXY",
                ..
            })
        ));
        let proxy = Proxy::from_variables(|name| match name {
            "NO_PROXY" => Err(ProxyEnvError::NotText { name }),
            "HTTPS_PROXY" => Ok(Some(Zeroizing::new("p:1".to_owned()))),
            _ => Ok(None),
        });
        let proxy = proxy.unwrap();
        assert!(matches!(
            proxy.url(),
            Err(ProxyEnvError::NotText { name: "NO_PROXY" })
        ));
        assert!(!proxy.applies_to(&ServerAddress::new("localhost", 443)));
    }
}
