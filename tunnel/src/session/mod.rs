//! Sessions: the handle, and the tasks that drive the protocol.

mod alarm;
mod incoming;
mod io;
mod link;
mod opening;
mod preface;
mod shared;
mod supervisor;
mod writers;

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use thiserror::Error;
use tracing::Instrument;
use underpass_proto::agent_name::AgentName;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::{Class, GoAway, Open};
use underpass_proto::key::PublicKey;
use underpass_proto::secret::SessionSecret;
use underpass_proto::session::Classes;
use underpass_proto::session::{Agreed, Ending, LinkEnd, OpenRefused};
use underpass_proto::stream_id::Role;

pub use self::incoming::IncomingStream;
pub(crate) use self::io::StreamIo;
pub(crate) use self::link::ControlStream;
pub(crate) use self::shared::{Bulk, Joining, LinkState, Links, MainAsk, Shared};
use crate::limits;
use crate::stream::Stream;
use crate::transport::{HalfError, PathStats, SendStream, TransportError, TransportKind};

/// A handle on an authenticated relation with a peer. Clones are handles on the same session.
///
/// A session outlives its transports: when one dies, its streams wait, and go on at the exact byte
/// on the next one, for as long as the resume window lasts. The connector brings the next one
/// ([`Connector::run`](crate::Connector::run) does so by itself).
///
/// The session ends when it is closed by either side, when no transport came in time, and when the
/// last handle is dropped; its streams end with it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    _close: Arc<CloseOnDrop>,
}

/// The peer, and the transport to it.
#[derive(Debug, Clone)]
pub struct Info {
    /// The session's id, the same at both ends.
    pub id: SessionId,
    /// The connector's name, as the acceptor knows it. The same at both ends.
    pub agent: AgentName,
    /// The key that the connector proved first; see [`Session::has_proved`].
    pub key: PublicKey,
    /// The key's [owner](crate::Admission::owner) at the acceptor; the key itself at the connector.
    pub owner: String,
    /// The connector's process.
    pub instance: [u8; 16],
    /// Name and version of the peer's software.
    pub software: String,
    /// When it began, by this end's clock. It stays the same while the session changes its transports.
    pub since: SystemTime,
    /// Which end this is.
    pub role: Role,
    /// The protocol that carried the session first; see [`Session::transport`].
    pub transport: TransportKind,
    /// The peer's first address, where there is one; see [`Session::remote`].
    pub remote: Option<SocketAddr>,
}

/// A session's random id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first half tells sessions apart in a log; the whole would be noise.
        let SessionId([a, b, c, d, e, g, h, i, ..]) = self;
        for byte in [a, b, c, d, e, g, h, i] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A stream's target and header.
#[derive(Debug, Clone, Default)]
pub struct OpenRequest {
    /// The peer connects it to this, in the application's words; 300 bytes at most.
    pub target: String,
    /// The header for the target, in the application's encoding; 256 KiB at most.
    pub header: Bytes,
    /// How urgent its bytes are.
    pub class: Class,
}

/// A session's statistics at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// The path's shortest round trip, as [`Session::round_trip`].
    pub round_trip: Option<Duration>,
    /// Bytes that are kept until the peer has them, as [`Session::unacked_bytes`].
    pub unacked_bytes: u64,
    /// Streams open now, of both sides.
    pub streams: Classes,
    /// How often a transport took the place of one that was lost.
    pub resumes: u64,
    /// How often one took the place of another that still worked.
    pub moves: u64,
    /// Whether there is a lane beside the transport.
    pub lane: bool,
    /// How often there came one.
    pub lanes: u64,
    /// The protocol of the transport that stands by, for when the other one falls silent.
    pub standby: Option<TransportKind>,
    /// How often it took over.
    pub switches: u64,
    /// The transport's path statistics; `None` while there is no transport.
    pub path: Option<PathStats>,
}

/// How a session ended.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// One side closed it, or the protocol was broken, or no transport came in time.
    #[error("session ended")]
    Ended(#[source] Ending),
    /// Its last transport ended, and no other came in time.
    #[error("session lost its transport")]
    Transport(#[source] LinkLoss),
}

/// How a transport of a session ended, as far as the session is concerned.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum LinkLoss {
    /// One side left it, or the peer stopped answering on it.
    #[error("transport given up")]
    Link(#[source] LinkEnd),
    /// It broke.
    #[error("transport lost")]
    Transport(#[source] TransportError),
}

impl SessionError {
    /// The code that the session was closed with, if it was closed.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Ended(Ending::Local { code, .. } | Ending::Peer { code, .. }) => Some(*code),
            Self::Ended(Ending::Violation(violation)) => Some(violation.close_code()),
            Self::Transport(LinkLoss::Link(LinkEnd::KeepaliveTimeout(_))) => {
                Some(CloseCode::KeepaliveTimeout)
            }
            Self::Ended(Ending::Detached(_)) | Self::Transport(_) => None,
        }
    }
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The caller's target or header is above its limit.
    #[error("{what} has {len} bytes, the limit is {max}")]
    TooLarge {
        /// Which of them.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The session takes no new stream now.
    #[error("no new stream")]
    Refused(#[from] OpenRefused),
    /// The peer takes not even the open header.
    #[error("no answer from the peer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    /// The session ended meanwhile.
    #[error("session ended while opening a stream")]
    Session(#[from] SessionError),
}

impl Session {
    /// Starts an established session on its first transport. `held` is dropped once it has ended, and its
    /// transports with it.
    pub(crate) fn start(
        first: Joining,
        agreed: &Agreed,
        secret: SessionSecret,
        info: Info,
        held: impl Send + 'static,
    ) -> Self {
        let (shared, supervision) = Shared::new(agreed, secret, info);
        // Nothing stands against the first.
        let _ = shared.join(first);
        // Of the highest level: a filter that lets a warning through must not take away whose it is.
        let span = tracing::error_span!(
            "session", id = %shared.info().id, agent = shared.info().agent.as_str()
        );
        let run = supervisor::run(Arc::clone(&shared), supervision);
        let run = async move {
            run.await;
            drop(held);
        };
        tokio::spawn(run.instrument(span));
        Self {
            _close: Arc::new(CloseOnDrop(Arc::clone(&shared))),
            shared,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Opens a stream.
    ///
    /// Costs no round trip: the stream may be written at once, and the peer's answer is read with
    /// the first read, or with [`Stream::accepted`].
    ///
    /// # Errors
    /// Where the request is too large, the session takes no new stream, or it has ended.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the stream.
    pub async fn open(&self, request: OpenRequest) -> Result<Stream, OpenError> {
        check(&request)?;
        let deadline = tokio::time::Instant::now() + limits::ANSWER_TIME;
        let target = request.target.clone();
        let io = self.shared.open_stream(|stream| Open {
            stream,
            class: request.class,
            target: request.target,
            header: request.header,
        })?;
        let stream = Stream::opened(Arc::clone(&self.shared), Arc::clone(&io), target, deadline);
        let opening = opening::open(&self.shared, &io);
        if tokio::time::timeout_at(deadline, opening).await.is_err() {
            self.shared.suspect();
            return Err(OpenError::NoAnswer(limits::ANSWER_TIME));
        }
        Ok(stream)
    }

    /// Waits for the peer's next stream.
    ///
    /// # Errors
    /// Once the session has ended.
    ///
    /// # Cancel safety
    /// No stream is lost.
    pub async fn accept(&self) -> Result<IncomingStream, SessionError> {
        match self.shared.next_incoming().await {
            Some(queued) => Ok(queued.into_incoming(&self.shared)),
            None => Err(self.closed().await),
        }
    }

    /// Ends the session at once, and its streams with it.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.shared.with(|core| core.close(code, reason));
    }

    /// Takes no new streams, asks the peer to open none and to dial again after `return_after`,
    /// waits until every stream has ended, or for `deadline`, closes the session, and waits until
    /// the peer was told, for some seconds at the most: the process may end then.
    ///
    /// # Cancel safety
    /// The session stays in its drain; it ends when it is closed or dropped.
    pub async fn drain(&self, deadline: Duration, return_after: Duration, reason: &str) {
        let return_after_ms = u32::try_from(return_after.as_millis()).unwrap_or(u32::MAX);
        self.shared.with(|core| {
            core.go_away(GoAway {
                code: CloseCode::Shutdown,
                return_after_ms,
                reason: reason.to_owned(),
            });
        });
        let _ = tokio::time::timeout(deadline, self.idle()).await;
        self.close(CloseCode::Shutdown, reason);
        self.shared.gone().await;
    }

    /// Waits until no stream is open, or the session has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn idle(&self) {
        let mut ended = pin!(self.closed());
        loop {
            let mut released = pin!(self.shared.released());
            released.as_mut().enable();
            if self.open_streams() == 0 {
                return;
            }
            tokio::select! {
                () = released => {}
                _ = &mut ended => return,
            }
        }
    }

    /// Waits until the session has ended, and says how.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn closed(&self) -> SessionError {
        self.shared.closed().await
    }

    /// The session's end, for tasks that must not keep it alive by waiting.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        // It is the handles that keep a session alive.
        let shared = Arc::clone(&self.shared);
        async move {
            shared.closed().await;
        }
    }

    /// Waits until the peer is going away, and says when to come back; `None` where the session
    /// ended without.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn going_away(&self) -> Option<GoAway> {
        let mut go_away = self.shared.watch_go_away();
        tokio::select! {
            _ = go_away.wait_for(Option::is_some) => {}
            _ = self.closed() => {}
        }
        self.goodbye()
    }

    /// The peer's GOAWAY. A caller that saw the session's end finds the GOAWAY that came before it here, even if it
    /// waited for both at once: another thread may have taken them in between.
    pub(crate) fn goodbye(&self) -> Option<GoAway> {
        self.shared.watch_go_away().borrow().clone()
    }

    /// Whether a stream may be opened: the session has not ended, and neither side is going away.
    pub fn is_open(&self) -> bool {
        self.shared.core(|core| core.is_open())
    }

    /// Whether the peer left an OPEN unanswered, or its transport is silent, and was not heard from since. Such a session may
    /// recover; where there is another, open there.
    pub fn is_suspect(&self) -> bool {
        self.shared.core(|core| core.is_suspect())
    }

    /// Whether the last target that the peer refused is this one, and was refused a moment ago. Where there is another session, open
    /// there: one that refuses at once never has many streams.
    pub fn has_refused(&self, target: &str) -> bool {
        self.shared.has_refused(target)
    }

    /// Streams open now, of both sides.
    pub fn open_streams(&self) -> usize {
        self.shared.core(|core| core.open_streams())
    }

    /// Whether the peer answers, or its silence or the loss of its transport is so recent that it may be on its way back: two
    /// seconds, and no stream has waited in vain for it. Streams that are opened meanwhile begin when it is back.
    pub fn is_reachable(&self) -> bool {
        let now = now();
        self.shared.core(|core| {
            let recent = |since| now.saturating_duration_since(since) < limits::AWAY_GRACE;
            !core.is_unanswered() && core.away_since().is_none_or(recent)
        })
    }

    /// Waits until the peer has been away for `time` without a break: it does not answer, or the session has no transport. Ready as
    /// well once the session has ended.
    ///
    /// The peer is asked each half second of silence meanwhile. An acceptor leaves that to the keepalive otherwise.
    ///
    /// # Cancel safety
    /// The time begins anew.
    pub async fn away_for(&self, time: Duration) {
        let _attention = Attention::to(&self.shared);
        let mut links = self.shared.watch_links();
        let is_away = |links: &Links| links.primary.is_none_or(|primary| primary.silent);
        let away = async {
            // `self` has the sender, so that no wait fails.
            while links.wait_for(is_away).await.is_ok() {
                let back = links.wait_for(|links| !is_away(links));
                if tokio::time::timeout(time, back).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = away => {}
            _ = self.closed() => {}
        }
    }

    /// Waits until the session has no transport, or has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn detached(&self) {
        self.shared.wait_attached(false).await;
    }

    /// Waits until the session has a transport, or has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn attached(&self) {
        self.shared.wait_attached(true).await;
    }

    /// The path's shortest round-trip time since its transport joined: the transport's own measure,
    /// or that of a PING. `None` without a transport, or before the first measure.
    pub fn round_trip(&self) -> Option<Duration> {
        self.shared.core(|core| core.round_trip())
    }

    /// All that metrics are made of; some short locks.
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// The protocol that carries the session now; `None` while it has no transport.
    pub fn transport(&self) -> Option<TransportKind> {
        self.shared.transport().map(|transport| transport.kind())
    }

    /// The peer's address on the transport that carries the session now.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.shared.transport()?.remote()
    }

    /// Bytes of all streams that are kept until the peer acknowledges them.
    pub fn unacked_bytes(&self) -> u64 {
        self.shared.core(|core| core.unacked())
    }

    /// The peer, and the transport to it.
    pub fn info(&self) -> &Info {
        self.shared.info()
    }

    /// Whether a handshake of the session's has proved this key. Of several keys, which come one after the other, the last two count.
    pub fn has_proved(&self, key: &PublicKey) -> bool {
        self.shared.keys().contains(&Some(*key))
    }

    /// The key that the last handshake of the session's has proved.
    pub fn key(&self) -> PublicKey {
        let [newest, _] = self.shared.keys();
        newest.unwrap_or(self.info().key)
    }

    /// Whether both are handles on the same session.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("info", self.shared.info())
            .finish_non_exhaustive()
    }
}

fn check(request: &OpenRequest) -> Result<(), OpenError> {
    let too_large = |what, len, max| Err(OpenError::TooLarge { what, len, max });
    match (request.target.len(), request.header.len()) {
        (len, _) if len > limits::TARGET => too_large("target", len, limits::TARGET),
        (_, len) if len > limits::OPEN_HEADER => too_large("open header", len, limits::OPEN_HEADER),
        _ => Ok(()),
    }
}

/// The peer is asked often for as long as this is there.
struct Attention(Arc<Shared>);

impl Attention {
    fn to(shared: &Arc<Shared>) -> Self {
        shared.with(|core| core.attend());
        Self(Arc::clone(shared))
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.0.with(|core| core.leave_be());
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0
            .with(|core| core.close(CloseCode::Shutdown, "session dropped"));
    }
}

/// The runtime's clock, which tests may pause.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Writes all of `bytes` and hands them to the connection.
pub(crate) async fn write_all(
    send: &mut dyn SendStream,
    mut bytes: Bytes,
) -> Result<(), HalfError> {
    while !bytes.is_empty() {
        poll_fn(|cx| send.poll_write_bytes(cx, &mut bytes)).await?;
    }
    poll_fn(|cx| send.poll_flush(cx)).await
}
