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
        let recv = &mut self.stream.recv;
        loop {
            match poll_fn(|cx| recv.poll_read_bytes(cx, READ)).await {
                Ok(Some(bytes)) => self.shared.protocol().handle_bytes(&bytes, now()),
                Ok(None) => return None,
                Err(HalfError::Transport(error @ TransportError::ClosedByPeer { .. })) => {
                    return Some(SessionError::from_transport(error));
                }
                Err(_) => return None,
            }
            let mut protocol = self.shared.protocol();
            while let Some(event) = protocol.poll_event() {
                if let Event::Closed(ending) = event {
                    return Some(SessionError::Ended(ending));
                }
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
