//! Two links of a session, one of each protocol: a path that dies without a word costs a blink (PROTOCOL.md, "Two
//! links").

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::sync::watch;
use tokio::time::Instant;
use underpass_proto::chain;
use underpass_proto::session::LinkId;

use super::keep::Status;
use super::revive::wait_for;
use super::{ConnectError, Connector, Transports};
use crate::session::{LinkState, Links, Session};
use crate::transport::{Transport, TransportKind};

/// Over how long the agents of a server spread that begin their second link.
const FIRST_SPREAD: Duration = Duration::from_secs(2);

/// How long a link may be silent before another one of its kind is dialled: one that the peer has given up may answer
/// when it is asked. There is no hurry while the other one carries the session, and where it is the server that is
/// slow, its agents should not all dial at once.
const SILENCE: Duration = Duration::from_millis(250);

/// The longest that it may be silent.
const SILENCE_MAX: Duration = Duration::from_millis(1500);

/// The wait after an attempt that failed, or a link that did not last; doubled each time.
const AGAIN: Duration = Duration::from_secs(1);

/// How long that becomes over WebSocket. For QUIC it is the plan's.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long it becomes where the server has not the session: behind a load balancer that spreads the protocols otherwise,
/// each attempt may meet another one.
const REFUSED_MAX: Duration = Duration::from_secs(10 * 60);

/// How often in turn a server has to say that it knows no link that stands by: behind a load balancer, one that is older than the
/// session's own may have answered.
const UNKNOWN: u32 = 3;

/// The wait after an attempt to replace a link that is too old.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// A link that lasted this long was no accident.
const STABLE: Duration = Duration::from_secs(10);

/// For how long QUIC has to answer before a session returns to it that has left it for its silence; doubled each time
/// that it fell silent again soon.
const RETURN: Duration = Duration::from_secs(1);

/// How long that becomes, and after which time without a silence it starts again.
const RETURN_MAX: Duration = Duration::from_secs(60);

/// The server is older than this side, and knows no link that stands by.
struct Unknown;

impl Connector {
    /// Keeps the links of a session as it is configured, and tells of moves.
    pub(super) async fn keep_links(
        &self,
        session: &Session,
        status: &mut impl FnMut(Status<'_>),
    ) -> Infallible {
        if self.stands_by {
            tokio::select! {
                Unknown = self.keep_kind(session, TransportKind::Quic) => {}
                Unknown = self.keep_kind(session, TransportKind::WebSocket) => {}
                never = follow(session, status) => match never {},
            }
            let id = session.info().id;
            tracing::debug!(session = %id, "the server knows no link that stands by");
        }
        self.improve(session, status).await
    }

    /// Keeps a link of that kind that answers.
    async fn keep_kind(&self, session: &Session, kind: TransportKind) -> Unknown {
        let mut links = session.shared().watch_links();
        let mut retry = self.first_wait(kind, &links.borrow());
        let mut renewal = Renewal::default();
        let mut refusals = Refusals::default();
        loop {
            let missing = |links: &Links| of(links, kind).is_none();
            let due = async {
                // One may have come back in the wait.
                while {
                    wait_for_long(&mut links, missing).await;
                    tokio::time::sleep_until(retry.at).await;
                    !missing(&links.borrow())
                } {}
            };
            tokio::select! {
                () = due => {}
                () = self.too_old(session, kind, &mut renewal) => {}
            }
            let found = *session.shared().watch_links().borrow();
            if found.primary.is_none() {
                // The caller brings another transport.
                return std::future::pending().await;
            }
            match self.dial_standby(session, kind).await {
                Ok(link) => {
                    refusals = Refusals::default();
                    retry.succeeded();
                    session.shared().replace_kind(link);
                }
                Err(error) if error.is_not_understood() => {
                    if refusals.another() {
                        return Unknown;
                    }
                    retry.at = Instant::now() + AGAIN;
                }
                Err(error) => {
                    refusals = Refusals::default();
                    let id = session.info().id;
                    tracing::debug!(session = %id, %kind, "no standby: {}", chain(&error));
                    retry.failed(if error.refuses_resumption() {
                        REFUSED_MAX
                    } else {
                        retry.max
                    });
                }
            }
        }
    }

    /// When to dial for the first time.
    fn first_wait(&self, kind: TransportKind, links: &Links) -> Retry {
        let random = rand::rng().next_u32();
        let (first, max) = match kind {
            // It was dialled a moment ago, and came too late or not at all.
            TransportKind::Quic if of(links, kind).is_none() => self.plan.probe(random),
            TransportKind::Quic => (Some(Duration::ZERO), self.plan.probe(random).1),
            _ if of(links, kind).is_none() => {
                let wait = rand::rng().random_range(Duration::ZERO..FIRST_SPREAD);
                (Some(wait), AGAIN_MAX)
            }
            _ => (Some(Duration::ZERO), AGAIN_MAX),
        };
        let now = Instant::now();
        Retry {
            // Without probes a session stays where it is.
            at: first.map_or(now + Duration::from_secs(u64::from(u32::MAX)), |wait| {
                now + wait
            }),
            wait: first.unwrap_or_default().max(AGAIN),
            max,
            since: now,
        }
    }

    async fn dial_standby(
        &self,
        session: &Session,
        kind: TransportKind,
    ) -> Result<LinkId, ConnectError> {
        let transports = match kind {
            TransportKind::Quic => Transports::Quic,
            _ => Transports::WebSocket,
        };
        let transport = self.dialer.dial_beside(transports).await?;
        self.join_standby(session, transport).await
    }

    async fn join_standby(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
    ) -> Result<LinkId, ConnectError> {
        let ask = session.shared().ask_for_standby();
        let added = self.add(session, transport, &ask).await;
        if added.as_ref().is_err_and(ConnectError::refuses_resumption) {
            // The server may be another one than before, and the path of the other link may be the only one that has not said so.
            let now = crate::session::now();
            session.shared().with(|core| core.doubt(now));
        }
        added.map(|()| LinkId(ask.resumption.attempt))
    }

    /// Gives `session` a transport that was dialled elsewhere, which stands by: it takes over when the peer no longer
    /// answers on the one that the session has. [`run`](Self::run) does so by itself where both protocols get through.
    ///
    /// # Errors
    /// Where nothing comes of it; the session is as it was. One without a transport takes none that stands by.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn add_standby(
        &self,
        session: &Session,
        transport: Arc<dyn Transport>,
    ) -> Result<(), ConnectError> {
        self.join_standby(session, transport).await.map(drop)
    }

    /// Waits until the session's link of that kind is as old as it may become.
    async fn too_old(&self, session: &Session, kind: TransportKind, renewal: &mut Renewal) {
        let mut links = session.shared().watch_links();
        loop {
            wait_for(&mut links, |links| of(links, kind).is_some()).await;
            let Some(LinkState { id, .. }) = of(&links.borrow(), kind) else {
                continue;
            };
            if renewal.link != Some(id) {
                let age = self.plan.age(rand::rng().next_u32());
                renewal.at = age.map(|age| Instant::now() + age);
                renewal.link = Some(id);
            }
            let Some(at) = renewal.at.filter(|_| kind == TransportKind::WebSocket) else {
                return std::future::pending().await;
            };
            let other = wait_for(&mut links, |links| {
                of(links, kind).is_none_or(|now| now.id != id)
            });
            if tokio::time::timeout_at(at, other).await.is_err() {
                // Where nothing comes of it.
                renewal.at = Some(Instant::now() + RENEW_AGAIN);
                return;
            }
        }
    }
}

/// How often in turn a server has said that it knows no link that stands by.
#[derive(Default)]
struct Refusals(u32);

impl Refusals {
    /// Whether that is the word of the session's server.
    fn another(&mut self) -> bool {
        self.0 += 1;
        self.0 >= UNKNOWN
    }
}

/// When the link of a kind is too old.
#[derive(Default)]
struct Renewal {
    link: Option<LinkId>,
    at: Option<Instant>,
}

/// When a link of a kind is to be dialled.
struct Retry {
    at: Instant,
    /// The wait that comes next.
    wait: Duration,
    max: Duration,
    /// Since when there is one.
    since: Instant,
}

impl Retry {
    /// The first attempt after a link that lasted is at once.
    fn succeeded(&mut self) {
        let now = Instant::now();
        if now - self.since >= STABLE {
            self.wait = AGAIN;
            self.at = now;
        } else {
            self.at = now + self.wait;
            self.wait = (self.wait * 2).min(self.max);
        }
        self.since = now;
    }

    fn failed(&mut self, max: Duration) {
        self.at = Instant::now() + self.wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.wait = (self.wait * 2).min(max.max(self.max));
    }
}

/// The link of that kind that answers.
fn of(links: &Links, kind: TransportKind) -> Option<LinkState> {
    links.both().find(|link| link.kind == kind && !link.silent)
}

/// Waits until the links have been so for a while.
async fn wait_for_long(links: &mut watch::Receiver<Links>, so: impl Fn(&Links) -> bool) {
    loop {
        wait_for(links, &so).await;
        let changed = wait_for(links, |links| !so(links));
        let long = rand::rng().random_range(SILENCE..SILENCE_MAX);
        if tokio::time::timeout(long, changed).await.is_err() {
            return;
        }
    }
}

/// Tells of the session's moves between protocols, and returns to QUIC.
async fn follow(session: &Session, status: &mut impl FnMut(Status<'_>)) -> Infallible {
    let mut links = session.shared().watch_links();
    let mut carries = links.borrow().primary.map(|primary| primary.kind);
    let (mut wait, mut left) = (Duration::ZERO, None::<Instant>);
    loop {
        let Links { primary, standby } = *links.borrow_and_update();
        let kind = primary.map(|primary| primary.kind);
        if let (Some(from), Some(_)) = (carries, kind)
            && kind != carries
        {
            if from == TransportKind::Quic {
                let again = left.is_some_and(|left| left.elapsed() < RETURN_MAX);
                wait = if again {
                    (wait * 2).min(RETURN_MAX)
                } else {
                    RETURN
                };
                left = Some(Instant::now());
            }
            status(Status::Moved(session, from));
        }
        carries = kind.or(carries);
        let better =
            standby.filter(|standby| standby.kind == TransportKind::Quic && !standby.silent);
        let changed = async {
            if links.changed().await.is_err() {
                std::future::pending().await
            }
        };
        match better.filter(|_| kind != Some(TransportKind::Quic)) {
            Some(standby) => {
                if tokio::time::timeout(wait, changed).await.is_err() {
                    let now = crate::session::now();
                    let shared = session.shared();
                    shared.with(|core| core.prefer_once_it_answers(standby.id, now));
                    // Where it does not, it is asked again.
                    wait = wait.max(RETURN);
                }
            }
            None => changed.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use underpass_proto::code::CloseCode;
    use underpass_proto::handshake;

    use super::*;
    use crate::connector::keep::tests::{acceptor, connector};
    use crate::session::write_all;
    use crate::transport::{YamuxTransport, memory};

    /// An acceptor that is older than links that stand by.
    async fn refuse(transport: YamuxTransport, code: CloseCode) {
        let mut control = transport.accept().await.unwrap();
        let hello = poll_fn(|cx| control.recv.poll_read_bytes(cx, 4096)).await;
        assert!(hello.unwrap().is_some_and(|hello: Bytes| !hello.is_empty()));
        let close = handshake::close(code, "no such purpose");
        write_all(control.send.as_mut(), close).await.unwrap();
        poll_fn(|cx| control.send.poll_finish(cx)).await.unwrap();
        transport.closed().await;
    }

    #[test]
    fn one_old_server_of_several_does_not_speak_for_the_others() {
        let mut refusals = Refusals::default();
        assert_eq!([(); 3].map(|()| refusals.another()), [false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_knows_no_standby_is_told_from_one_that_has_not_the_session() {
        let connector = connector();
        let (here, there) = memory::pair();
        let acceptor = acceptor();
        let (agent, _server) = tokio::join!(
            connector.establish(Arc::new(here)),
            acceptor.accept(Arc::new(there))
        );
        let agent = agent.unwrap();
        for (code, unknown) in [
            (CloseCode::FrameEncoding, true),
            (CloseCode::ResumeRefused, false),
        ] {
            let (here, there) = memory::pair();
            let (joined, ()) = tokio::join!(
                connector.add_standby(&agent, Arc::new(here)),
                refuse(there, code)
            );
            assert_eq!(joined.unwrap_err().is_not_understood(), unknown);
            assert!(agent.is_open());
            assert_eq!(agent.stats().standby, None);
        }
    }
}
