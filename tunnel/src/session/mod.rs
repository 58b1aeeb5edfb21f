//! Sessions: the handle, and the task that drives the protocol.

mod driver;
mod incoming;

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, watch};

pub(crate) use self::driver::ControlStream;
pub use self::incoming::IncomingStream;
use self::incoming::Queued;
use crate::proto::code::CloseCode;
use crate::proto::frame::{self, Class, GoAway, Open};
use crate::proto::key::PublicKey;
use crate::proto::limits;
use crate::proto::session::{Agreed, Ending, OpenRefused, Session as Protocol};
use crate::proto::stream_id::{Role, StreamId};
use crate::stream::Stream;
use crate::transport::{HalfError, Kind, SendStream, Transport, TransportError};

/// A handle on an authenticated relation with a peer. Clones are handles on the same session.
///
/// The session ends when it is closed by either side, when the peer is lost, and when the last
/// handle is dropped; its streams end with it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    _close: Arc<CloseOnDrop>,
}

/// Who is at the other end, and how.
#[derive(Debug, Clone)]
pub struct Info {
    /// The session's id, the same at both ends.
    pub id: SessionId,
    /// The connector's name, as the acceptor knows it. The same at both ends.
    pub agent: String,
    /// The key that the connector proved.
    pub key: PublicKey,
    /// The connector's process.
    pub instance: [u8; 16],
    /// Name and version of the peer's software.
    pub software: String,
    /// Which end this is.
    pub role: Role,
    /// The protocol that carries the session.
    pub transport: Kind,
    /// The peer's address, where there is one.
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

/// What a stream is to be opened for.
#[derive(Debug, Clone, Default)]
pub struct OpenRequest {
    /// What the peer shall connect it to, in the application's words; 300 bytes at most.
    pub target: String,
    /// What the target needs to know, in the application's encoding; 256 KiB at most.
    pub header: Bytes,
    /// How urgent its bytes are.
    pub class: Class,
}

/// How a session ended.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// One side closed it, or the protocol was broken, or the peer stopped answering.
    #[error("session ended")]
    Ended(#[source] Ending),
    /// Its transport ended without a word.
    #[error("session lost its transport")]
    Transport(#[source] TransportError),
}

impl SessionError {
    /// Some transports carry the peer's reason themselves.
    fn from_transport(error: TransportError) -> Self {
        match error {
            TransportError::ClosedByPeer { code, reason } => {
                Self::Ended(Ending::Peer { code, reason })
            }
            other => Self::Transport(other),
        }
    }

    /// The code that the session was closed with, if it was closed.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Ended(Ending::Local { code, .. } | Ending::Peer { code, .. }) => Some(*code),
            Self::Ended(Ending::Violation(violation)) => Some(violation.close_code()),
            Self::Ended(Ending::KeepaliveTimeout(_)) => Some(CloseCode::KeepaliveTimeout),
            Self::Transport(_) => None,
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

pub(crate) struct Shared {
    protocol: Mutex<Protocol>,
    /// The protocol has something to send or to tell.
    changed: Notify,
    /// A stream was released.
    released: Notify,
    transport: Arc<dyn Transport>,
    incoming: AsyncMutex<mpsc::Receiver<Queued>>,
    go_away: watch::Receiver<Option<GoAway>>,
    ended: watch::Receiver<Option<SessionError>>,
    info: Info,
}

impl Session {
    /// Starts an established session: `control` is past the handshake.
    pub(crate) fn start(
        transport: Arc<dyn Transport>,
        control: ControlStream,
        agreed: &Agreed,
        info: Info,
    ) -> Self {
        let (incoming_tx, incoming) = mpsc::channel(limits::STREAMS_UNACCEPTED);
        let (ended_tx, ended) = watch::channel(None);
        let (go_away_tx, go_away) = watch::channel(None);
        let shared = Arc::new(Shared {
            protocol: Mutex::new(Protocol::new(info.role, agreed, now())),
            changed: Notify::new(),
            released: Notify::new(),
            transport,
            incoming: AsyncMutex::new(incoming),
            go_away,
            ended,
            info,
        });
        let outlets = driver::Outlets {
            incoming: incoming_tx,
            go_away: go_away_tx,
            ended: ended_tx,
        };
        tokio::spawn(driver::run(Arc::clone(&shared), control, outlets));
        Self {
            _close: Arc::new(CloseOnDrop(Arc::clone(&shared))),
            shared,
        }
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
        let slot = self.shared.open_slot()?;
        let deadline = tokio::time::Instant::now() + limits::ANSWER_TIME;
        let opening = self.open_in(slot, request, deadline);
        match tokio::time::timeout_at(deadline, opening).await {
            Ok(opened) => opened,
            Err(_) => {
                self.shared.suspect();
                Err(OpenError::NoAnswer(limits::ANSWER_TIME))
            }
        }
    }

    async fn open_in(
        &self,
        slot: Slot,
        request: OpenRequest,
        deadline: tokio::time::Instant,
    ) -> Result<Stream, OpenError> {
        let transport_stream = self
            .shared
            .transport
            .open()
            .await
            .map_err(|error| self.shared.ending(error))?;
        let open = Open {
            stream: slot.id(),
            class: request.class,
            target: request.target,
            header: request.header,
        };
        let mut stream = Stream::opened(transport_stream, slot, deadline);
        match stream.send_preface(frame::to_bytes(&open)).await {
            Ok(()) => Ok(stream),
            // The answer, which the first read finds, says more.
            Err(HalfError::Stopped(_)) => Ok(stream),
            Err(HalfError::Transport(error)) => Err(self.shared.ending(error).into()),
            Err(other) => Err(SessionError::Transport(TransportError::lost(other)).into()),
        }
    }

    /// Waits for the peer's next stream.
    ///
    /// # Errors
    /// Once the session has ended.
    ///
    /// # Cancel safety
    /// No stream is lost.
    pub async fn accept(&self) -> Result<IncomingStream, SessionError> {
        let queued = self.shared.incoming.lock().await.recv().await;
        match queued {
            Some(queued) => Ok(queued.into_incoming(&self.shared)),
            None => Err(self.closed().await),
        }
    }

    /// Ends the session at once, and its streams with it.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.shared
            .with_protocol(|protocol| protocol.close(code, reason));
    }

    /// Takes no new streams, asks the peer to open none and to dial again after `return_after`,
    /// waits until every stream has ended, or for `deadline`, and closes the session.
    ///
    /// # Cancel safety
    /// The session stays in its drain; it ends when it is closed or dropped.
    pub async fn drain(&self, deadline: Duration, return_after: Duration, reason: &str) {
        let return_after_ms = u32::try_from(return_after.as_millis()).unwrap_or(u32::MAX);
        self.shared.with_protocol(|protocol| {
            protocol.go_away(GoAway {
                code: CloseCode::Shutdown,
                return_after_ms,
                reason: reason.to_owned(),
            });
        });
        let _ = tokio::time::timeout(deadline, self.idle()).await;
        self.close(CloseCode::Shutdown, reason);
        self.closed().await;
    }

    /// Waits until no stream is open, or the session has ended.
    async fn idle(&self) {
        let mut ended = pin!(self.closed());
        loop {
            let mut released = pin!(self.shared.released.notified());
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

    /// The session's end, for who must not keep it alive by waiting.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.shared.ended.clone();
        async move {
            // An error means that the driver is gone: that is an end, too.
            let _ = ended.wait_for(Option::is_some).await;
        }
    }

    /// Waits until the peer is going away, and says when to come back; `None` where the session
    /// ended without.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn going_away(&self) -> Option<GoAway> {
        let mut go_away = self.shared.go_away.clone();
        go_away.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Whether a stream may be opened: the session has not ended, and neither side is going away.
    pub fn is_open(&self) -> bool {
        self.shared.protocol().is_open()
    }

    /// Whether the peer left an OPEN unanswered and was not heard from since. Such a session may
    /// recover; where there is another, open there.
    pub fn is_suspect(&self) -> bool {
        self.shared.protocol().is_suspect()
    }

    /// Streams open now, of both sides.
    pub fn open_streams(&self) -> usize {
        self.shared.protocol().open_streams()
    }

    /// The path's round-trip time: the transport's own measure, else that of the last PING.
    pub fn round_trip(&self) -> Option<Duration> {
        self.shared
            .transport
            .round_trip()
            .or_else(|| self.shared.protocol().round_trip())
    }

    /// Who is at the other end, and how.
    pub fn info(&self) -> &Info {
        &self.shared.info
    }

    /// Whether both are handles on the same session.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("info", &self.shared.info)
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

impl Shared {
    fn protocol(&self) -> MutexGuard<'_, Protocol> {
        // The protocol never panics half-way; a caller's panic under the lock changes nothing.
        self.protocol.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the protocol's state and lets the driver act on it.
    fn with_protocol<T>(&self, change: impl FnOnce(&mut Protocol) -> T) -> T {
        let result = change(&mut self.protocol());
        self.changed.notify_one();
        result
    }

    fn open_slot(self: &Arc<Self>) -> Result<Slot, OpenError> {
        match self.protocol().open_stream() {
            Ok(id) => Ok(Slot {
                shared: Arc::clone(self),
                id,
            }),
            Err(OpenRefused::Closed) => match self.ended.borrow().clone() {
                Some(error) => Err(error.into()),
                None => Err(OpenRefused::Closed.into()),
            },
            Err(refused) => Err(refused.into()),
        }
    }

    /// Drops the streams that nobody took before the session ended.
    async fn drop_queued(&self) {
        let mut incoming = self.incoming.lock().await;
        incoming.close();
        while let Ok(queued) = incoming.try_recv() {
            self.protocol().release_remote(queued.id());
        }
    }

    async fn closed(&self) -> SessionError {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // The driver was dropped with its runtime.
            _ => SessionError::Transport(TransportError::ClosedHere),
        }
    }

    /// How the session ended, seen from a stream whose transport gave `error`.
    pub(crate) fn ending(&self, error: TransportError) -> SessionError {
        self.ended
            .borrow()
            .clone()
            .unwrap_or_else(|| SessionError::from_transport(error))
    }

    /// A stream of this session has no answer from the peer.
    pub(crate) fn suspect(&self) {
        self.with_protocol(|protocol| protocol.suspect(now()));
    }
}

/// A stream's place among those that may be open, given back when dropped.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    id: StreamId,
}

impl Slot {
    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    pub(crate) fn session(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut protocol = self.shared.protocol();
        if self.id.initiator() == self.shared.info.role {
            protocol.release_local();
        } else {
            protocol.release_remote(self.id);
        }
        drop(protocol);
        self.shared.released.notify_waiters();
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0
            .with_protocol(|protocol| protocol.close(CloseCode::Shutdown, "session dropped"));
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
