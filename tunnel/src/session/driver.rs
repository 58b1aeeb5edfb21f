//! The task that owns a session's control stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::incoming::{self, Queued};
use super::{SessionError, Shared, now};
use crate::error::chain;
use crate::proto::frame::{FrameReader, GoAway};
use crate::proto::limits;
use crate::proto::session::{Ending, Event, Violation};
use crate::transport::{BiStream, HalfError, TransportError};

/// Bytes of the control stream read in one go.
const READ: usize = limits::CONTROL_FRAME;

/// The first stream of every session.
pub(crate) struct ControlStream {
    pub(crate) stream: BiStream,
    /// Holds what was received behind the handshake's last frame.
    pub(crate) reader: FrameReader,
}

/// Where the driver puts what it learns.
pub(super) struct Outlets {
    pub(super) incoming: mpsc::Sender<Queued>,
    pub(super) go_away: watch::Sender<Option<GoAway>>,
    pub(super) ended: watch::Sender<Option<SessionError>>,
}

/// Drives the session to its end.
pub(super) async fn run(shared: Arc<Shared>, control: ControlStream, outlets: Outlets) {
    let Outlets {
        incoming,
        go_away,
        ended,
    } = outlets;
    let mut driver = Driver {
        shared: &shared,
        stream: control.stream,
        unsent: VecDeque::new(),
        flushed: true,
        go_away,
        opening: JoinSet::new(),
        incoming,
    };
    let behind_handshake = control.reader.into_rest();
    let error = driver.run(behind_handshake).await;
    tracing::debug!(session = %shared.info.id, agent = shared.info.agent, "{}", chain(&error));
    let closed_by_peer = matches!(error, SessionError::Ended(Ending::Peer { .. }));
    if !closed_by_peer {
        let _ = tokio::time::timeout(limits::CLOSE_TIME, driver.say_last_words()).await;
    }
    // Where it was the transport that ended, the protocol does not know yet.
    shared.protocol().abandon();
    let (code, reason) = match error.close_code() {
        Some(code) => (code, chain(&error)),
        None => (crate::CloseCode::Shutdown, String::new()),
    };
    ended.send_replace(Some(error));
    drop(driver);
    if closed_by_peer {
        // What the peer sent on other streams may still be on its way, although its CLOSE is here.
        let _ = tokio::time::timeout(limits::CLOSE_TIME, shared.transport.closed()).await;
    }
    shared.transport.close(code, &reason);
    shared.drop_queued().await;
}

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    stream: BiStream,
    unsent: VecDeque<Bytes>,
    /// Whether the transport has everything that is not in `unsent`.
    flushed: bool,
    go_away: watch::Sender<Option<GoAway>>,
    /// Streams whose open header is still arriving.
    opening: JoinSet<Result<(), Violation>>,
    incoming: mpsc::Sender<Queued>,
}

/// What woke the driver.
enum Wake {
    Control(Result<Option<Bytes>, HalfError>),
    Written(Result<(), HalfError>),
    Changed,
    Timeout,
    Stream(Result<BiStream, TransportError>),
    Opened(Result<(), Violation>),
}

impl Driver<'_> {
    async fn run(&mut self, behind_handshake: Bytes) -> SessionError {
        self.shared
            .protocol()
            .handle_bytes(&behind_handshake, now());
        loop {
            if let Some(error) = self.take_output() {
                return error;
            }
            match self.wait().await {
                Wake::Control(Ok(Some(bytes))) => {
                    self.shared.protocol().handle_bytes(&bytes, now());
                }
                Wake::Control(Ok(None)) => {
                    return SessionError::Transport(TransportError::lost(ControlEnded));
                }
                Wake::Control(Err(HalfError::Malformed(error))) => {
                    self.shared.protocol().fail(Violation::Decode(error));
                }
                Wake::Control(Err(error)) => {
                    return SessionError::from_transport(into_transport_error(error));
                }
                Wake::Written(Err(error)) => {
                    return self.end_of_transport(into_transport_error(error)).await;
                }
                Wake::Stream(Err(error)) => return self.end_of_transport(error).await,
                Wake::Stream(Ok(stream)) => self.begin_opening(stream),
                Wake::Opened(Err(violation)) => self.shared.protocol().fail(violation),
                Wake::Timeout => self.handle_timeout(),
                Wake::Written(Ok(())) => self.flushed = true,
                Wake::Opened(Ok(())) | Wake::Changed => {}
            }
        }
    }

    /// Takes what the protocol wants sent and told; gives the session's end, if that is it.
    fn take_output(&mut self) -> Option<SessionError> {
        let mut protocol = self.shared.protocol();
        while let Some(bytes) = protocol.poll_transmit() {
            self.unsent.push_back(bytes);
            self.flushed = false;
        }
        // The protocol bounds what it queues by what it is polled for; this bounds the rest.
        if self.unsent.len() > limits::CONTROL_QUEUE {
            protocol.fail(Violation::NotReading);
        }
        while let Some(event) = protocol.poll_event() {
            match event {
                Event::GoAway(go_away) => {
                    self.go_away.send_replace(Some(go_away));
                }
                Event::Closed(ending) => {
                    while let Some(bytes) = protocol.poll_transmit() {
                        self.unsent.push_back(bytes);
                    }
                    return Some(SessionError::Ended(ending));
                }
            }
        }
        None
    }

    async fn wait(&mut self) -> Wake {
        let timeout = self.shared.protocol().poll_timeout().unwrap_or_else(now);
        let room = self.opening.len() < limits::STREAMS_OPENING;
        let BiStream { send, recv } = &mut self.stream;
        let unsent = &mut self.unsent;
        tokio::select! {
            // Control bytes first: they may say why the transport is about to end.
            biased;
            read = poll_fn(|cx| recv.poll_read_bytes(cx, READ)) => Wake::Control(read),
            written = poll_fn(|cx| poll_send(send.as_mut(), unsent, cx)), if !self.flushed => {
                Wake::Written(written)
            }
            () = self.shared.changed.notified() => Wake::Changed,
            () = tokio::time::sleep_until(timeout.into()) => Wake::Timeout,
            Some(opened) = self.opening.join_next() => {
                Wake::Opened(opened.unwrap_or(Ok(())))
            }
            // A peer that withholds headers waits until the first of them has timed out.
            stream = self.shared.transport.accept(), if room => Wake::Stream(stream),
        }
    }

    fn begin_opening(&mut self, stream: BiStream) {
        let shared = Arc::clone(self.shared);
        self.opening
            .spawn(incoming::open(shared, stream, self.incoming.clone()));
    }

    /// Bytes of other streams prove that the peer is there, too.
    fn handle_timeout(&mut self) {
        let mut protocol = self.shared.protocol();
        if let Some(at) = self.shared.transport.last_heard() {
            protocol.heard(at);
        }
        protocol.handle_timeout(now());
    }

    /// The transport is gone, or going; the control stream may still hold the reason.
    async fn end_of_transport(&mut self, error: TransportError) -> SessionError {
        let reason = tokio::time::timeout(limits::CLOSE_TIME, self.read_to_the_end()).await;
        reason
            .ok()
            .flatten()
            .unwrap_or_else(|| SessionError::from_transport(error))
    }

    async fn read_to_the_end(&mut self) -> Option<SessionError> {
        loop {
            let recv = &mut self.stream.recv;
            match poll_fn(|cx| recv.poll_read_bytes(cx, READ)).await {
                Ok(Some(bytes)) => self.shared.protocol().handle_bytes(&bytes, now()),
                Err(HalfError::Transport(error @ TransportError::ClosedByPeer { .. })) => {
                    return Some(SessionError::from_transport(error));
                }
                Ok(None) | Err(_) => return None,
            }
            if let Some(error) = self.take_output() {
                return Some(error);
            }
        }
    }

    /// Sends what is left, which ends in a CLOSE where this side closed.
    async fn say_last_words(&mut self) {
        let BiStream { send, .. } = &mut self.stream;
        let unsent = &mut self.unsent;
        // Whether the peer still hears it makes no difference any more.
        let _ = poll_fn(|cx| poll_send(send.as_mut(), unsent, cx)).await;
        let _ = poll_fn(|cx| send.poll_finish(cx)).await;
    }
}

fn poll_send(
    send: &mut dyn crate::transport::SendStream,
    unsent: &mut VecDeque<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), HalfError>> {
    while let Some(bytes) = unsent.front_mut() {
        while !bytes.is_empty() {
            ready!(send.poll_write_bytes(cx, bytes))?;
        }
        unsent.pop_front();
    }
    send.poll_flush(cx)
}

fn into_transport_error(error: HalfError) -> TransportError {
    match error {
        HalfError::Transport(error) => error,
        other => TransportError::lost(other),
    }
}

/// The peer ended the control stream, which lives as long as the session.
#[derive(Debug, thiserror::Error)]
#[error("the peer ended the control stream")]
struct ControlEnded;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::proto::code::{CloseCode, ResetCode};
    use crate::proto::frame::{Close, Control};
    use crate::proto::session::Agreed;
    use crate::proto::stream_id::Role;
    use crate::session::{Info, Session, SessionId};
    use crate::transport::{Kind, RecvStream, SendStream, Transport};

    /// A connection that the peer has closed already.
    #[derive(Debug)]
    struct Gone;

    fn gone() -> TransportError {
        TransportError::ClosedByPeer {
            code: CloseCode::Shutdown,
            reason: String::new(),
        }
    }

    impl Transport for Gone {
        fn open(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
            async { Err(gone()) }.boxed()
        }

        fn accept(&self) -> BoxFuture<'_, Result<BiStream, TransportError>> {
            async { Err(gone()) }.boxed()
        }

        fn close(&self, _: CloseCode, _: &str) {}

        fn closed(&self) -> BoxFuture<'_, TransportError> {
            async { gone() }.boxed()
        }

        fn round_trip(&self) -> Option<Duration> {
            None
        }

        fn kind(&self) -> Kind {
            Kind::Memory
        }

        fn remote(&self) -> Option<SocketAddr> {
            None
        }
    }

    /// A control stream whose bytes are found only at the second look.
    struct Late {
        looked: bool,
        bytes: Option<Bytes>,
    }

    impl RecvStream for Late {
        fn poll_read_bytes(
            &mut self,
            _: &mut Context<'_>,
            _: usize,
        ) -> Poll<Result<Option<Bytes>, HalfError>> {
            if !std::mem::replace(&mut self.looked, true) {
                return Poll::Pending;
            }
            match self.bytes.take() {
                Some(bytes) => Poll::Ready(Ok(Some(bytes))),
                None => Poll::Ready(Err(HalfError::Transport(gone()))),
            }
        }

        fn stop(&mut self, _: ResetCode) {}
    }

    struct Deaf;

    impl SendStream for Deaf {
        fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize, HalfError>> {
            Poll::Ready(Err(HalfError::Transport(gone())))
        }

        fn poll_write_bytes(
            &mut self,
            _: &mut Context<'_>,
            _: &mut Bytes,
        ) -> Poll<Result<(), HalfError>> {
            Poll::Ready(Err(HalfError::Transport(gone())))
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
            Poll::Ready(Ok(()))
        }

        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
            Poll::Ready(Ok(()))
        }

        fn reset(&mut self, _: ResetCode) {}
    }

    fn session(bytes: Bytes) -> Session {
        let recv = Late {
            looked: false,
            bytes: Some(bytes),
        };
        let control = ControlStream {
            stream: BiStream {
                send: Box::new(Deaf),
                recv: Box::new(recv),
            },
            reader: FrameReader::new(limits::CONTROL_FRAME),
        };
        let agreed = Agreed {
            local_streams: 1,
            remote_streams: 1,
            keepalive: limits::KEEPALIVE,
        };
        let key = crate::AgentKey::from_seed([1; 32]).unwrap().public_key();
        let info = Info {
            id: SessionId([0; 16]),
            agent: "edge-1".to_owned(),
            key,
            instance: [0; 16],
            software: String::new(),
            role: Role::Connector,
            transport: Kind::Memory,
            remote: None,
        };
        Session::start(Arc::new(Gone), control, &agreed, info)
    }

    /// The connection's end may be noticed before the last bytes of the control stream are.
    #[tokio::test(start_paused = true)]
    async fn the_last_words_count_though_the_connection_is_gone() {
        let go_away = GoAway {
            code: CloseCode::Shutdown,
            return_after_ms: 700,
            reason: "moving".to_owned(),
        };
        let close = Close {
            code: CloseCode::Revoked,
            reason: "because".to_owned(),
        };
        let frames = [
            Control::GoAway(go_away.clone()).encode(),
            Control::Close(close).encode(),
        ];
        let session = session(frames.concat().into());
        let error = session.closed().await;
        assert_eq!(error.close_code(), Some(CloseCode::Revoked), "{error:?}");
        assert_eq!(session.going_away().await, Some(go_away));
    }
}
