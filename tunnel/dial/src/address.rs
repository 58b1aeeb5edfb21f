//! A server by its name and port.

use std::fmt;
use std::net::Ipv6Addr;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A DNS name or an IP address (IPv6 without brackets), which the server's certificate must
    /// carry.
    pub host: String,
    /// Its port, UDP and TCP alike.
    pub port: u16,
}

impl ServerAddress {
    /// A server at `host`, a DNS name or an IP address.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

/// `HOST:PORT`, as it stands in URLs: IPv6 addresses in brackets.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{port}"),
            Err(_) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_have_brackets() {
        assert_eq!(ServerAddress::new("::1", 443).to_string(), "[::1]:443");
        assert_eq!(ServerAddress::new("u.org", 443).to_string(), "u.org:443");
        assert_eq!(ServerAddress::new("10.0.0.1", 1).to_string(), "10.0.0.1:1");
    }
}
