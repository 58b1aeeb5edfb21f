//! The steps before HTTP: a load balancer's header, where one is due, and TLS.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use underpass_core::Peer;
use underpass_gateway::{Metered, Standing, refuse_plain_http, refuse_plain_http2};

use super::not_tls::Speaks;
use crate::limits;
use crate::occasional::Occasional;
use crate::proxies::TrustedProxies;
use crate::silence::Silence;
use crate::vanished::Upgrades;

/// The first byte of a TLS connection: a record of the type handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

type Socket = Metered<Silence>;

/// The handshakes of all connections, which log together.
pub(super) struct Handshakes {
    proxies: TrustedProxies,
    tls: TlsAcceptor,
    /// Clients that speak no TLS: those that may be led here by a mistake, and others.
    mistaken: Occasional,
    foreign: Occasional,
}

impl Handshakes {
    pub(super) fn new(proxies: TrustedProxies, tls: TlsAcceptor) -> Self {
        Self {
            proxies,
            tls,
            mistaken: Occasional::default(),
            foreign: Occasional::default(),
        }
    }

    /// Takes these steps.
    ///
    /// # Errors
    /// One failed, or took too long. A client that speaks HTTP without TLS has been told.
    pub(super) async fn shake(
        &self,
        (tcp, remote, upgrades): (TcpStream, SocketAddr, Upgrades),
        standing: &Standing,
    ) -> Result<(Peer, TlsStream<Socket>)> {
        // Responses are written whole; waiting for more would delay watch events.
        tcp.set_nodelay(true)?;
        let tcp = Silence::new(tcp, standing.clone(), upgrades);
        let mut tcp = Metered::new(tcp, standing.clone());
        let peer = self.proxies.peer(&mut tcp, remote).await?;
        standing.comes_from(&peer);
        let tls = tokio::time::timeout(limits::TLS_TIME, self.secure(tcp, &peer, standing));
        let tls = tls.await.context("TLS took too long")?;
        Ok((peer, tls?))
    }

    async fn secure(
        &self,
        tcp: Socket,
        peer: &Peer,
        standing: &Standing,
    ) -> Result<TlsStream<Socket>> {
        match tcp.get_ref().first_byte().await {
            // An end, or an error, is TLS's to find.
            Ok(Some(HANDSHAKE) | None) | Err(_) => self.tls.accept(tcp).await.context("TLS failed"),
            Ok(Some(_)) => self.refuse(tcp, peer, standing).await,
        }
    }

    async fn refuse<T>(&self, mut tcp: Socket, peer: &Peer, standing: &Standing) -> Result<T> {
        let speaks = Speaks::read(&mut tcp).await.context("no TLS")?;
        metrics::counter!("underpass_not_tls_total", "speaks" => speaks.label()).increment(1);
        let said = match speaks {
            Speaks::Http { .. } | Speaks::Http2 | Speaks::ProxyProtocol => &self.mistaken,
            Speaks::Ssh | Speaks::SomethingElse => &self.foreign,
        };
        if said.is_news() {
            let client = peer.address();
            tracing::warn!(%client, "a connection without TLS is refused: {speaks}");
        }
        let refused = match speaks {
            Speaks::Http { head } => refuse_plain_http(tcp, standing.clone(), head).await,
            Speaks::Http2 => refuse_plain_http2(tcp, standing.clone()).await,
            Speaks::Ssh | Speaks::ProxyProtocol | Speaks::SomethingElse => Ok(()),
        };
        refused.context("the client did not take the answer")?;
        bail!("no TLS: {speaks}")
    }
}
