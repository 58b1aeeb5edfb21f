//! The host of a TCP target, and the patterns that a policy has for names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;
use underpass_core::{TcpTarget, service_account::is_label};

/// How an agent finds the host of a TCP target. Each text has one meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// It is an address.
    Address(IpAddr),
    /// The agent asks its API server: `SERVICE.NAMESPACE`, `SERVICE.NAMESPACE.svc` or `SERVICE.NAMESPACE.svc.cluster.local`.
    Service(Service),
    /// The agent's resolver knows it: any other name, in lower case.
    Name(String),
}

/// A Kubernetes service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Host {
    /// The host of this target.
    pub fn of(target: &TcpTarget) -> Self {
        match (target.address(), target.name()) {
            (Some(address), _) => Self::Address(address.to_canonical()),
            (None, name) => Self::named(name.unwrap_or_default()),
        }
    }

    fn named(name: &str) -> Self {
        match Service::of(name) {
            Some(service) => Self::Service(service),
            None => Self::Name(name.to_owned()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Service(service) => service.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Service {
    fn of(name: &str) -> Option<Self> {
        let inner = name.strip_suffix(".cluster.local").unwrap_or(name);
        let in_cluster = inner.strip_suffix(".svc");
        if in_cluster.is_none() && inner.len() != name.len() {
            return None;
        }
        let (service, namespace) = in_cluster.unwrap_or(inner).split_once('.')?;
        (is_label(service) && is_label(namespace)).then(|| Self {
            namespace: namespace.to_owned(),
            name: service.to_owned(),
        })
    }
}

/// `NAMESPACE/SERVICE`, of which each may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePattern {
    /// `None` for any.
    namespace: Option<String>,
    service: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not NAMESPACE/SERVICE, with `*` for every namespace or every service")]
pub(crate) struct ServicePatternError(String);

impl ServicePattern {
    pub(crate) fn matches(&self, service: &Service) -> bool {
        let is = |pattern: &Option<String>, name: &String| {
            pattern.as_ref().is_none_or(|pattern| pattern == name)
        };
        is(&self.namespace, &service.namespace) && is(&self.service, &service.name)
    }
}

impl FromStr for ServicePattern {
    type Err = ServicePatternError;

    fn from_str(text: &str) -> Result<Self, ServicePatternError> {
        let part = |part: &str| match part {
            "*" => Some(None),
            label if is_label(label) => Some(Some(label.to_owned())),
            _ => None,
        };
        let both = text.split_once('/');
        let both = both.and_then(|(namespace, service)| Some((part(namespace)?, part(service)?)));
        let (namespace, service) = both.ok_or_else(|| ServicePatternError(text.to_owned()))?;
        Ok(Self { namespace, service })
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: &'_ Option<String>| part.clone().unwrap_or_else(|| "*".to_owned());
        write!(f, "{}/{}", part(&self.namespace), part(&self.service))
    }
}

/// A DNS name; or `*.` and one, which stands for names with one label more, as in certificates (RFC 9525, section 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePattern {
    wildcard: bool,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum NamePatternError {
    #[error("{0:?} is no DNS name, which may begin with `*.` and have no other `*`")]
    Malformed(String),
    #[error(
        "{0:?} has a single label, which means something else in each search domain: write the whole name"
    )]
    OneLabel(String),
    #[error("{0:?} is a service of the cluster: write NAMESPACE/SERVICE below `services`")]
    Service(String),
}

impl NamePattern {
    pub(crate) fn matches(&self, name: &str) -> bool {
        if !self.wildcard {
            return self.name == name;
        }
        let rest = name.split_once('.').map(|(_, rest)| rest);
        rest == Some(self.name.as_str())
    }
}

impl FromStr for NamePattern {
    type Err = NamePatternError;

    fn from_str(text: &str) -> Result<Self, NamePatternError> {
        let malformed = || NamePatternError::Malformed(text.to_owned());
        let suffix = text.strip_prefix("*.");
        // A target's names are the names that there are.
        let parsed = format!("{}:1", suffix.unwrap_or(text)).parse::<TcpTarget>();
        let parsed = parsed.map_err(|_| malformed())?;
        let name = parsed.name().ok_or_else(malformed)?.to_owned();
        let wildcard = suffix.is_some();
        let one = match wildcard {
            true => format!("x.{name}"),
            false => name.clone(),
        };
        if !one.contains('.') {
            return Err(NamePatternError::OneLabel(text.to_owned()));
        }
        match Host::named(&one) {
            Host::Service(_) => Err(NamePatternError::Service(text.to_owned())),
            _ => Ok(Self { wildcard, name }),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcard = if self.wildcard { "*." } else { "" };
        write!(f, "{wildcard}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::of(&format!("{text}:1").parse().unwrap())
    }

    #[test]
    fn a_host_has_one_meaning() {
        for service in [
            "db.prod",
            "DB.Prod.",
            "db.prod.svc",
            "db.prod.svc.cluster.local",
        ] {
            assert_eq!(host(service).to_string(), "prod/db", "{service}");
        }
        for name in [
            "db",
            "db.prod.cluster.local",
            "db.prod.example.org",
            "db-0.db.prod.svc",
            "db.prod.svc.example.org",
            "_db.prod",
        ] {
            assert_eq!(host(name), Host::Name(name.to_owned()));
        }
        let mapped = host("[::ffff:10.0.0.1]");
        assert_eq!(mapped, Host::Address("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn services_match_by_namespace_and_name() {
        let matches = |pattern: &str, namespace: &str, name: &str| {
            let pattern: ServicePattern = pattern.parse().unwrap();
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            pattern.matches(&Service { namespace, name })
        };
        assert!(matches("prod/db", "prod", "db"));
        assert!(!matches("prod/db", "prod", "db2"));
        assert!(!matches("prod/db", "db", "prod"));
        assert!(matches("prod/*", "prod", "x") && !matches("prod/*", "dev", "x"));
        assert!(matches("*/db", "dev", "db") && !matches("*/db", "dev", "x"));
        assert!(matches("*/*", "dev", "x"));
        for bad in [
            "", "*", "db", "prod/", "/db", "a/b/c", "pr*/db", "Prod/db", "a.b/c", "prod/db ",
        ] {
            assert!(bad.parse::<ServicePattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let matches = |pattern: &str, name: &str| {
            let pattern: NamePattern = pattern.parse().unwrap();
            pattern.matches(name)
        };
        assert!(matches("db.example.org", "db.example.org"));
        assert!(matches("DB.Example.org.", "db.example.org"));
        assert!(!matches("db.example.org", "a.db.example.org"));
        assert!(matches("*.example.org", "db.example.org"));
        for other in [
            "example.org",
            "a.b.example.org",
            "db.example.com",
            "xexample.org",
        ] {
            assert!(!matches("*.example.org", other), "{other}");
        }
    }

    #[test]
    fn a_pattern_that_means_something_else_says_so() {
        let error = |text: &str| text.parse::<NamePattern>().unwrap_err();
        for bad in [
            "",
            "*",
            "*.",
            "*.*.example.org",
            "a.*.org",
            "*a.example.org",
            "10.0.0.1",
            "[::1]",
            "a..b.c",
            "a b.example.org",
            "http://x.example.org",
        ] {
            assert_eq!(error(bad), NamePatternError::Malformed(bad.to_owned()));
        }
        assert!(matches!(error("db"), NamePatternError::OneLabel(_)));
        for service in [
            "db.prod",
            "example.org",
            "*.prod",
            "db.prod.svc",
            "*.prod.svc",
            "*.prod.svc.cluster.local",
        ] {
            let service = error(service);
            assert!(
                matches!(service, NamePatternError::Service(_)),
                "{service:?}"
            );
        }
    }
}
