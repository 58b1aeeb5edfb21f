//! A lane: a second WebSocket for a session's copies, so that a segment which one of them loses does not
//! hold up keystrokes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::watch;
use tokio::time::timeout;
use underpass_proto::chain;

use super::revive::wait_for as wait_for_links;
use super::{ConnectError, Connector, Transports};
use crate::session::{Bulk, Links, Session};
use crate::transport::{Transport, TransportKind};

/// How long a stream of the class bulk must last before it is worth a connection.
const AFTER: Duration = Duration::from_secs(1);

/// The wait after an attempt that failed, and the limit of its doubling: behind a load balancer the next
/// attempt may meet the server that has the session.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

impl Connector {
    /// Keeps a lane beside the session's WebSocket for as long as streams of the class bulk need one. Over
    /// QUIC no stream waits for another one's lost packets.
    pub(super) async fn keep_lane(&self, session: &Session) -> Infallible {
        let mut bulk = session.shared().watch_bulk();
        let mut links = session.shared().watch_links();
        let mut again = AGAIN;
        loop {
            wait_for_links(&mut links, is_on_websocket).await;
            wanted(&mut bulk).await;
            if !self.lanes || !session.is_open() {
                // Neither changes for the worse.
                return std::future::pending().await;
            }
            if !is_on_websocket(&links.borrow()) {
                continue;
            }
            match self.dial_lane(session, &mut bulk).await {
                Ok(()) => again = AGAIN,
                Err(error) => {
                    let id = session.info().id;
                    tracing::debug!(session = %id, "no lane: {}", chain(&error));
                    tokio::time::sleep(again).await;
                    again = (again * 2).min(AGAIN_MAX);
                }
            }
        }
    }

    /// Brings lanes, each once the one before is too old, until one is left or lost.
    async fn dial_lane(
        &self,
        session: &Session,
        bulk: &mut watch::Receiver<Bulk>,
    ) -> Result<(), ConnectError> {
        loop {
            let transport = self.dialer.dial_beside(Transports::WebSocket).await?;
            self.add_lane(session, transport).await?;
            let gone = wait_for(bulk, |bulk| !bulk.lane);
            let age = self.plan.age(rand::rng().next_u32());
            if timeout(age.unwrap_or(Duration::MAX), gone).await.is_ok() {
                return Ok(());
            }
        }
    }

    /// Gives `session` a transport that was dialled elsewhere as its lane: streams of the class bulk move to
    /// it, and it is left once there are none. [`run`](Self::run) does so by itself where the session
    /// is on WebSocket.
    ///
    /// # Errors
    /// Where nothing comes of it; the session is as it was. One without a transport takes no lane.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn add_lane(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
    ) -> Result<(), ConnectError> {
        let ask = session.shared().ask_for_lane();
        self.add(session, transport, &ask).await
    }
}

fn is_on_websocket(links: &Links) -> bool {
    let primary = links.primary;
    primary.is_some_and(|link| link.kind == TransportKind::WebSocket && !link.silent)
}

/// Waits until there is something for a lane that lasts, and no lane.
async fn wanted(bulk: &mut watch::Receiver<Bulk>) {
    loop {
        wait_for(bulk, |bulk| bulk.streams && !bulk.lane).await;
        let over = wait_for(bulk, |bulk| !bulk.streams || bulk.lane);
        if timeout(AFTER, over).await.is_err() {
            return;
        }
    }
}

async fn wait_for(bulk: &mut watch::Receiver<Bulk>, what: impl FnMut(&Bulk) -> bool) {
    if bulk.wait_for(what).await.is_err() {
        // The session is gone; the caller hears of that, too.
        std::future::pending().await
    }
}
