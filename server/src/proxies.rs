//! The load balancers in front of the server, and what they are believed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use thiserror::Error;
use tokio::io::AsyncRead;
use underpass_core::Peer;
use underpass_core::{Network, Networks};
use underpass_gateway::proxy_protocol::{self, HeaderError};
use underpass_tunnel::chain;

use crate::occasional::Occasional;

/// Flags about load balancers.
#[derive(Debug, Args)]
#[group(id = "proxies")]
pub(crate) struct Options {
    /// Network of load balancers that forward TCP and begin each connection with a PROXY protocol header (version 1 or
    /// 2). The server requires the header from them, and reads it from no other address; repeat for more
    #[arg(
        long,
        env = "UNDERPASS_PROXY_PROTOCOL_FROM",
        value_delimiter = ',',
        value_name = "NETWORK"
    )]
    proxy_protocol_from: Vec<Network>,
    /// Network of load balancers that end TLS and speak HTTPS to the server. The server believes the X-Forwarded-For of
    /// these addresses and of no other; repeat for more
    #[arg(
        long,
        env = "UNDERPASS_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_name = "NETWORK"
    )]
    trusted_proxies: Vec<Network>,
}

/// The proxies in front of the server. Clones log together.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedProxies {
    proxy_protocol: Networks,
    http: Networks,
    refused: Arc<Occasional>,
}

impl Options {
    /// The networks whose PROXY protocol header is read, and those whose `X-Forwarded-For` is believed.
    pub(crate) fn networks(&self) -> (Networks, Networks) {
        let networks = |all: &[Network]| all.iter().copied().collect();
        (
            networks(&self.proxy_protocol_from),
            networks(&self.trusted_proxies),
        )
    }
}

/// A load balancer's connection without the header that it has to begin with.
#[derive(Debug, Error)]
#[error("no header of a load balancer")]
pub(crate) struct NoHeader(#[source] HeaderError);

impl TrustedProxies {
    pub(crate) fn new(proxy_protocol: Networks, http: Networks) -> Self {
        Self {
            proxy_protocol,
            http,
            refused: Arc::default(),
        }
    }

    /// The peer of a connection from `remote`; before anything else is read from it.
    ///
    /// # Errors
    /// It is a load balancer that does not say for whom it connects. Nothing may be read from it then: the bytes' sender is
    /// unknown.
    pub(crate) async fn peer<R>(&self, io: &mut R, remote: SocketAddr) -> Result<Peer, NoHeader>
    where
        R: AsyncRead + Unpin,
    {
        let balancer = remote.ip();
        let address = if self.proxy_protocol.contain(balancer) {
            let said = proxy_protocol::read(io).await;
            let said = said.map_err(|error| self.refuse(balancer, error))?;
            said.unwrap_or(balancer)
        } else {
            balancer
        };
        Ok(Peer::new(address, &self.http))
    }

    fn refuse(&self, balancer: IpAddr, error: HeaderError) -> NoHeader {
        if let HeaderError::Silent = error {
            // Many a health check does no more than connect.
            return NoHeader(error);
        }
        metrics::counter!("underpass_proxy_protocol_refused_total").increment(1);
        if self.refused.is_news() {
            let balancer = balancer.to_canonical();
            tracing::warn!(
                %balancer,
                "a connection is refused: {}; --proxy-protocol-from says that there is one",
                chain(&error)
            );
        }
        NoHeader(error)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use http::HeaderMap;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        proxies: Options,
    }

    fn proxies() -> TrustedProxies {
        let line = [
            "x",
            "--proxy-protocol-from=10.0.0.0/8,2001:db8::1",
            "--trusted-proxies=10.9.0.0/16",
            "--trusted-proxies=192.0.2.7",
        ];
        let (proxy_protocol, http) = Line::try_parse_from(line).unwrap().proxies.networks();
        TrustedProxies::new(proxy_protocol, http)
    }

    async fn client(remote: &str, mut said: &[u8]) -> Result<(IpAddr, Vec<u8>), NoHeader> {
        let remote = SocketAddr::new(remote.parse().unwrap(), 9);
        let peer = proxies().peer(&mut said, remote).await?;
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        let mut rest = Vec::new();
        said.read_to_end(&mut rest).await.unwrap();
        Ok((peer.client(&headers), rest))
    }

    const HEADER: &[u8] = b"PROXY TCP4 198.51.100.1 198.51.100.2 4711 443\r\nTLS";

    #[tokio::test]
    async fn a_load_balancers_header_is_read() {
        for remote in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
            let (client, rest) = client(remote, HEADER).await.unwrap();
            assert_eq!(client, IpAddr::from([198, 51, 100, 1]), "{remote}");
            assert_eq!(rest, b"TLS");
        }
        // Its own health check.
        let said = client("10.1.2.3", b"PROXY UNKNOWN\r\nTLS").await.unwrap();
        assert_eq!(said, (IpAddr::from([10, 1, 2, 3]), b"TLS".to_vec()));
    }

    #[tokio::test]
    async fn rule_4_nobody_elses_header_is_read() {
        for remote in ["11.1.2.3", "192.0.2.7", "2001:db8::2"] {
            let (_, rest) = client(remote, HEADER).await.unwrap();
            assert_eq!(rest, HEADER, "{remote}");
        }
    }

    #[tokio::test]
    async fn rule_4_a_load_balancer_without_a_header_is_refused() {
        for said in [&b"\x16\x03\x01"[..], b"PROXY TCP4 198", b""] {
            client("10.1.2.3", said).await.unwrap_err();
        }
    }

    /// A proxy that ends TLS, behind a load balancer that forwards TCP.
    #[tokio::test]
    async fn both_kinds_stand_one_behind_the_other() {
        let header = b"PROXY TCP4 192.0.2.7 198.51.100.2 4711 443\r\nTLS";
        let (client, _) = client("10.1.2.3", header).await.unwrap();
        assert_eq!(client, IpAddr::from([203, 0, 113, 9]));
    }

    #[test]
    fn networks_that_are_none_are_refused() {
        for flag in [
            "--trusted-proxies=lb.example.org",
            "--proxy-protocol-from=10.0.0.1/8",
        ] {
            let said = Line::try_parse_from(["x", flag]).unwrap_err().to_string();
            assert!(said.contains("network"), "{said}");
        }
    }
}
