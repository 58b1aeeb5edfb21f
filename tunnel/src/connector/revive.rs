//! A session whose only transport has fallen silent gets another one before the silence is long enough to end the
//! first.

use std::convert::Infallible;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::Instant;
use underpass_proto::chain;

use super::{Connector, Transports};
use crate::session::{Links, Session};

/// The wait after an attempt that failed, or brought a link that soon fell silent as well; doubled each time.
const AGAIN: Duration = Duration::from_millis(250);

/// How long that becomes.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// A link that answered for so long was no accident.
const STABLE: Duration = Duration::from_secs(10);

/// The longest wait where two links have fallen silent: it is likely the server, which all its agents miss at once.
const CROWD: Duration = Duration::from_secs(2);

/// The longest wait before QUIC alone is dialled then. It may be that a NAT has forgotten both paths; and of a crowd that dials a server
/// that stands still, the system keeps as many datagrams as its buffer holds, and drops the others.
const FIRST: Duration = Duration::from_millis(100);

impl Connector {
    /// Brings the session another transport whenever its peer does not answer on the one that it has, and none stands
    /// by.
    pub(super) async fn revive(&self, session: &Session) -> Infallible {
        let mut links = session.shared().watch_links();
        let (mut again, mut revived) = (AGAIN, None::<Instant>);
        loop {
            wait_for(&mut links, stands_still).await;
            let soon = revived.is_some_and(|revived| revived.elapsed() < STABLE);
            let most = if soon {
                let most = again;
                again = (again * 2).min(AGAIN_MAX);
                most
            } else if links.borrow().standby.is_some() {
                CROWD
            } else {
                again = AGAIN;
                Duration::ZERO
            };
            let spread = |most: Duration| most.mul_f64(rand::rng().random_range(0.5..=1.0));
            let dial = async |wait, transports| {
                tokio::time::sleep(wait).await;
                let transport = self.dialer.dial_beside(transports).await?;
                self.resume(session, transport).await
            };
            let first = async {
                match (most == CROWD, self.dialer.transports()) {
                    (true, Transports::Auto) => dial(spread(FIRST), Transports::Quic).await,
                    _ => std::future::pending().await,
                }
            };
            // One that answers again makes the attempt useless.
            let mut others = links.clone();
            let result = tokio::select! {
                Ok(resumed) = first => Ok(resumed),
                result = dial(spread(most), self.dialer.transports()) => result,
                () = wait_for(&mut others, |links| !stands_still(links)) => continue,
            };
            revived = Some(Instant::now());
            if let Err(error) = result {
                let id = session.info().id;
                tracing::debug!(session = %id, "not revived: {}", chain(&error));
            }
        }
    }
}

/// Whether nothing answers; a session without any transport is another matter.
fn stands_still(links: &Links) -> bool {
    links.primary.is_some() && links.both().all(|link| link.silent)
}

/// Waits until the links are so. The session's end is for the caller to hear.
pub(super) async fn wait_for(links: &mut watch::Receiver<Links>, so: impl FnMut(&Links) -> bool) {
    if links.wait_for(so).await.is_err() {
        std::future::pending().await
    }
}
