//! Which servers are reached without the proxy.

use std::net::IpAddr;

use ipnet::IpNet;

use underpass_dial::ServerAddress;

use crate::url::host_and_port;

/// The servers that are reached without a proxy, in the form that `NO_PROXY` has in most programs:
///
/// | entry | covers |
/// |---|---|
/// | `example.org`, `.example.org`, `*.example.org` | that name and every name below it |
/// | `10.0.0.1`, `fd00::1`, `[fd00::1]` | that address |
/// | `10.0.0.0/8`, `fd00::/8` | every address of that network |
/// | `*` | everything |
///
/// Entries are separated by commas or blanks; each may end with `:PORT` (not a network), and then covers
/// that port only. Case does not matter. Addresses cover servers that are named by their address: names
/// are not resolved. An entry that is none of these covers nothing: other programs may understand
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// The name, in lower case, and those below it.
    Domain(String),
}

impl NoProxy {
    /// Whether the server is reached without the proxy.
    pub fn matches(&self, server: &ServerAddress) -> bool {
        // An address of IPv4 may be written in IPv6's form.
        let host = match server.host.parse::<IpAddr>() {
            Ok(address) => Ok(address.to_canonical()),
            Err(_) => Err(domain(&server.host)),
        };
        self.0.iter().any(|entry| {
            let host = match (&entry.hosts, &host) {
                (Hosts::All, _) => true,
                (Hosts::Network(network), Ok(address)) => network.contains(address),
                (Hosts::Domain(domain), Err(host)) => is_within(host, domain),
                (Hosts::Network(_), Err(_)) | (Hosts::Domain(_), Ok(_)) => false,
            };
            host && entry.port.is_none_or(|port| port == server.port)
        })
    }

    /// With this machine itself besides: `localhost` and every loopback address.
    pub(super) fn and_loopback(mut self) -> Self {
        self.0.extend(Self::from("localhost 127.0.0.0/8 ::1").0);
        self
    }
}

/// Every text is a list: see [`NoProxy`].
impl From<&str> for NoProxy {
    fn from(list: &str) -> Self {
        let entries = list.split(|char: char| char == ',' || char.is_whitespace());
        Self(entries.filter_map(Entry::parse).collect())
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(network) = text.parse::<IpNet>() {
            let hosts = Hosts::Network(network);
            return Some(Self { hosts, port: None });
        }
        let (host, port) = host_and_port(text)?;
        let port = match port {
            Some(port) => Some(port.parse().ok()?),
            None => None,
        };
        let hosts = match (host, host.parse::<IpAddr>()) {
            ("*", _) => Hosts::All,
            (_, Ok(address)) => Hosts::Network(address.to_canonical().into()),
            (_, Err(_)) => {
                let name = host.strip_prefix('*').unwrap_or(host);
                let name = domain(name.strip_prefix('.').unwrap_or(name));
                if name.is_empty() {
                    return None;
                }
                Hosts::Domain(name)
            }
        };
        Some(Self { hosts, port })
    }
}

/// A name as names are compared: without the root's dot.
fn domain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_means_what_it_means_elsewhere() {
        for (list, covered, others) in [
            ("", &[][..], &["u.org", "10.0.0.1"][..]),
            (
                "example.org",
                &[
                    "example.org",
                    "u.example.org",
                    "U.EXAMPLE.ORG",
                    "a.b.example.org",
                    "example.org.",
                ],
                &[
                    "badexample.org",
                    "example.org.evil",
                    "org",
                    "example.com",
                    "10.0.0.1",
                ],
            ),
            (
                ".example.org",
                &["u.example.org", "example.org"],
                &["badexample.org"],
            ),
            (
                "*.example.org",
                &["u.example.org", "example.org"],
                &["badexample.org"],
            ),
            ("Example.Org.", &["u.example.org"], &["u.example.com"]),
            ("*", &["u.org", "10.0.0.1", "::1"], &[]),
            ("a.org,*", &["u.org"], &[]),
            (
                "10.0.0.1",
                &["10.0.0.1", "::ffff:10.0.0.1"],
                &["10.0.0.2", "10.0.0.1.org"],
            ),
            (
                "10.0.0.0/8",
                &["10.255.0.1", "::ffff:10.0.0.1"],
                &["11.0.0.1", "10.org"],
            ),
            ("10.1.2.3/8", &["10.255.0.1"], &["11.0.0.1"]),
            ("fd00::/8", &["fd00::1"], &["fe80::1", "10.0.0.1"]),
            ("::1", &["::1", "0:0:0:0:0:0:0:1"], &["::2"]),
            ("[::1]", &["::1"], &["::2"]),
            (
                "a.org, b.org\tc.org  ,, 10.0.0.1",
                &["a.org", "b.org", "c.org", "10.0.0.1"],
                &["d.org"],
            ),
            // Entries that cannot be parsed match nothing; the others count.
            (
                "10.0.0.0/99,:80,.,*.,[x],a.org:no,b.org",
                &["b.org"],
                &["a.org", "10.0.0.1", "x"],
            ),
        ] {
            let no_proxy = NoProxy::from(list);
            let matches = |host: &&str| no_proxy.matches(&ServerAddress::new(*host, 443));
            for host in covered {
                assert!(matches(host), "`{list}` covers {host}");
            }
            for host in others {
                assert!(!matches(host), "`{list}` does not cover {host}");
            }
        }
    }

    #[test]
    fn an_entry_may_name_a_port() {
        let no_proxy = NoProxy::from("a.org:8443 10.0.0.1:8443 [fd00::1]:8443 *:9443");
        for (host, port, covered) in [
            ("u.a.org", 8443, true),
            ("u.a.org", 443, false),
            ("10.0.0.1", 8443, true),
            ("10.0.0.1", 443, false),
            ("fd00::1", 8443, true),
            ("fd00::1", 443, false),
            ("anything", 9443, true),
        ] {
            let server = ServerAddress::new(host, port);
            assert_eq!(no_proxy.matches(&server), covered, "{server}");
        }
    }

    #[test]
    fn this_machine_is_loopback() {
        let no_proxy = NoProxy::from("a.org").and_loopback();
        for host in ["a.org", "localhost", "127.0.0.1", "127.8.8.8", "::1"] {
            assert!(no_proxy.matches(&ServerAddress::new(host, 1)), "{host}");
        }
        assert!(!no_proxy.matches(&ServerAddress::new("128.0.0.1", 1)));
    }
}
