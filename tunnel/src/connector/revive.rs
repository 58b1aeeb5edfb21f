//! A session whose only transport has fallen silent gets another one before the silence is long enough to end the
//! first.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use underpass_proto::chain;

use super::Connector;
use crate::session::{Links, Session};

/// The wait after an attempt that failed; doubled by each further one.
const AGAIN: Duration = Duration::from_millis(250);

impl Connector {
    /// Brings the session another transport whenever its peer does not answer on the one that it has, and none stands
    /// by.
    pub(super) async fn revive(&self, session: &Session) -> Infallible {
        let mut links = session.shared().watch_links();
        let mut again = AGAIN;
        loop {
            wait_for(&mut links, stands_still).await;
            let dialled = async {
                let transport = self.dialer.dial_beside(self.dialer.transports()).await?;
                self.resume(session, transport).await
            };
            // One that answers again makes the attempt useless.
            let mut others = links.clone();
            let result = tokio::select! {
                result = dialled => result,
                () = wait_for(&mut others, |links| !stands_still(links)) => continue,
            };
            match result {
                Ok(_) => again = AGAIN,
                Err(error) => {
                    let id = session.info().id;
                    tracing::debug!(session = %id, "not revived: {}", chain(&error));
                    tokio::time::sleep(again).await;
                    again *= 2;
                }
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
