//! QUIC: each stream is a native stream, unframed.

mod allowance;
mod batches;
mod config;
mod congestion;
mod endpoint;
mod offload;
#[cfg(feature = "qlog")]
mod qlog;
mod socket;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
/// The version of quinn whose types stand in signatures and in errors.
pub use quinn;
use quinn::{ConnectionError, Dir, ReadError, Side, StreamId, VarInt, WriteError};
use tokio_util::task::TaskTracker;
use underpass_proto::code::{CloseCode, ResetCode};
use underpass_proto::frame::Class;

use self::allowance::{Allowance, PeerStream};
pub use self::config::{Congestion, Offload, QuicConfig, QuicConfigError};
pub use self::endpoint::{
    EndpointError, ResetKey, client, client_config, client_config_as, server, server_for,
};
use super::{
    BiStream, HalfError, PathStats, RecvStream, SendStream, Transport, TransportError,
    TransportKind,
};
use crate::limits;
use crate::role::ConnectorRole;

/// The ALPN protocol id that agents and their acceptor must agree on (RFC 7301).
pub const ALPN: &[u8] = b"underpass/1";

/// The same of users.
pub const USER_ALPN: &[u8] = b"underpass-user/1";

/// The protocol id of connectors in this role.
pub const fn alpn(role: ConnectorRole) -> &'static [u8] {
    match role {
        ConnectorRole::Agent => ALPN,
        ConnectorRole::User => USER_ALPN,
    }
}

/// The role that ALPN has chosen for this connection, where it is one of ours.
pub(crate) fn role_of(connection: &quinn::Connection) -> Option<ConnectorRole> {
    let data = connection.handshake_data()?;
    let data = data.downcast::<quinn::crypto::rustls::HandshakeData>();
    let chosen = data.ok()?.protocol?;
    let mut roles = ConnectorRole::ALL.into_iter();
    roles.find(|role| alpn(*role) == chosen)
}

/// A QUIC connection whose handshake is done.
#[derive(Debug)]
pub struct QuicTransport {
    state: Mutex<State>,
    /// Streams that are finished and whose bytes the peer has not acknowledged: QUIC's close would
    /// throw them away.
    unacknowledged: TaskTracker,
    closing: AtomicBool,
    allowance: Allowance,
}

/// quinn keeps a connection's socket as long as any handle on the connection: a session that is kept
/// after its end must not keep the agent's.
#[derive(Debug)]
enum State {
    Live(quinn::Connection),
    Ended(Last),
}

/// The last state of a connection that has ended.
#[derive(Debug, Clone)]
struct Last {
    error: TransportError,
    remote: SocketAddr,
    stats: PathStats,
}

impl QuicTransport {
    /// Takes an established connection.
    pub fn new(connection: quinn::Connection) -> Self {
        Self {
            allowance: Allowance::new(connection.side()),
            state: Mutex::new(State::Live(connection)),
            unacknowledged: TaskTracker::new(),
            closing: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, or why there is none any more.
    fn live(&self) -> Result<quinn::Connection, TransportError> {
        match &*self.state() {
            State::Live(connection) => Ok(connection.clone()),
            State::Ended(last) => Err(last.error.clone()),
        }
    }

    /// quinn said that the connection has ended: lets go of it.
    fn ended(&self, connection: &quinn::Connection, error: ConnectionError) -> TransportError {
        let last = Last {
            error: error.into(),
            remote: connection.remote_address(),
            stats: path_stats(connection),
        };
        let mut state = self.state();
        if let State::Live(_) = *state {
            *state = State::Ended(last.clone());
        }
        last.error
    }

    fn bi_stream(
        &self,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        place: Option<Arc<PeerStream>>,
    ) -> BiStream {
        if is_control(send.id()) {
            // An error says that the stream is gone.
            let _ = send.set_priority(CONTROL);
        }
        BiStream {
            send: Box::new(QuicSend {
                inner: send,
                ended: false,
                unacknowledged: self.unacknowledged.clone(),
                _place: place.clone(),
            }),
            recv: Box::new(QuicRecv {
                inner: recv,
                end: None,
                place,
            }),
        }
    }
}

impl Transport for QuicTransport {
    fn open(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
        async {
            let connection = self.live()?;
            match connection.open_bi().await {
                Ok(halves) => Ok(self.bi_stream(halves, None)),
                Err(error) => Err(self.ended(&connection, error)),
            }
        }
        .boxed()
    }

    fn accept(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
        async {
            let connection = self.live()?;
            match connection.accept_bi().await {
                Ok(halves) => {
                    let (place, grown) = self.allowance.take();
                    if let Some(grown) = grown {
                        connection.set_max_concurrent_bi_streams(grown);
                    }
                    Ok(self.bi_stream(halves, Some(place)))
                }
                Err(error) => Err(self.ended(&connection, error)),
            }
        }
        .boxed()
    }

    fn close(&self, code: CloseCode, reason: &str) {
        let Ok(connection) = self.live() else { return };
        if self.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        let code = varint(code.to_wire());
        self.unacknowledged.close();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.unacknowledged.is_empty() => {
                let unacknowledged = self.unacknowledged.clone();
                let reason = reason.to_owned();
                runtime.spawn(async move {
                    // A peer that acknowledges nothing must not keep the connection.
                    let _ = tokio::time::timeout(limits::CLOSE_TIME, unacknowledged.wait()).await;
                    connection.close(code, reason.as_bytes());
                });
            }
            _ => connection.close(code, reason.as_bytes()),
        }
    }

    fn authenticated(&self) {
        if let Ok(connection) = self.live() {
            connection.set_max_concurrent_bi_streams(self.allowance.limit());
            connection.set_receive_window(endpoint::CONNECTION_WINDOW);
        }
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        async {
            match self.live() {
                Ok(connection) => {
                    let error = connection.closed().await;
                    self.ended(&connection, error)
                }
                Err(error) => error,
            }
        }
        .boxed()
    }

    /// Assumes that the peer has [`Congestion::Rate`], the default.
    fn keeps_queue_short(&self) -> bool {
        true
    }

    /// The PING frames of RFC 9000, section 10.1.2, and the idle timeout. Each costs two datagrams and no wake-up of a session; a
    /// PING of the session's costs four.
    fn keeps_itself_alive(&self) -> bool {
        true
    }

    fn round_trip(&self) -> Option<Duration> {
        match &*self.state() {
            State::Live(connection) => Some(connection.rtt()),
            State::Ended(last) => last.stats.round_trip,
        }
    }

    fn stats(&self) -> PathStats {
        match &*self.state() {
            State::Live(connection) => path_stats(connection),
            State::Ended(last) => last.stats,
        }
    }

    fn kind(&self) -> TransportKind {
        TransportKind::Quic
    }

    fn remote(&self) -> Option<SocketAddr> {
        Some(match &*self.state() {
            State::Live(connection) => connection.remote_address(),
            State::Ended(last) => last.remote,
        })
    }
}

fn path_stats(connection: &quinn::Connection) -> PathStats {
    let stats = connection.stats();
    PathStats {
        round_trip: Some(stats.path.rtt),
        congestion_window: Some(stats.path.cwnd),
        congestion_events: Some(stats.path.congestion_events),
        sent_packets: Some(stats.path.sent_packets),
        lost_packets: Some(stats.path.lost_packets),
        sent_bytes: Some(stats.udp_tx.bytes),
        received_bytes: Some(stats.udp_rx.bytes),
        max_datagram: Some(stats.path.current_mtu),
        black_holes: Some(stats.path.black_holes_detected),
    }
}

/// Codes come from enums whose numbers are small, or from the wire, where they were varints.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

struct QuicSend {
    inner: quinn::SendStream,
    /// Finished or reset.
    ended: bool,
    unacknowledged: TaskTracker,
    _place: Option<Arc<PeerStream>>,
}

impl SendStream for QuicSend {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, HalfError>> {
        pin!(self.inner.write(data))
            .poll(cx)
            .map_err(HalfError::from)
    }

    fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), HalfError>> {
        // The future may be dropped between polls: it holds no bytes, and the stream remembers the
        // waker ("cancel safety" in its documentation). Chunks taken are emptied in place.
        let chunks = std::slice::from_mut(data);
        ready!(pin!(self.inner.write_chunks(chunks)).poll(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        // Written bytes are the connection's own at once; its driver sends them.
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        // An error says that the stream is finished, reset or stopped already. A peer that stopped
        // reading does not mind that nothing more comes.
        if self.inner.finish().is_ok()
            && !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.unacknowledged
                .spawn_on(self.inner.stopped().map(drop), &runtime);
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, code: ResetCode) {
        self.ended = true;
        // An error says that there is nothing left to reset.
        let _ = self.inner.reset(varint(code.to_wire()));
    }

    fn prioritize(&mut self, class: Class) {
        if !is_control(self.inner.id()) {
            // An error says that the stream is gone.
            let _ = self.inner.set_priority(priority(class));
        }
    }
}

/// Of the session's own frames.
const CONTROL: i32 = 2;

/// quinn sends streams of higher numbers first, and those of one number in turn.
const fn priority(class: Class) -> i32 {
    match class {
        Class::Interactive => 1,
        Class::Default => 0,
        Class::Bulk => -1,
    }
}

/// Whether it is the connector's first.
fn is_control(id: StreamId) -> bool {
    id.initiator() == Side::Client && id.dir() == Dir::Bi && id.index() == 0
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        // quinn would finish it: a clean end of a stream that was abandoned.
        if !self.ended {
            self.reset(ResetCode::Cancelled);
        }
    }
}

struct QuicRecv {
    inner: quinn::RecvStream,
    /// How it ended, once it has: quinn tells only once.
    end: Option<Result<(), HalfError>>,
    /// Where the peer opened the stream.
    place: Option<Arc<PeerStream>>,
}

impl QuicRecv {
    /// Converts a read's result, and keeps the end.
    fn read<T>(
        &mut self,
        read: Result<Option<T>, ReadError>,
    ) -> Poll<Result<Option<T>, HalfError>> {
        let end = match read {
            Ok(Some(read)) => return Poll::Ready(Ok(Some(read))),
            Ok(None) => Ok(()),
            Err(error) => Err(HalfError::from(error)),
        };
        if let Some(place) = self.place.take() {
            place.over();
        }
        self.end = Some(end.clone());
        Poll::Ready(end.map(|()| None))
    }
}

impl RecvStream for QuicRecv {
    fn poll_read_bytes(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, HalfError>> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone().map(|()| None));
        }
        let read = ready!(pin!(self.inner.read_chunk(max, true)).poll(cx));
        self.read(read.map(|chunk| chunk.map(|chunk| chunk.bytes)))
    }

    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, HalfError>> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone().map(|()| None));
        }
        let read = ready!(pin!(self.inner.read_chunks(chunks)).poll(cx));
        self.read(read)
    }

    fn stop(&mut self, code: ResetCode) {
        self.end = Some(Err(HalfError::Reset(code)));
        // An error says that the stream has ended already.
        let _ = self.inner.stop(varint(code.to_wire()));
    }
}

impl From<ConnectionError> for TransportError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: CloseCode::from_wire(close.error_code.into_inner()),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            other => Self::lost(other),
        }
    }
}

impl From<WriteError> for HalfError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(ResetCode::from_wire(code.into_inner())),
            WriteError::ConnectionLost(error) => Self::Transport(error.into()),
            WriteError::ClosedStream => Self::Finished,
            // 0-RTT is never used: its data could be replayed.
            other @ WriteError::ZeroRttRejected => Self::Transport(TransportError::lost(other)),
        }
    }
}

impl From<ReadError> for HalfError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(ResetCode::from_wire(code.into_inner())),
            ReadError::ConnectionLost(error) => Self::Transport(error.into()),
            ReadError::ClosedStream => Self::Finished,
            other => Self::Transport(TransportError::lost(other)),
        }
    }
}
