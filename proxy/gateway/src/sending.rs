//! Answers on their way to a client.
//!
//! hyper takes an answer faster than a slow client reads it. The bytes taken and not sent cost memory, and keep the answer's
//! seat in its user's and its cluster's budgets (security rule 23). A client that reads nothing of an answer for
//! [`limits::ANSWER_STALL`] is gone, as for kube-apiserver, whose requests have 60 s altogether: its connection ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::time::Instant;
use underpass_core::{body::tied, limits};

/// The answers of one connection that must not stand still.
#[derive(Debug, Default)]
pub(crate) struct Sendings(Mutex<Vec<Weak<Sending>>>);

/// An answer that is being sent.
pub(crate) struct Sending {
    progress: Mutex<Progress>,
    _kept: Box<dyn Send + Sync>,
}

#[derive(Debug)]
struct Progress {
    /// Pieces that hyper has and has not sent.
    unsent: usize,
    /// When one was last sent, or the first was taken.
    since: Instant,
}

/// Exists while hyper has the piece.
struct Piece(Arc<Sending>);

impl Sendings {
    /// An answer begins that keeps `kept` until all of it is sent, or its connection ends.
    pub(crate) fn begin(&self, kept: impl Send + Sync + 'static) -> Arc<Sending> {
        let sending = Sending::new(kept);
        let mut all = self.lock();
        if all.len() == all.capacity() {
            all.retain(|sending| sending.strong_count() > 0);
        }
        all.push(Arc::downgrade(&sending));
        sending
    }

    /// Waits until one has stood still for too long.
    pub(crate) async fn stalled(&self) {
        loop {
            tokio::time::sleep(limits::ANSWER_STALL / 2).await;
            let now = Instant::now();
            let mut all = self.lock();
            all.retain(|sending| sending.strong_count() > 0);
            let mut sendings = all.iter().filter_map(Weak::upgrade);
            if sendings.any(|sending| sending.is_stalled(now)) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Sending>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sending {
    /// The same of an answer that may stand still: a watch, or a log in somebody's pager.
    pub(crate) fn new(kept: impl Send + Sync + 'static) -> Arc<Self> {
        let progress = Progress {
            unsent: 0,
            since: Instant::now(),
        };
        Arc::new(Self {
            progress: Mutex::new(progress),
            _kept: Box::new(kept),
        })
    }

    /// A piece for hyper.
    pub(crate) fn piece(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let mut progress = self.lock();
        if progress.unsent == 0 {
            progress.since = Instant::now();
        }
        progress.unsent = progress.unsent.saturating_add(1);
        drop(progress);
        tied(bytes, Piece(Arc::clone(self)))
    }

    fn is_stalled(&self, now: Instant) -> bool {
        let progress = self.lock();
        let stands = now.saturating_duration_since(progress.since);
        progress.unsent > 0 && stands >= limits::ANSWER_STALL
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        progress.unsent = progress.unsent.saturating_sub(1);
        progress.since = Instant::now();
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use underpass_authenticate::{AuthenticateError, Authenticated, Authenticator, Caller};
    use underpass_core::{
        Access, AuthorizeError, Authorizer, Body, BoxedIo, ClusterName, Clusters, ConnectError,
        ConnectionInfo, Nobody, Open, Protocol, Revocation,
    };

    use super::*;
    use crate::{Connection, Fallback, Front, FrontConfig};

    async fn stalls(sendings: &Sendings, within: Duration) -> bool {
        tokio::time::timeout(within, sendings.stalled())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_an_answer_that_stands_still_is_noticed_and_a_slow_one_goes_on() {
        let sendings = Sendings::default();
        let kept = Arc::new(());
        let sending = sendings.begin(Arc::clone(&kept));
        let piece = |sending: &Arc<Sending>| sending.piece(Bytes::from_static(b"x"));
        // Slow: one piece in 50 s, of two that wait.
        let mut waits = piece(&sending);
        for _ in 0..10 {
            waits = {
                let next = piece(&sending);
                assert!(!stalls(&sendings, Duration::from_secs(50)).await);
                drop(waits);
                next
            };
        }
        assert!(stalls(&sendings, 2 * limits::ANSWER_STALL).await);
        // The body may be gone.
        drop(sending);
        assert!(stalls(&sendings, 2 * limits::ANSWER_STALL).await);
        assert_eq!(Arc::strong_count(&kept), 2);
        drop(waits);
        assert_eq!(Arc::strong_count(&kept), 1);
        assert!(!stalls(&sendings, 10 * limits::ANSWER_STALL).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_remembers_nothing_of_answers_that_are_sent() {
        let sendings = Sendings::default();
        for _ in 0..1000 {
            drop(sendings.begin(()).piece(Bytes::from_static(b"x")));
        }
        assert!(sendings.lock().capacity() < 8);
    }

    /// A front whose every answer is a page.
    struct Page;

    #[async_trait]
    impl Fallback for Page {
        async fn handle(&self, _: Request<Incoming>, connection: &Connection) -> Response<Body> {
            let page = Response::new(underpass_core::full(vec![b'x'; 4096]));
            connection.sending(page, ())
        }
    }

    #[async_trait]
    impl Authenticator for Page {
        async fn authenticate(
            &self,
            _: &Caller<'_>,
        ) -> Result<Option<Authenticated>, AuthenticateError> {
            Ok(None)
        }
    }

    #[async_trait]
    impl Authorizer for Page {
        async fn authorize(&self, _: &Access<'_>) -> Result<Revocation, AuthorizeError> {
            Err(AuthorizeError::Denied { reason: None })
        }
    }

    #[async_trait]
    impl Clusters for Page {
        async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
            Err(ConnectError::NoAgent)
        }
    }

    fn front() -> Arc<Front> {
        Arc::new(Front::new(FrontConfig {
            authenticator: Arc::new(Page),
            authorizer: Arc::new(Page),
            impersonation: Arc::new(Nobody),
            clusters: Arc::new(Page),
            fallback: Arc::new(Page),
            policy: Default::default(),
            audit: Default::default(),
            budgets: Default::default(),
        }))
    }

    /// The client answers PINGs, and its window is shut.
    #[tokio::test(start_paused = true)]
    async fn rule_23_who_reads_nothing_of_an_answer_is_disconnected() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let info = ConnectionInfo {
            peer: std::net::IpAddr::from([192, 0, 2, 1]).into(),
            protocol: Protocol::Http2,
            certificates: Vec::new(),
        };
        let front = front();
        let serving = tokio::spawn(async move { front.serve_connection(server, info).await });
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let handshake = builder.initial_stream_window_size(1024);
        let (mut sender, connection) = handshake
            .handshake::<_, Body>(TokioIo::new(client))
            .await
            .unwrap();
        tokio::spawn(connection);
        let get = || {
            let get = Request::get("https://front/page");
            get.body(underpass_core::empty()).unwrap()
        };
        // One that is read is no matter.
        let page = sender.send_request(get()).await.unwrap();
        let page = page.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(page.len(), 4096);
        let begun = Instant::now();
        let _unread = sender.send_request(get()).await.unwrap();
        serving.await.unwrap().unwrap();
        let lasted = begun.elapsed();
        let stall = limits::ANSWER_STALL;
        assert!((stall..=2 * stall).contains(&lasted), "{lasted:?}");
    }
}
