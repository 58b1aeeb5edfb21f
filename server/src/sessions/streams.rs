//! Streams of users' sessions: each is an HTTP/1.1 connection to the front, as if it had come over TLS.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Result, bail};
use tokio::sync::mpsc;
use underpass_api::HTTP_TARGET;
use underpass_core::{ConnectionInfo, Protocol};
use underpass_gateway::{Front, Metered};
use underpass_tunnel::{CloseCode, IncomingStream, ResetCode, Session, SessionError, chain};

use super::grants::Granted;
use super::{Begun, REVOKED};
use crate::limits;
use crate::listen::{Connections, Door};

/// The streams of all users' sessions.
pub(crate) struct Streams(mpsc::UnboundedReceiver<Begun>);

/// The parts of the server that serve connections.
#[derive(Clone)]
struct Inside {
    front: Arc<Front>,
    door: Door,
    connections: Connections,
}

impl Streams {
    pub(super) fn new(begun: mpsc::UnboundedReceiver<Begun>) -> Self {
        Self(begun)
    }

    /// Serves them until the server ends. They take places at the door, and count among the connections, as those over TCP do.
    pub(crate) async fn serve(mut self, front: Arc<Front>, door: Door, connections: Connections) {
        let inside = Inside {
            front,
            door,
            connections,
        };
        while let Some(Begun { session, granted }) = self.0.recv().await {
            tokio::spawn(inside.clone().serve_session(session, granted));
        }
    }
}

impl Inside {
    async fn serve_session(self, session: Session, mut granted: Granted) {
        let error = loop {
            tokio::select! {
                biased;
                () = granted.revoked() => break self.end_revoked(&session, &granted).await,
                incoming = session.accept() => match incoming {
                    Ok(incoming) => self.take(&session, &granted, incoming),
                    Err(error) => break error,
                },
            }
        };
        let info = session.info();
        tracing::debug!(user = info.agent.as_str(), session = %info.id, "a user's session has ended: {}", chain(&error));
    }

    /// Ends a session whose credential counts no more. The front ends its streams, a watch with a `Status`: the session waits for
    /// their clients, for a moment. A request that begins meanwhile is authenticated by itself.
    async fn end_revoked(&self, session: &Session, granted: &Granted) -> SessionError {
        let serving = async {
            loop {
                match session.accept().await {
                    Ok(incoming) => self.take(session, granted, incoming),
                    Err(error) => return error,
                }
            }
        };
        let idle = tokio::time::timeout(limits::SESSION_REVOKED_STREAMS, session.idle());
        tokio::select! {
            error = serving => return error,
            _ = idle => {}
        }
        session.close(CloseCode::Revoked, REVOKED);
        session.closed().await
    }

    fn take(&self, session: &Session, granted: &Granted, incoming: IncomingStream) {
        if incoming.target() == HTTP_TARGET {
            return self.serve_stream(session, granted, incoming);
        }
        let target = incoming.target().to_owned();
        let reason = format!("no user's session leads to the target `{target}`");
        incoming.refuse(ResetCode::UnknownTarget, &reason);
    }

    fn serve_stream(&self, session: &Session, granted: &Granted, incoming: IncomingStream) {
        let shown = granted.shown();
        let remote = session.remote().or(session.info().remote);
        // A transport in memory alone has no address.
        let remote = remote.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |remote| remote.ip());
        let info = ConnectionInfo {
            // Not by the proxies' rules: the session has the client's own address, and its requests name no other.
            peer: remote.into(),
            protocol: Protocol::Http1,
            server_name: None,
            certificates: shown.certificates.clone(),
            unusable_certificate: shown.unusable_certificate,
        };
        let this = self.clone();
        self.connections.spawn(async move {
            if let Err(error) = this.serve_connection(incoming, info).await {
                tracing::debug!(%remote, "a user's stream ended: {error:#}");
            }
        });
    }

    async fn serve_connection(&self, incoming: IncomingStream, info: ConnectionInfo) -> Result<()> {
        let stream = incoming.accept().await?;
        let place = self.door.enter(info.peer.address()).await?;
        let standing = &place.standing;
        let io = Metered::new(stream, standing.clone());
        tokio::select! {
            served = self.front.serve_stranger(io, info, standing.clone()) => Ok(served?),
            () = standing.closed() => bail!("closed to make room for others"),
        }
    }
}
