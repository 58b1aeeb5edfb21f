//! A session's state, shared by its handles, streams and tasks.

use std::cmp;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::futures::Notified;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use underpass_proto::code::CloseCode;
use underpass_proto::frame::{GoAway, Open};
use underpass_proto::handshake::{EitherSession, Resumption, ThatSession};
use underpass_proto::key::PublicKey;
use underpass_proto::secret::SessionSecret;
use underpass_proto::session::{
    Agreed, Ending, Event, LinkId, LinkRefused, LinkRole, Session as Core, Violation,
};
use underpass_proto::stream::{RecvEnd, SendEnd};
use underpass_proto::stream_id::StreamId;

use super::incoming::Queued;
use super::io::StreamIo;
use super::link::{ControlStream, LinkHandle};
use super::{Info, LinkLoss, OpenError, SessionError, SessionStats, now};
use crate::limits;
use crate::telemetry::{self, Joined as Why};
use crate::transport::{Transport, TransportKind};

/// A transport that is past its handshake for a session.
pub(crate) struct Joining {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) control: ControlStream,
    /// Which of the session's transports it is.
    pub(crate) link: LinkId,
    /// And for what.
    pub(crate) role: LinkRole,
    /// Lasting frames that the peer says it has.
    pub(crate) peer_has: u64,
}

/// The request of a connector that carries a session on.
pub(crate) enum MainAsk {
    /// The session, which has a transport.
    That(ThatSession),
    /// The session, which has none, or a new one.
    Either(EitherSession),
}

/// A transport that has joined, and waits for its driver.
pub(super) type Joined = (Arc<LinkHandle>, ControlStream);

/// The supervisor's part of a session.
pub(super) struct Supervision {
    /// Transports that have joined.
    pub(super) joined: mpsc::UnboundedReceiver<Box<Joined>>,
    /// The session is gone once the supervisor drops this.
    pub(super) gone: DropGuard,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// In boxes, as are those of `queue`: a channel has places for 32 messages from the beginning.
    joins: mpsc::UnboundedSender<Box<Joined>>,
    /// Wakes tasks that wait for the end. The protocol's state says how the session ended.
    ended: Notify,
    /// The supervisor has let go of the session, and of its transports.
    gone: CancellationToken,
    /// A stream is no more.
    released: Notify,
    /// Of streams that began with ATTACH, those whose OPEN is still arriving.
    opening: Arc<Semaphore>,
    queue: mpsc::Sender<Box<Queued>>,
    incoming: AsyncMutex<mpsc::Receiver<Box<Queued>>>,
    go_away: watch::Receiver<Option<GoAway>>,
    attached: watch::Sender<bool>,
    bulk: watch::Sender<Bulk>,
    links: watch::Sender<Links>,
    secret: SessionSecret,
    info: Info,
    /// The keys that its handshakes have proved, the newest first. A handshake that begins with an older key may end after one with a
    /// newer key.
    keys: Mutex<[Option<PublicKey>; 2]>,
    /// Streams of the peer's that were refused for their first frame.
    refused: AtomicU32,
    /// The target that the peer has refused last, and when.
    refusal: Mutex<Option<(String, Instant)>>,
}

struct State {
    core: Core,
    streams: HashMap<StreamId, Arc<StreamIo>>,
    links: HashMap<LinkId, Arc<LinkHandle>>,
    /// The connector's next transport.
    next_link: LinkId,
    go_away: watch::Sender<Option<GoAway>>,
    /// How the last transport that ended did so, where it was not the session that ended it.
    loss: Option<LinkLoss>,
    resumes: u64,
    moves: u64,
    lanes: u64,
    /// How often the standby took over, as it was counted last.
    switches: u64,
    /// As it was told last.
    bulk: Bulk,
}

/// Decides whether a lane is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bulk {
    /// Streams of the class bulk are open.
    pub(crate) streams: bool,
    /// There is a lane for them.
    pub(crate) lane: bool,
}

/// The links that the connector keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Links {
    /// The one in use; `None` while the session has no transport.
    pub(crate) primary: Option<LinkState>,
    /// The one that stands by.
    pub(crate) standby: Option<LinkState>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) id: LinkId,
    pub(crate) kind: TransportKind,
    /// The peer does not answer there.
    pub(crate) silent: bool,
}

impl Links {
    pub(crate) fn both(self) -> impl Iterator<Item = LinkState> {
        self.primary.into_iter().chain(self.standby)
    }
}

/// Streams that are no more. Their halves may have much to do when they go, and counting them takes time:
/// other streams shall not wait for that.
#[derive(Default)]
struct Gone {
    streams: Vec<Arc<StreamIo>>,
    ends: Vec<(SendEnd, RecvEnd)>,
}

impl Gone {
    /// To be called without the lock.
    fn let_go(self) {
        for (send, recv) in &self.ends {
            telemetry::stream_ended(*send, recv);
        }
        for stream in &self.streams {
            stream.is_forgotten();
        }
    }
}

impl State {
    fn links(&self) -> Links {
        let state = |id: LinkId| {
            let link = self.links.get(&id)?;
            Some(LinkState {
                id,
                kind: link.transport.kind(),
                silent: self.core.is_silent(id),
            })
        };
        Links {
            primary: self.core.primary().and_then(state),
            standby: self.core.standby().and_then(state),
        }
    }

    /// How the session ended, if it has.
    fn ended(&self) -> Option<SessionError> {
        let ending = self.core.ending()?;
        Some(match (ending, &self.loss) {
            (Ending::Detached(_), Some(loss)) => SessionError::Transport(loss.clone()),
            _ => SessionError::Ended(ending.clone()),
        })
    }
}

impl Shared {
    pub(super) fn new(
        agreed: &Agreed,
        secret: SessionSecret,
        info: Info,
    ) -> (Arc<Self>, Supervision) {
        let (joins, joined) = mpsc::unbounded_channel();
        let (queue, incoming) = mpsc::channel(limits::STREAMS_UNACCEPTED);
        let gone = CancellationToken::new();
        let (go_away_tx, go_away) = watch::channel(None);
        let (attached, _) = watch::channel(true);
        let (bulk, _) = watch::channel(Bulk::default());
        let (links, _) = watch::channel(Links::default());
        let shared = Arc::new(Self {
            state: Mutex::new(State {
                core: Core::new(info.role, agreed, now()),
                streams: HashMap::new(),
                links: HashMap::new(),
                next_link: LinkId::FIRST.next(),
                go_away: go_away_tx,
                loss: None,
                resumes: 0,
                moves: 0,
                lanes: 0,
                switches: 0,
                bulk: Bulk::default(),
            }),
            joins,
            ended: Notify::new(),
            gone: gone.clone(),
            released: Notify::new(),
            refusal: Mutex::default(),
            opening: Arc::new(Semaphore::new(limits::STREAMS_OPENING)),
            queue,
            incoming: AsyncMutex::new(incoming),
            go_away,
            attached,
            bulk,
            links,
            secret,
            keys: Mutex::new([Some(info.key), None]),
            info,
            refused: AtomicU32::new(0),
        });
        let supervision = Supervision {
            joined,
            gone: gone.drop_guard(),
        };
        (shared, supervision)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The protocol never panics half-way; a caller's panic under the lock changes nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs that a stream of the peer's was refused: a peer that opens nothing else fills no log, and each line is there for
    /// those who look at the debug level.
    pub(super) fn log_refused(&self, reason: &str) {
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        match before.cmp(&limits::REFUSED_STREAM_LINES) {
            cmp::Ordering::Less => tracing::warn!("stream refused: {reason}"),
            cmp::Ordering::Equal => {
                tracing::warn!("stream refused: {reason} (more of this session at debug level)");
            }
            cmp::Ordering::Greater => tracing::debug!("stream refused: {reason}"),
        }
    }

    /// A place for a stream whose OPEN is still to arrive. `None` where a peer withholds too many.
    pub(super) fn opens(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.opening).try_acquire_owned().ok()
    }

    /// Looks at the protocol's state.
    pub(crate) fn core<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.state().core)
    }

    /// Changes the protocol's state, and handles the consequences.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.core);
        let gone = self.dispatch(&mut state);
        drop(state);
        gone.let_go();
        result
    }

    /// As [`with`](Self::with), where the peer may be in violation: that ends the session.
    pub(crate) fn check(&self, change: impl FnOnce(&mut Core) -> Result<bool, Violation>) -> bool {
        self.with(|core| match change(core) {
            Ok(result) => result,
            Err(violation) => {
                core.fail(violation);
                false
            }
        })
    }

    /// Gives the streams that are no more.
    fn dispatch(&self, state: &mut State) -> Gone {
        let mut gone = Gone::default();
        while let Some(event) = state.core.poll_event() {
            match event {
                Event::Writable(id) => {
                    if let Some(stream) = state.streams.get(&id) {
                        stream.wake_writer();
                    }
                }
                Event::Readable(id) => {
                    if let Some(stream) = state.streams.get(&id) {
                        stream.wake_reader();
                    }
                }
                Event::Forgotten { id, send, recv } => {
                    gone.ends.push((send, recv));
                    gone.streams.extend(state.streams.remove(&id));
                    self.released.notify_waiters();
                }
                Event::LinkEnded(link, end) => {
                    if let Some(link) = state.links.get(&link) {
                        link.end(end);
                    }
                }
                Event::GoAway(go_away) => {
                    state.go_away.send_replace(Some(go_away));
                }
                Event::Closed => {
                    if let Some(error) = state.ended() {
                        telemetry::session_ended(&error);
                    }
                    self.ended.notify_waiters();
                    for link in state.links.values() {
                        link.changed.notify_one();
                    }
                }
            }
        }
        if state.core.take_changed()
            && let Some(link) = state.core.primary()
            && let Some(link) = state.links.get(&link)
        {
            link.changed.notify_one();
        }
        if state.core.take_links_changed() {
            let links = state.links();
            let switches = state.core.switches();
            if std::mem::replace(&mut state.switches, switches) != switches
                && let Some(primary) = links.primary
            {
                telemetry::switched(primary.kind);
            }
            // Links beside the primary one have something to say, too.
            for link in state.links.values() {
                link.changed.notify_one();
            }
            self.links
                .send_if_modified(|told| std::mem::replace(told, links) != links);
        }
        let bulk = Bulk {
            streams: state.core.classes().bulk > 0,
            lane: state.core.lane().is_some(),
        };
        if bulk != state.bulk {
            state.bulk = bulk;
            self.bulk.send_replace(bulk);
        }
        gone
    }

    // --- links ---

    /// A transport joins the session; the supervisor drives it.
    pub(crate) fn join(&self, joining: Joining) -> Result<(), LinkRefused> {
        let (id, transport) = (joining.link, joining.transport);
        let kind = transport.kind();
        let mut state = self.state();
        let why = if joining.role == LinkRole::Lane {
            Why::Lane
        } else if joining.role == LinkRole::Standby {
            Why::Standby
        } else if id == LinkId::FIRST {
            Why::New
        } else if state.core.primary().is_none() {
            Why::Resumed
        } else {
            Why::Moved
        };
        let up = state
            .core
            .link_up(id, joining.role, joining.peer_has, now());
        if let Err(refused) = up {
            drop(state);
            transport.close(CloseCode::ResumeRefused, &refused.to_string());
            return Err(refused);
        }
        if transport.keeps_queue_short() {
            state.core.queue_is_short(id);
        }
        if transport.keeps_itself_alive() {
            state.core.keeps_itself_alive(id);
        }
        match why {
            Why::New | Why::Standby => {}
            Why::Lane => state.lanes += 1,
            Why::Resumed => state.resumes += 1,
            Why::Moved => state.moves += 1,
        }
        telemetry::transport_joined(kind, why);
        let link = Arc::new(LinkHandle::new(id, transport));
        state.links.insert(id, Arc::clone(&link));
        let gone = self.dispatch(&mut state);
        drop(state);
        gone.let_go();
        self.attached.send_replace(true);
        // An error means that the session has just ended, as its streams hear.
        let _ = self.joins.send(Box::new((link, joining.control)));
        Ok(())
    }

    /// A transport has ended; `why` where it was not the session that ended it.
    pub(super) fn link_lost(&self, link: LinkId, why: Option<LinkLoss>) {
        let mut state = self.state();
        if let Some(lost) = state.links.remove(&link) {
            telemetry::transport_lost(lost.transport.kind(), why.as_ref());
        }
        // Before the session ends for it; the transports that end with the session change nothing.
        if !state.core.is_closed() {
            state.loss = why.or(state.loss.take());
        }
        state.core.link_lost(link, now());
        let attached = state.core.primary().is_some();
        let gone = self.dispatch(&mut state);
        drop(state);
        gone.let_go();
        self.attached.send_replace(attached);
    }

    /// Streams of this side that are to be put on a link.
    pub(super) fn take_arrivals(&self, link: LinkId) -> Vec<Arc<StreamIo>> {
        let mut state = self.state();
        let arrivals = state.core.take_arrivals(link);
        arrivals
            .iter()
            .filter_map(|id| state.streams.get(id).cloned())
            .collect()
    }

    /// Streams whose bytes have waited long enough for their application to write more.
    pub(super) fn take_overdue(&self) -> Vec<Arc<StreamIo>> {
        let mut state = self.state();
        let overdue = state.core.take_overdue();
        let streams = overdue.iter().filter_map(|id| state.streams.get(id));
        streams.cloned().collect()
    }

    /// The link for a new stream of this side.
    pub(super) fn link_for(&self, id: StreamId) -> Option<Arc<LinkHandle>> {
        let state = self.state();
        state.links.get(&state.core.link_for(id)?).cloned()
    }

    pub(super) fn primary(&self) -> Option<Arc<LinkHandle>> {
        let state = self.state();
        state.links.get(&state.core.primary()?).cloned()
    }

    pub(super) fn transport(&self) -> Option<Arc<dyn Transport>> {
        self.primary().map(|link| Arc::clone(&link.transport))
    }

    pub(super) fn stats(&self) -> SessionStats {
        let state = self.state();
        let primary = state.core.primary();
        let link = primary.and_then(|link| state.links.get(&link));
        let transport = link.map(|link| Arc::clone(&link.transport));
        let mut stats = SessionStats {
            round_trip: state.core.round_trip(),
            unacked_bytes: state.core.unacked(),
            streams: state.core.classes(),
            resumes: state.resumes,
            moves: state.moves,
            lane: state.core.lane().is_some(),
            lanes: state.lanes,
            standby: state.links().standby.map(|standby| standby.kind),
            switches: state.core.switches(),
            path: None,
        };
        drop(state);
        stats.path = transport.map(|transport| transport.stats());
        stats
    }

    /// The connector's question for another main transport. A session that has one is not given up
    /// for a new one.
    pub(crate) fn ask_for_main(&self) -> MainAsk {
        let mut state = self.state();
        let resumption = self.resumption(&mut state);
        if state.core.primary().is_none() {
            MainAsk::Either(EitherSession(resumption))
        } else {
            let role = LinkRole::Main;
            MainAsk::That(ThatSession { resumption, role })
        }
    }

    /// The connector's question for a lane.
    pub(crate) fn ask_for_lane(&self) -> ThatSession {
        let resumption = self.resumption(&mut self.state());
        let role = LinkRole::Lane;
        ThatSession { resumption, role }
    }

    /// The connector's question for a link that stands by.
    pub(crate) fn ask_for_standby(&self) -> ThatSession {
        let resumption = self.resumption(&mut self.state());
        let role = LinkRole::Standby;
        ThatSession { resumption, role }
    }

    fn resumption(&self, state: &mut State) -> Resumption {
        let attempt = state.next_link;
        state.next_link = attempt.next();
        Resumption {
            session: self.info.id.0,
            secret: self.secret.clone(),
            attempt: attempt.0,
            received: state.core.arrived(),
        }
    }

    pub(crate) fn secret(&self) -> &SessionSecret {
        &self.secret
    }

    /// Waits until the session has a transport, or has none; or has ended.
    pub(super) async fn wait_attached(&self, attached: bool) {
        let mut watch = self.attached.subscribe();
        tokio::select! {
            _ = watch.wait_for(|now| *now == attached) => {}
            _ = self.closed() => {}
        }
    }

    /// Whether streams of the class bulk are open, and a lane for them; as it changes.
    pub(crate) fn watch_bulk(&self) -> watch::Receiver<Bulk> {
        self.bulk.subscribe()
    }

    /// A link that stands by takes the place of all others of its protocol.
    pub(crate) fn replace_kind(&self, id: LinkId) {
        let mut state = self.state();
        let Some(kind) = state.links.get(&id).map(|link| link.transport.kind()) else {
            return;
        };
        let of_kind = state
            .links
            .iter()
            .filter(|(_, link)| link.transport.kind() == kind);
        let others: Vec<_> = of_kind
            .map(|(other, _)| *other)
            .filter(|other| *other != id)
            .collect();
        if state
            .core
            .primary()
            .is_some_and(|primary| others.contains(&primary))
        {
            state.core.prefer(id, now());
        }
        for other in others {
            state.core.retire(other);
        }
        let gone = self.dispatch(&mut state);
        drop(state);
        gone.let_go();
    }

    /// The links that are to be kept, as they change.
    pub(crate) fn watch_links(&self) -> watch::Receiver<Links> {
        self.links.subscribe()
    }

    // --- streams ---

    pub(super) fn open_stream(
        &self,
        open: impl FnOnce(StreamId) -> Open,
    ) -> Result<Arc<StreamIo>, OpenError> {
        let mut state = self.state();
        match state.core.open_stream(open) {
            Ok(id) => {
                let io = StreamIo::new(id);
                state.streams.insert(id, Arc::clone(&io));
                Ok(io)
            }
            Err(refused) => Err(match state.ended() {
                Some(error) => error.into(),
                None => refused.into(),
            }),
        }
    }

    /// The halves of a stream that the peer opened, new or not; `None` where it is no more.
    pub(super) fn io(&self, id: StreamId) -> Option<Arc<StreamIo>> {
        let mut state = self.state();
        if !state.core.has(id) {
            return None;
        }
        let io = state.streams.entry(id).or_insert_with(|| StreamIo::new(id));
        Some(Arc::clone(io))
    }

    /// Where the peer's streams wait to be taken.
    pub(super) fn queue(&self) -> &mpsc::Sender<Box<Queued>> {
        &self.queue
    }

    pub(super) async fn next_incoming(&self) -> Option<Box<Queued>> {
        let next = async { self.incoming.lock().await.recv().await };
        tokio::select! {
            next = next => next,
            _ = self.closed() => None,
        }
    }

    pub(super) fn released(&self) -> Notified<'_> {
        self.released.notified()
    }

    /// A stream of this session has no answer from the peer.
    pub(crate) fn suspect(&self) {
        self.with(|core| core.suspect(now()));
    }

    /// The peer has refused a stream to this target.
    pub(crate) fn note_refusal(&self, target: String) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        *refusal = Some((target, now()));
    }

    pub(crate) fn has_refused(&self, target: &str) -> bool {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().is_some_and(|(refused, at)| {
            refused == target && now().saturating_duration_since(*at) < limits::REFUSED_PASSED_OVER
        })
    }

    // --- the end ---

    /// Wakes all readers and writers once the session has ended.
    pub(super) fn end_streams(&self) {
        let streams = std::mem::take(&mut self.state().streams);
        for stream in streams.values() {
            stream.detach();
            stream.wake_reader();
            stream.wake_writer();
        }
        self.released.notify_waiters();
        self.attached.send_replace(false);
    }

    /// Drops the peer's streams that wait to be taken, once the session has ended.
    pub(super) async fn clear_queue(&self) {
        let mut incoming = self.incoming.lock().await;
        incoming.close();
        while incoming.try_recv().is_ok() {}
    }

    /// How the session ended, if it has.
    pub(crate) fn ended(&self) -> Option<SessionError> {
        self.state().ended()
    }

    /// How a stream's receiving direction ended, or the session, if either did.
    pub(super) fn recv_end(&self, id: StreamId) -> Option<Result<RecvEnd, SessionError>> {
        let state = self.state();
        match state.core.recv_end(id) {
            Some(end) => Some(Ok(end)),
            None => state.ended().map(Err),
        }
    }

    pub(super) fn watch_go_away(&self) -> watch::Receiver<Option<GoAway>> {
        self.go_away.clone()
    }

    /// Waits until the session has ended, and says how.
    pub(super) async fn closed(&self) -> SessionError {
        loop {
            let mut notified = pin!(self.ended.notified());
            // Before the look, so that an end between it and the wait is not missed.
            notified.as_mut().enable();
            if let Some(error) = self.ended() {
                return error;
            }
            notified.await;
        }
    }

    /// Waits until the session has ended, and its transports with it.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// A handshake of the session's has proved this key.
    pub(crate) fn proved(&self, key: PublicKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains(&Some(key)) {
            let [newest, _] = *keys;
            *keys = [Some(key), newest];
        }
    }

    pub(super) fn keys(&self) -> [Option<PublicKey>; 2] {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use underpass_proto::frame::FrameReader;
    use underpass_proto::key::AgentKey;
    use underpass_proto::session::LinkEnd;
    use underpass_proto::settings::{KeepaliveInterval, ResumeWindow, StreamLimit};
    use underpass_proto::stream_id::Role;

    use bytes::Bytes;
    use underpass_proto::frame::Class;

    use super::*;
    use crate::session::{SessionId, opening, supervisor};
    use crate::transport::{TransportError, YamuxTransport, memory};

    /// With its first transport. It ends with its last.
    pub(in crate::session) async fn session() -> (Arc<Shared>, Supervision, YamuxTransport) {
        let agreed = Agreed {
            local_streams: 10,
            remote_streams: StreamLimit::default(),
            keepalive: KeepaliveInterval::default(),
            resume_window: ResumeWindow::ZERO,
        };
        let info = Info {
            id: SessionId([1; 16]),
            agent: "edge-1".try_into().unwrap(),
            key: AgentKey::from_seed([1; 32]).unwrap().public_key(),
            owner: String::new(),
            instance: [1; 16],
            software: String::new(),
            since: std::time::SystemTime::UNIX_EPOCH,
            role: Role::Connector,
            transport: TransportKind::Memory,
            remote: None,
        };
        let (shared, supervision) = Shared::new(&agreed, SessionSecret::new([1; 32]), info);
        let peer = join(&shared, LinkId::FIRST, LinkRole::Main).await;
        (shared, supervision, peer)
    }

    /// A link of the session's.
    pub(in crate::session) fn link(shared: &Shared, id: LinkId) -> Arc<LinkHandle> {
        Arc::clone(&shared.state().links[&id])
    }

    /// Gives the other end of a transport that joins.
    pub(in crate::session) async fn join(
        shared: &Shared,
        link: LinkId,
        role: LinkRole,
    ) -> YamuxTransport {
        let (transport, peer) = memory::pair();
        let transport: Arc<dyn Transport> = Arc::new(transport);
        let control = ControlStream {
            stream: transport.open().await.unwrap(),
            reader: FrameReader::new(limits::CONTROL_FRAME),
        };
        let joining = Joining {
            transport,
            control,
            link,
            role,
            peer_has: 0,
        };
        shared.join(joining).unwrap();
        peer.authenticated();
        peer
    }

    #[tokio::test]
    async fn moves_that_the_peer_does_not_answer_leave_no_tasks() {
        let (shared, supervision, main) = session().await;
        let standby = join(&shared, LinkId(1), LinkRole::Standby).await;
        for peer in [main, standby] {
            tokio::spawn(async move {
                let mut held = Vec::new();
                while let Ok(stream) = peer.accept().await {
                    held.push(stream);
                }
            });
        }
        tokio::spawn(supervisor::run(Arc::clone(&shared), supervision));
        for _ in 0..5 {
            let opened = shared.open_stream(|stream| Open {
                stream,
                class: Class::Default,
                target: String::new(),
                header: Bytes::new(),
            });
            opening::open(&shared, &opened.unwrap()).await;
        }
        let tasks = tokio::runtime::Handle::current().metrics();
        let mut most = Vec::new();
        for _ in 0..100 {
            let standby = shared.core(|core| core.standby()).unwrap();
            shared.with(|core| core.prefer(standby, now()));
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            most.push(tasks.num_alive_tasks());
        }
        // Some for each transport, and one for each stream that moves.
        assert!(most.iter().all(|tasks| *tasks < 30), "{most:?}");
    }

    #[tokio::test]
    async fn a_transport_that_ends_after_its_session_does_not_change_how_that_ended() {
        let (shared, _supervision, _peer) = session().await;
        assert!(shared.ended().is_none());
        let broken = LinkLoss::Transport(TransportError::ClosedHere);
        shared.link_lost(LinkId::FIRST, Some(broken));
        let left = LinkLoss::Link(LinkEnd::Left);
        shared.link_lost(LinkId::FIRST.next(), Some(left));
        let ended = shared.ended();
        assert!(
            matches!(ended, Some(SessionError::Transport(LinkLoss::Transport(_)))),
            "{ended:?}"
        );
    }
}
