//! yamux over one byte stream, for protocols that have no streams of their own.
//!
//! yamux itself has no reset codes, and its crate gives a reset to the reader as a clean end. So
//! each stream carries frames of our own ([`underpass_proto::yamux`]), and an end without a FIN frame is a reset
//! (PROTOCOL.md, "Streams over yamux").

mod io;
mod link;
mod stream;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{AsyncRead, AsyncWrite, FutureExt};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use underpass_proto::code::CloseCode;
use underpass_proto::stream_id::Role;
use yamux::{Connection, ConnectionError, Mode};

use self::io::Io;
use self::link::Link;
use super::heard::LastHeard;
use super::{BiStream, Transport, TransportError, TransportKind};
use crate::limits;

/// Streams of one connection at the most. The session keeps both sides far below it; yamux ends
/// the whole connection where it is exceeded.
const MAX_STREAMS: usize = 4 * limits::STREAMS as usize;

/// Bytes that all windows of one connection may grow to beyond 256 KiB per stream.
const WINDOWS: usize = MAX_STREAMS * yamux::DEFAULT_CREDIT as usize;

/// Payload of one yamux frame. Larger frames cost less per byte, and delay those behind
/// them: 64 KiB is 5 ms at 100 Mbit/s.
const FRAME: usize = 64 * 1024;

/// A connection that carries yamux, driven by a task of its own.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct YamuxTransport {
    kind: TransportKind,
    remote: Option<SocketAddr>,
    opens: mpsc::Sender<oneshot::Sender<Result<BiStream, TransportError>>>,
    incoming: Mutex<mpsc::Receiver<BiStream>>,
    close: CancellationToken,
    ended: watch::Receiver<Option<TransportError>>,
    heard: LastHeard,
    /// Whether the peer may open more streams than one.
    trusted: Arc<AtomicBool>,
}

impl YamuxTransport {
    /// Starts yamux on `io`, which is unused.
    pub(crate) fn start<IO>(
        io: IO,
        role: Role,
        kind: TransportKind,
        remote: Option<SocketAddr>,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut config = yamux::Config::default();
        // The crate checks each setting against the other, at once.
        config.set_max_connection_receive_window(None);
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(WINDOWS));
        config.set_split_send_size(FRAME);
        let mode = match role {
            Role::Connector => Mode::Client,
            Role::Acceptor => Mode::Server,
        };
        let (opens, open_requests) = mpsc::channel(limits::STREAMS_OPENING);
        let (accepted, incoming) = mpsc::channel(limits::STREAMS_OPENING);
        let close = CancellationToken::new();
        let (ending, ended) = watch::channel(None);
        let heard = LastHeard::new();
        // A connector's peer has shown the pinned CA's certificate before the first byte.
        let trusted = Arc::new(AtomicBool::new(role == Role::Connector));
        let driver = Driver {
            connection: Connection::new(Io::new(io, heard.clone()), config, mode),
            link: Arc::default(),
            open_requests,
            waiting: VecDeque::new(),
            accepted,
            trusted: Arc::clone(&trusted),
            first_came: false,
        };
        tokio::spawn(driver.run(close.clone(), ending));
        Self {
            kind,
            remote,
            opens,
            incoming: Mutex::new(incoming),
            close,
            ended,
            heard,
            trusted,
        }
    }

    async fn ended(&self) -> TransportError {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // The driver sets an ending before it goes, unless its runtime is shut down.
            _ => TransportError::ClosedHere,
        }
    }
}

impl Transport for YamuxTransport {
    fn open(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
        async {
            let (reply, stream) = oneshot::channel();
            if self.opens.send(reply).await.is_err() {
                return Err(self.ended().await);
            }
            match stream.await {
                Ok(result) => result,
                Err(_) => Err(self.ended().await),
            }
        }
        .boxed()
    }

    fn accept(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
        async {
            match self.incoming.lock().await.recv().await {
                Some(stream) => Ok(stream),
                None => Err(self.ended().await),
            }
        }
        .boxed()
    }

    fn close(&self, _: CloseCode, _: &str) {
        // yamux carries no code: the session's CLOSE frame, sent before, does.
        self.close.cancel();
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        self.ended().boxed()
    }

    fn authenticated(&self) {
        self.trusted.store(true, Ordering::Release);
    }

    fn last_heard(&self) -> Option<Instant> {
        Some(self.heard.get())
    }

    fn round_trip(&self) -> Option<Duration> {
        None
    }

    fn kind(&self) -> TransportKind {
        self.kind
    }

    fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }
}

impl Drop for YamuxTransport {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

/// Owns the connection: yamux makes progress only while it is polled.
struct Driver<IO> {
    connection: Connection<Io<IO>>,
    link: Arc<Link>,
    open_requests: mpsc::Receiver<oneshot::Sender<Result<BiStream, TransportError>>>,
    waiting: VecDeque<oneshot::Sender<Result<BiStream, TransportError>>>,
    accepted: mpsc::Sender<BiStream>,
    trusted: Arc<AtomicBool>,
    first_came: bool,
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    async fn run(
        mut self,
        closing: CancellationToken,
        ending: watch::Sender<Option<TransportError>>,
    ) {
        let error = tokio::select! {
            error = std::future::poll_fn(|cx| self.poll(cx)) => error,
            () = closing.cancelled() => {
                self.link.end(TransportError::ClosedHere);
                let close = std::future::poll_fn(|cx| self.connection.poll_close(cx));
                // A peer that reads nothing must not keep the connection.
                let _ = tokio::time::timeout(limits::CLOSE_TIME, close).await;
                TransportError::ClosedHere
            }
        };
        self.link.end(error.clone());
        drop(self);
        ending.send_replace(Some(error));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TransportError> {
        while let Poll::Ready(Some(request)) = self.open_requests.poll_recv(cx) {
            self.waiting.push_back(request);
        }
        loop {
            if let Poll::Ready(error) = self.poll_open(cx) {
                return Poll::Ready(error);
            }
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => self.take_inbound(stream),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(error.into()),
                Poll::Ready(None) => return Poll::Ready(ConnectionError::Closed.into()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_inbound(&mut self, stream: yamux::Stream) {
        let first = !std::mem::replace(&mut self.first_came, true);
        // Before it is authenticated, a peer has no use for more than the control stream.
        if first || self.trusted.load(Ordering::Acquire) {
            // A full queue means that the session does not keep up: the stream is dropped, and
            // with it reset. Waiting here would stall every other stream.
            let _ = self
                .accepted
                .try_send(stream::bi_stream(stream, &self.link));
        }
    }

    /// Serves the requests for new streams. Ready is the connection's end.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<TransportError> {
        while let Some(request) = self.waiting.pop_front() {
            if request.is_closed() {
                continue;
            }
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    // The caller may be gone by now: the stream is dropped with the answer.
                    let _ = request.send(Ok(stream::bi_stream(stream, &self.link)));
                }
                Poll::Ready(Err(error)) => {
                    let error = TransportError::from(error);
                    let _ = request.send(Err(error.clone()));
                    return Poll::Ready(error);
                }
                Poll::Pending => {
                    self.waiting.push_front(request);
                    return Poll::Pending;
                }
            }
        }
        Poll::Pending
    }
}

impl From<ConnectionError> for TransportError {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(Arc::new(error))
    }
}

impl<IO> fmt::Debug for Driver<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
