//! Keeping a session: how `run` reacts to its end, to a request to leave, to the loss of its transport, and to a
//! better one.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::{Rng, RngExt};
use underpass_proto::backoff::Backoff;
use underpass_proto::chain;
use underpass_proto::frame::GoAway;

use super::plan::{Move, Moves};
use super::revive::wait_for;
use super::{ConnectError, Connector, Reconnected, Transports};
use crate::session::{Info, LinkState, Session, now};
use crate::transport::TransportKind;

/// The progress of a connector.
#[derive(Debug)]
pub enum Status<'a> {
    /// A session stands.
    Connected(&'a Info),
    /// The session has lost its transport, and its streams wait; the next attempt follows after the
    /// wait.
    Detached(&'a Session, Duration),
    /// The session goes on, on another transport.
    Resumed(&'a Session),
    /// The session has left a transport that worked, of the protocol named, for another one.
    Moved(&'a Session, TransportKind),
    /// An attempt failed; the next one follows after the wait.
    Failed(&'a ConnectError, Duration),
    /// The session ended; the next attempt follows after the wait.
    Ended(&'a crate::session::SessionError, Duration),
}

/// A session that lasted this long was no accident: the next failure waits from the start again.
const STABLE: Duration = Duration::from_secs(10);

/// The longest wait before the first attempt to resume a session whose transport lasted so long. Streams wait
/// meanwhile: where it was stable the attempt is at once, and those of a crowd that all fail are spread by the backoff.
/// A path that cuts every connection soon must not be filled with handshakes.
fn resume_spread(lasted: Duration) -> Duration {
    if lasted >= STABLE {
        Duration::ZERO
    } else if lasted >= Duration::from_millis(500) {
        Duration::from_millis(100)
    } else {
        Duration::from_secs(1)
    }
}

impl Connector {
    /// Keeps a session: dials, hands each session to `serve`, brings the session another transport
    /// when it loses the last, moves it from WebSocket to QUIC when that gets through and from an old
    /// WebSocket to a new one ([`quic_probe`](super::ConnectorConfig::quic_probe),
    /// [`websocket_max_age`](super::ConnectorConfig::websocket_max_age)), gives it a lane while it has copies
    /// to carry over WebSocket ([`lanes`](super::ConnectorConfig::lanes)), and dials anew once it has
    /// ended. Never returns; drop the future to stop.
    ///
    /// `serve` is called once per session and should return soon; `status` hears of every change.
    ///
    /// # Cancel safety
    /// Dropping the future drops this side's handle on the session; `serve` may hold another.
    pub async fn run(
        &self,
        serve: impl FnMut(Session),
        status: impl FnMut(Status<'_>),
    ) -> Infallible {
        self.run_from(None, serve, status).await
    }

    /// As [`run`](Self::run), from a session on that [`connect`](Self::connect) has made: for another connector that is to serve
    /// before this side leaves the one that serves now.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn run_from(
        &self,
        session: Option<Session>,
        serve: impl FnMut(Session),
        status: impl FnMut(Status<'_>),
    ) -> Infallible {
        let mut keeper = Keeper {
            connector: self,
            backoff: self.backoff.clone(),
            left: None,
            serve,
            status,
        };
        let mut state = match session {
            Some(session) => keeper.begin(session),
            None => State::Absent,
        };
        loop {
            state = match state {
                State::Absent => keeper.dial().await,
                State::Attached(session) => keeper.keep(session).await,
                State::Detached(session) => keeper.reconnect(session).await,
            };
        }
    }
}

/// The state of [`Connector::run`].
///
/// ```text
///   Absent ---- dialled ----> Attached ---- loses its transport ----> Detached
///     ^                         |  ^                                    | |
///     |-- ended, to be left ----'  `---- resumed, or a new session -----' |
///     `---- ended --------------------------------------------------------'
/// ```
enum State {
    /// No session. The servers are dialled for one.
    Absent,
    /// A session with a transport.
    Attached(Session),
    /// A session without one. It waits for the next.
    Detached(Session),
}

/// Takes [`Connector::run`] from state to state.
struct Keeper<'a, Serve, Told> {
    connector: &'a Connector,
    backoff: Backoff,
    /// The end of a session that the server asked to leave, and that has not ended.
    left: Option<BoxFuture<'static, ()>>,
    serve: Serve,
    status: Told,
}

impl<Serve, Told> Keeper<'_, Serve, Told>
where
    Serve: FnMut(Session),
    Told: FnMut(Status<'_>),
{
    async fn dial(&mut self) -> State {
        match self.connector.connect().await {
            Ok(session) => self.begin(session),
            Err(error) => {
                self.failed(&error).await;
                State::Absent
            }
        }
    }

    async fn reconnect(&mut self, session: Session) -> State {
        match self.connector.reconnect(&session).await {
            Ok(Reconnected::Resumed) => {
                self.backoff.reset();
                (self.status)(Status::Resumed(&session));
                State::Attached(session)
            }
            Ok(Reconnected::New(session)) => self.begin(session),
            Err(error) => {
                self.failed(&error).await;
                self.unless_ended(session)
            }
        }
    }

    async fn keep(&mut self, session: Session) -> State {
        let mut end = session.end().boxed();
        let kept = self
            .connector
            .keep(session, &mut self.backoff, &mut self.status);
        match kept.await {
            Kept::Detached(session, wait) => {
                tokio::time::sleep(wait).await;
                self.unless_ended(session)
            }
            Kept::Left(wait) => {
                self.left = (&mut end).now_or_never().is_none().then_some(end);
                // In full, though the old session may end before: the server says when its
                // agents come back, so that they do not come all at once.
                tokio::time::sleep(wait).await;
                State::Absent
            }
        }
    }

    fn begin(&mut self, session: Session) -> State {
        (self.status)(Status::Connected(session.info()));
        (self.serve)(session.clone());
        State::Attached(session)
    }

    /// Waits after an attempt that failed.
    async fn failed(&mut self, error: &ConnectError) {
        let wait = self.backoff.failed(rand::rng().next_u32());
        (self.status)(Status::Failed(error, wait));
        pause(wait, &mut self.left, &mut self.backoff).await;
    }

    /// Says so where a session has ended that waited for a transport.
    fn unless_ended(&mut self, session: Session) -> State {
        match session.shared().ended() {
            None => State::Detached(session),
            Some(error) => {
                (self.status)(Status::Ended(&error, Duration::ZERO));
                State::Absent
            }
        }
    }
}

impl Connector {
    /// Waits until the session has no transport any more, or is over, or to be left.
    async fn keep(
        &self,
        session: Session,
        backoff: &mut Backoff,
        status: &mut impl FnMut(Status<'_>),
    ) -> Kept {
        let since = tokio::time::Instant::now();
        let after = |go_away: GoAway| Duration::from_millis(go_away.return_after_ms.into());
        let told = async {
            match session.going_away().await {
                Some(go_away) => after(go_away),
                None => std::future::pending().await,
            }
        };
        enum Woken {
            Leave(Duration),
            Ended(crate::session::SessionError),
            Detached,
        }
        // A server that leaves an idle session closes it in the same breath.
        let ended = |error| match session.goodbye() {
            Some(go_away) => Woken::Leave(after(go_away)),
            None => Woken::Ended(error),
        };
        let woken = tokio::select! {
            biased;
            return_after = told => Woken::Leave(return_after),
            error = session.closed() => ended(error),
            // So is one that has ended since it was asked.
            () = session.detached() => session.shared().ended().map_or(Woken::Detached, ended),
            never = self.keep_links(&session, status) => match never {},
            never = self.revive(&session) => match never {},
            never = self.keep_lane(&session) => match never {},
        };
        let lasted = since.elapsed();
        let stable = lasted >= STABLE;
        if stable {
            backoff.reset();
        }
        if matches!(woken, Woken::Leave(_)) {
            self.dialer.elsewhere();
        }
        match woken {
            // The old session goes on to its streams' end in the hands of `serve`.
            Woken::Leave(return_after) if stable => Kept::Left(return_after),
            // A server that sends everyone away at once must not be asked again at once.
            Woken::Leave(return_after) => {
                Kept::Left(return_after.max(backoff.failed(rand::rng().next_u32())))
            }
            Woken::Ended(error) => {
                let wait = backoff.failed(rand::rng().next_u32());
                status(Status::Ended(&error, wait));
                Kept::Left(wait)
            }
            Woken::Detached => {
                // The server took this side the last time: it is the path that fails.
                let wait = resume_spread(lasted).mul_f64(rand::rng().random_range(0.0..1.0));
                status(Status::Detached(&session, wait));
                Kept::Detached(session, wait)
            }
        }
    }
}

impl Connector {
    /// Moves the session to a better transport whenever one may be had.
    pub(super) async fn improve(
        &self,
        session: &Session,
        status: &mut impl FnMut(Status<'_>),
    ) -> Infallible {
        let mut links = session.shared().watch_links();
        loop {
            let Some(LinkState { id, kind, .. }) = links.borrow_and_update().primary else {
                // The caller hears of the loss, too.
                return std::future::pending().await;
            };
            let mut moves = self.plan.begin(kind, now(), rand::rng().next_u32());
            let is_other = |primary: LinkState| primary.id != id;
            tokio::select! {
                // Its own move changes the links as well.
                biased;
                () = self.make_move(session, &mut moves) => status(Status::Moved(session, kind)),
                // A key was proved, or a silent link replaced, over any protocol that got through: the plan is another one.
                () = wait_for(&mut links, |links| links.primary.is_none_or(is_other)) => {
                    let now = links.borrow().primary.map(|primary| primary.kind);
                    if now.is_some_and(|now| now != kind) {
                        status(Status::Moved(session, kind));
                    }
                }
            }
        }
    }

    /// Until one of them succeeds.
    async fn make_move(&self, session: &Session, moves: &mut Moves) {
        while let Err(()) = self.try_move(session, moves).await {}
    }

    /// Waits until something is due, and tries it.
    async fn try_move(&self, session: &Session, moves: &mut Moves) -> Result<(), ()> {
        let Some((at, which)) = moves.next() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(at.into()).await;
        let transports = match which {
            Move::ToQuic => Transports::Quic,
            Move::Renew => self.dialer.transports(),
        };
        let moved = async {
            let transport = self.dialer.dial_beside(transports).await?;
            self.resume(session, transport).await
        };
        match moved.await {
            Ok(_) => Ok(()),
            Err(error) => {
                let id = session.info().id;
                tracing::debug!(session = %id, "stays where it is: {}", chain(&error));
                moves.failed(which, now(), rand::rng().next_u32());
                Err(())
            }
        }
    }
}

/// How a session that was kept came to need something.
enum Kept {
    /// It wants another transport, after the wait.
    Detached(Session, Duration),
    /// Another session is wanted, after the wait.
    Left(Duration),
}

/// Waits before the next attempt; less long if `left`, a session that the server asked to leave, ends
/// meanwhile. Then that server has gone, and its successor is about to come: the failures until now
/// say nothing about it.
async fn pause<E>(wait: Duration, left: &mut Option<E>, backoff: &mut Backoff)
where
    E: Future<Output = ()> + Unpin,
{
    let Some(end) = left else {
        return tokio::time::sleep(wait).await;
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = end => {
            *left = None;
            backoff.reset();
            let wait = wait.min(backoff.failed(rand::rng().next_u32()));
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::acceptor::{Acceptor, AcceptorConfig, Admission, Denied};
    use crate::connector::ConnectorConfig;
    use crate::transport::memory;
    use crate::{AgentKey, AgentName};
    use underpass_proto::handshake::Proven;

    struct Everyone;

    impl Admission for Everyone {
        fn admit<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
            Box::pin(async { Ok("edge-1".try_into()?) })
        }
    }

    pub(in crate::connector) fn acceptor() -> Acceptor {
        Acceptor::new(AcceptorConfig::default(), Arc::new(Everyone))
    }

    pub(in crate::connector) fn connector() -> Connector {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let key = AgentKey::from_seed([7; 32]).unwrap();
        let ca_pem = ca.cert.pem().into_bytes();
        Connector::new(ConnectorConfig::new("127.0.0.1", 1, ca_pem, key)).unwrap()
    }

    /// How long the connector waits after `act` was done to the other end of its session.
    async fn wait_after(connector: &Connector, act: impl AsyncFnOnce(Session)) -> Duration {
        let acceptor = acceptor();
        let (here, there) = memory::pair();
        let (agent, server) = tokio::join!(
            connector.establish(Arc::new(here)),
            acceptor.accept(Arc::new(there))
        );
        let mut backoff = connector.backoff.clone();
        let status = &mut |_: Status<'_>| {};
        let server = server.unwrap().into_session().unwrap();
        let (kept, ()) = tokio::join!(
            connector.keep(agent.unwrap(), &mut backoff, status),
            act(server),
        );
        match kept {
            Kept::Left(wait) => wait,
            Kept::Detached(..) => panic!("the transport is there"),
        }
    }

    /// A server that drains for long does not listen meanwhile: the attempts that it refuses must not
    /// delay the one that its successor would take.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_session_that_was_left_starts_the_backoff_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        for _ in 0..10 {
            backoff.failed(u32::MAX);
        }
        let start = tokio::time::Instant::now();
        let drain = Duration::from_secs(3);
        let mut left = Some(Box::pin(tokio::time::sleep(drain)));
        pause(Duration::from_secs(30), &mut left, &mut backoff).await;
        assert!(left.is_none());
        let took = start.elapsed();
        assert!(
            took >= drain && took <= drain + Duration::from_millis(510),
            "{took:?}"
        );
        assert!(
            backoff.failed(u32::MAX) <= Duration::from_secs(1),
            "starts anew"
        );
    }

    /// A server that leaves an idle session sends GOAWAY and CLOSE in one packet.
    #[tokio::test(start_paused = true)]
    async fn a_go_away_counts_though_the_session_ends_at_once() {
        let connector = connector();
        let pause = Duration::from_secs(7);
        for _ in 0..20 {
            let drain = async |server: Session| {
                server.drain(Duration::from_secs(5), pause, "moving").await;
            };
            assert_eq!(wait_after(&connector, drain).await, pause);
        }
    }

    /// Else a server that sends everyone away at once would be asked without end.
    #[tokio::test(start_paused = true)]
    async fn a_go_away_from_a_young_session_backs_off() {
        let connector = connector();
        let young = async |server: Session| {
            server
                .drain(Duration::ZERO, Duration::ZERO, "not here")
                .await;
        };
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            longest = longest.max(wait_after(&connector, young).await);
        }
        assert!(longest > Duration::ZERO && longest <= Duration::from_millis(500));
        let old = async |server: Session| {
            tokio::time::sleep(STABLE).await;
            server
                .drain(Duration::ZERO, Duration::ZERO, "new version")
                .await;
        };
        assert_eq!(wait_after(&connector, old).await, Duration::ZERO);
    }
}
