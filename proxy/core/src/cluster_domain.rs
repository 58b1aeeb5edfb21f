//! Names of clusters in DNS and in TLS: below a cluster's name its API server is at the root, and there is nothing else.

use std::{fmt, str::FromStr};

use crate::ClusterName;

/// The domain of names that only TLS knows: a client says `NAME.clusters.underpass.internal` in its handshake (SNI; kubeconfig's
/// `tls-server-name`), and reaches the server by any of its names and addresses. ICANN has reserved `.internal` for private use: no
/// name below it is anybody's in public DNS.
const TLS_DOMAIN: &str = "clusters.underpass.internal";

/// A domain name has 253 bytes at the most (RFC 1035, section 2.3.4, without the length bytes); a cluster's label and its dot take
/// 64 of them.
const DOMAIN_BYTES: usize = 253 - 64;

/// A domain below which each cluster has a name: `NAME.DOMAIN`. In lower case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterDomain(Box<str>);

/// Why a text is not a [`ClusterDomain`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no domain for clusters: it needs two labels or more (a-z, 0-9 and '-'), as in k8s.example.org, and has {most} bytes \
     at the most, without '*.'",
    most = DOMAIN_BYTES
)]
pub struct ClusterDomainError(String);

impl ClusterDomain {
    /// Checks a domain.
    ///
    /// # Errors
    /// Clusters cannot have names below it in DNS, or no wildcard certificate can cover them (clients take none that covers a whole
    /// top-level domain).
    pub fn new(text: &str) -> Result<Self, ClusterDomainError> {
        let wrong = || ClusterDomainError(text.to_owned());
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let labels: Vec<&str> = name.split('.').collect();
        // A cluster's name is one label of DNS, and these are held to the same.
        let plain = labels.iter().all(|label| ClusterName::new(label).is_ok());
        // A host that ends in a number is an IPv4 address, or is taken for one (WHATWG URL, section 3.5).
        let address = labels
            .last()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if !plain || address || labels.len() < 2 || name.len() > DOMAIN_BYTES {
            return Err(wrong());
        }
        Ok(Self(name.into()))
    }

    /// The domain of [`ClusterDomains::tls`].
    fn tls() -> Self {
        Self(TLS_DOMAIN.into())
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cluster's name below the domain.
    pub fn name_of(&self, cluster: &ClusterName) -> String {
        format!("{cluster}.{self}")
    }

    /// The name of all clusters in a certificate.
    pub fn wildcard(&self) -> String {
        format!("*.{self}")
    }

    /// The part of a name in lower case that is before this domain.
    fn label_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_suffix(&*self.0)?.strip_suffix('.')
    }
}

impl fmt::Display for ClusterDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterDomain {
    type Err = ClusterDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// The domains of a server's clusters: those that it was given, and the one of TLS.
#[derive(Clone, Debug)]
pub struct ClusterDomains {
    dns: Vec<ClusterDomain>,
    tls: ClusterDomain,
}

/// Two domains between which a name could mean two clusters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster domain {inner} is below the cluster domain {outer}: a name could mean two clusters, leave one of them out"
)]
pub struct NestedDomains {
    outer: ClusterDomain,
    inner: ClusterDomain,
}

/// The meaning of a host's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// It is below no domain of clusters: the server's own, or nobody's.
    Server,
    /// A cluster's, in DNS.
    Cluster(ClusterName),
    /// A cluster's, by the domain that only TLS knows.
    TlsCluster(ClusterName),
    /// It is below a domain of clusters, and no cluster can have it.
    NoCluster,
}

/// The meaning of a name that a client wants a connection to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetName {
    /// It is below no domain of clusters: a name as the cluster itself knows it.
    Plain,
    /// `HOST.NAME.DOMAIN`: this host of this cluster.
    Of(String, ClusterName),
    /// `NAME.DOMAIN`: the cluster itself.
    Cluster(ClusterName),
    /// It is below a domain of clusters, and no cluster can have it.
    NoCluster,
}

impl HostName {
    /// The cluster.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Cluster(cluster) | Self::TlsCluster(cluster) => Some(cluster),
            Self::Server | Self::NoCluster => None,
        }
    }
}

impl Default for ClusterDomains {
    fn default() -> Self {
        Self {
            dns: Vec::new(),
            tls: ClusterDomain::tls(),
        }
    }
}

impl ClusterDomains {
    /// These domains of DNS, and the one of TLS.
    ///
    /// # Errors
    /// One is below another. (The same one twice is one.)
    pub fn new(dns: &[ClusterDomain]) -> Result<Self, NestedDomains> {
        let mut all = Self::default();
        for domain in dns {
            if !all.dns.contains(domain) {
                all.dns.push(domain.clone());
            }
        }
        let nested = all.iter().find_map(|inner| {
            let mut others = all.iter().filter(|outer| *outer != inner);
            let outer = others.find(|outer| outer.label_of(&inner.0).is_some())?;
            Some(NestedDomains {
                outer: outer.clone(),
                inner: inner.clone(),
            })
        });
        nested.map_or(Ok(all), Err)
    }

    /// The domain of DNS that new kubeconfigs have.
    pub fn preferred(&self) -> Option<&ClusterDomain> {
        self.dns.first()
    }

    /// The domain of names that only TLS knows.
    pub fn tls(&self) -> &ClusterDomain {
        &self.tls
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ClusterDomain> {
        self.dns.iter().chain([&self.tls])
    }

    /// Reads a host's name, in any case and without its port. One dot at the end makes no difference (RFC 1034, section 3.1).
    pub fn read(&self, host: &str) -> HostName {
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        for domain in self.iter() {
            if let Some(label) = domain.label_of(&name) {
                return match ClusterName::new(label) {
                    Ok(cluster) if *domain == self.tls => HostName::TlsCluster(cluster),
                    Ok(cluster) => HostName::Cluster(cluster),
                    Err(_) => HostName::NoCluster,
                };
            }
        }
        HostName::Server
    }

    /// Reads the name of a target, `HOST.NAME.DOMAIN`, in any case and without its port. HOST is as the cluster knows it.
    pub fn read_target(&self, host: &str) -> TargetName {
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let Some(label) = self.iter().find_map(|domain| domain.label_of(&name)) else {
            return TargetName::Plain;
        };
        let (host, cluster) = match label.rsplit_once('.') {
            Some((host, cluster)) => (Some(host), cluster),
            None => (None, label),
        };
        match (host, ClusterName::new(cluster)) {
            (_, Err(_)) => TargetName::NoCluster,
            (Some(host), Ok(cluster)) => TargetName::Of(host.to_owned(), cluster),
            (None, Ok(cluster)) => TargetName::Cluster(cluster),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(names: &[&str]) -> Result<ClusterDomains, NestedDomains> {
        let names: Vec<_> = { names.iter() }
            .map(|name| ClusterDomain::new(name).unwrap())
            .collect();
        ClusterDomains::new(&names)
    }

    #[test]
    fn domains_can_have_a_wildcard_certificate() {
        for (good, written) in [
            ("k8s.example.org", "k8s.example.org"),
            ("K8s.Example.Org.", "k8s.example.org"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(ClusterDomain::new(good).unwrap().as_str(), written);
        }
        let long = format!("{}.org", "x.".repeat(100));
        for bad in [
            "",
            ".",
            "org",
            "localhost",
            "*.k8s.example.org",
            ".k8s.example.org",
            "k8s..org",
            "k8s.example.org..",
            "k8s_x.org",
            "k8s.example.org:443",
            "https://k8s.example.org",
            "10.0.0.1",
            "[::1]",
            "b\u{fc}ro.example.org",
            &long,
        ] {
            let refused = ClusterDomain::new(bad).unwrap_err().to_string();
            assert!(refused.contains("k8s.example.org"), "{bad}: {refused}");
        }
    }

    #[test]
    fn no_name_means_two_clusters() {
        assert!(domains(&["a.org", "a.org", "b.a.net"]).is_ok());
        for nested in [
            &["a.org", "b.a.org"][..],
            &["b.a.org", "a.org"],
            &["underpass.internal"],
            &["x.clusters.underpass.internal"],
        ] {
            let refused = domains(nested).unwrap_err().to_string();
            assert!(refused.contains("leave one of them out"), "{refused}");
        }
        // Its end is the same, and it is another domain.
        assert!(domains(&["a.org", "ba.org"]).is_ok());
    }

    #[test]
    fn rule_6_a_name_is_one_cluster_or_none() {
        let domains = domains(&["k8s.example.org", "k.example.net"]).unwrap();
        let edge = || ClusterName::new("edge").unwrap();
        for (host, meaning) in [
            ("edge.k8s.example.org", HostName::Cluster(edge())),
            ("EDGE.K8s.example.ORG", HostName::Cluster(edge())),
            ("edge.k8s.example.org.", HostName::Cluster(edge())),
            ("edge.k.example.net", HostName::Cluster(edge())),
            (
                "edge.clusters.underpass.internal",
                HostName::TlsCluster(edge()),
            ),
            // The domain's own name may be the server's.
            ("k8s.example.org", HostName::Server),
            ("clusters.underpass.internal", HostName::Server),
            ("edge.k8s.example.org.evil.example", HostName::Server),
            ("edgek8s.example.org", HostName::Server),
            ("edge", HostName::Server),
            ("", HostName::Server),
            ("127.0.0.1", HostName::Server),
            ("[::1]", HostName::Server),
            // No cluster has such a name, and neither has the server.
            (".k8s.example.org", HostName::NoCluster),
            ("a.edge.k8s.example.org", HostName::NoCluster),
            ("*.k8s.example.org", HostName::NoCluster),
            ("-edge.k8s.example.org", HostName::NoCluster),
            ("%65dge.k8s.example.org", HostName::NoCluster),
            ("a.edge.clusters.underpass.internal", HostName::NoCluster),
        ] {
            assert_eq!(domains.read(host), meaning, "{host}");
        }
        let long = format!("{}.k8s.example.org", "x".repeat(64));
        assert_eq!(domains.read(&long), HostName::NoCluster);
    }

    #[test]
    fn rule_6_a_targets_name_is_in_one_cluster_or_in_none() {
        let domains = domains(&["k8s.example.org"]).unwrap();
        let edge = || ClusterName::new("edge").unwrap();
        let of = |host: &str| TargetName::Of(host.to_owned(), edge());
        for (host, meaning) in [
            ("web.shop.edge.k8s.example.org", of("web.shop")),
            ("WEB.Shop.EDGE.k8s.example.org.", of("web.shop")),
            ("web.edge.clusters.underpass.internal", of("web")),
            ("10.0.0.1.edge.k8s.example.org", of("10.0.0.1")),
            // The rest is not read as another cluster's name.
            (
                "other.k8s.example.org.edge.k8s.example.org",
                of("other.k8s.example.org"),
            ),
            (".edge.k8s.example.org", of("")),
            ("edge.k8s.example.org", TargetName::Cluster(edge())),
            ("web.EDGE!.k8s.example.org", TargetName::NoCluster),
            ("web..k8s.example.org", TargetName::NoCluster),
            (".k8s.example.org", TargetName::NoCluster),
            ("k8s.example.org", TargetName::Plain),
            ("web.shop", TargetName::Plain),
            ("edgek8s.example.org", TargetName::Plain),
            ("web.edge.k8s.example.org.evil.example", TargetName::Plain),
            ("[::1]", TargetName::Plain),
            ("", TargetName::Plain),
        ] {
            assert_eq!(domains.read_target(host), meaning, "{host}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let domains = domains(&["k8s.example.org"]).unwrap();
        let edge = ClusterName::new("edge").unwrap();
        for domain in domains.iter() {
            let name = domain.name_of(&edge);
            assert_eq!(domains.read(&name).cluster(), Some(&edge), "{name}");
        }
        assert_eq!(
            domains.preferred().map(ClusterDomain::wildcard).as_deref(),
            Some("*.k8s.example.org")
        );
        assert_eq!(ClusterDomains::default().preferred(), None);
    }
}
