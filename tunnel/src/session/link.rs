//! The task that drives one transport of a session: its control stream, and its new streams.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::Instrument;
use underpass_proto::chain;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::FrameReader;
use underpass_proto::session::{Ending, LinkEnd, LinkId, Part, Violation};

use super::alarm::Alarm;
use super::opening;
use super::shared::Shared;
use super::{LinkLoss, now};
use crate::limits;
use crate::transport::{BiStream, HalfError, SendStream, Transport, TransportError};

/// Bytes of the control stream read in one go.
const READ: usize = limits::CONTROL_FRAME;

/// The first stream of every transport.
pub(crate) struct ControlStream {
    pub(crate) stream: BiStream,
    /// Holds bytes received behind the handshake's last frame.
    pub(crate) reader: FrameReader,
}

/// A transport of the session, as others see it.
pub(crate) struct LinkHandle {
    pub(super) id: LinkId,
    pub(super) transport: Arc<dyn Transport>,
    /// The protocol has something to send there, or to tell.
    pub(super) changed: Notify,
    end: OnceLock<LinkEnd>,
}

impl LinkHandle {
    pub(super) fn new(id: LinkId, transport: Arc<dyn Transport>) -> Self {
        Self {
            id,
            transport,
            changed: Notify::new(),
            end: OnceLock::new(),
        }
    }

    /// The protocol is done with it.
    pub(super) fn end(&self, end: LinkEnd) {
        let _ = self.end.set(end);
        self.changed.notify_one();
    }
}

/// Why the driver stopped.
enum Over {
    /// The session is over.
    Session(Ending),
    /// The session is done with the link.
    Link(LinkEnd),
    /// The transport broke.
    Transport(TransportError),
}

/// Drives the link to its end. Gives how it was lost, where it was not the session that ended.
pub(super) async fn run(
    shared: Arc<Shared>,
    link: Arc<LinkHandle>,
    control: ControlStream,
) -> (LinkId, Option<LinkLoss>) {
    let mut driver = Driver {
        shared: &shared,
        link: &link,
        stream: control.stream,
        unsent: VecDeque::new(),
        flushed: true,
        alarm: Alarm::new(),
        opening: JoinSet::new(),
        pumping: JoinSet::new(),
    };
    let over = driver.run(control.reader.into_rest()).await;
    let loss = driver.finish(over).await;
    (link.id, loss)
}

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Arc<LinkHandle>,
    stream: BiStream,
    unsent: VecDeque<Bytes>,
    /// Whether the transport has everything that is not in `unsent`.
    flushed: bool,
    alarm: Alarm,
    /// The peer's streams that begin on this link.
    opening: JoinSet<Result<(), Violation>>,
    /// Streams that move to this link, or whose application does not hand over what it wrote.
    pumping: JoinSet<()>,
}

/// The driver's next event.
enum Wake {
    Control(Result<Option<Bytes>, HalfError>),
    Written(Result<(), HalfError>),
    Changed,
    Timeout,
    Stream(Result<BiStream, TransportError>),
    Opened(Result<(), Violation>),
}

impl Driver<'_> {
    async fn run(&mut self, behind_handshake: Bytes) -> Over {
        self.handle_bytes(&behind_handshake);
        loop {
            self.take_arrivals();
            self.take_output();
            if let Some(over) = self.over() {
                return over;
            }
            match self.wait().await {
                Wake::Control(Ok(Some(bytes))) => self.handle_bytes(&bytes),
                Wake::Control(Ok(None)) => {
                    return Over::Transport(TransportError::lost(ControlEnded));
                }
                Wake::Control(Err(HalfError::Malformed(error))) => {
                    self.shared.with(|core| core.fail(Violation::Decode(error)));
                }
                Wake::Control(Err(error)) => return Over::Transport(into_transport_error(error)),
                Wake::Written(Err(error)) => {
                    return self.end_of_transport(into_transport_error(error)).await;
                }
                Wake::Stream(Err(error)) => return self.end_of_transport(error).await,
                Wake::Stream(Ok(stream)) => self.begin_opening(stream),
                Wake::Opened(opened) => self.opened(opened),
                Wake::Timeout => {
                    self.handle_timeout();
                    self.hand_over();
                }
                Wake::Written(Ok(())) => self.flushed = true,
                Wake::Changed => {}
            }
        }
    }

    fn over(&self) -> Option<Over> {
        let ending = self.shared.core(|core| core.ending().cloned());
        if let Some(ending) = ending {
            return Some(Over::Session(ending));
        }
        self.link.end.get().cloned().map(Over::Link)
    }

    fn handle_bytes(&self, bytes: &[u8]) {
        let id = self.link.id;
        self.shared.with(|core| {
            core.handle_bytes(id, bytes, now());
            if let Some(round_trip) = self.link.transport.round_trip() {
                core.measured(id, round_trip);
            }
        });
    }

    /// Streams of this side move here.
    fn take_arrivals(&mut self) {
        for stream in self.shared.take_arrivals(self.link.id) {
            let resuming = opening::resume(Arc::clone(self.shared), Arc::clone(self.link), stream);
            self.pumping.spawn(resuming.in_current_span());
        }
    }

    /// Takes output, once all earlier output is written: for a peer that does not read,
    /// the protocol's own bounds hold.
    fn take_output(&mut self) {
        if !self.unsent.is_empty() {
            return;
        }
        let id = self.link.id;
        while let Some(bytes) = self.shared.with(|core| core.poll_transmit(id)) {
            self.unsent.push_back(bytes);
            self.flushed = false;
        }
    }

    async fn wait(&mut self) -> Wake {
        let part = Part::Link(self.link.id);
        let timeout = self.shared.with(|core| core.next_timeout(part, now()));
        self.alarm.set(timeout);
        let alarm = &mut self.alarm;
        let room = self.opening.len() < limits::STREAMS_OPENING;
        let BiStream { send, recv } = &mut self.stream;
        let unsent = &mut self.unsent;
        tokio::select! {
            read = poll_fn(|cx| recv.poll_read_bytes(cx, READ)) => Wake::Control(read),
            written = poll_fn(|cx| poll_send(send.as_mut(), unsent, cx)), if !self.flushed => {
                Wake::Written(written)
            }
            () = self.link.changed.notified() => Wake::Changed,
            () = poll_fn(|cx| alarm.poll_ring(cx)) => Wake::Timeout,
            Some(opened) = self.opening.join_next() => {
                Wake::Opened(opened.unwrap_or(Ok(())))
            }
            Some(_) = self.pumping.join_next() => Wake::Changed,
            // A peer that withholds headers waits until the first of them has timed out.
            stream = self.link.transport.accept(), if room => Wake::Stream(stream),
        }
    }

    fn begin_opening(&mut self, stream: BiStream) {
        let (shared, link) = (Arc::clone(self.shared), Arc::clone(self.link));
        let mut opening = opening::take(shared, link, stream)
            .in_current_span()
            .boxed();
        // The OPEN has mostly come with the stream: a task for it would be one more to wait for.
        match (&mut opening).now_or_never() {
            Some(opened) => self.opened(opened),
            None => drop(self.opening.spawn(opening)),
        }
    }

    fn opened(&self, opened: Result<(), Violation>) {
        if let Err(violation) = opened {
            self.shared.with(|core| core.fail(violation));
        }
    }

    /// Bytes of other streams prove that the peer is there, too.
    fn handle_timeout(&self) {
        let id = self.link.id;
        let heard = self.link.transport.last_heard();
        self.shared.with(|core| {
            if let Some(at) = heard {
                core.heard(id, at);
            }
            core.handle_timeout(Part::Link(id), now());
        });
    }

    /// Hands over streams' bytes that have waited long enough for more.
    fn hand_over(&mut self) {
        for stream in self.shared.take_overdue() {
            let shared = Arc::clone(self.shared);
            let mut pumping = async move { poll_fn(|cx| stream.poll_pump(&shared, cx)).await }
                .in_current_span()
                .boxed();
            // A transport mostly has room for an answer.
            if (&mut pumping).now_or_never().is_none() {
                self.pumping.spawn(pumping);
            }
        }
    }

    /// The transport is gone, or going; the control stream may still hold the reason.
    async fn end_of_transport(&mut self, error: TransportError) -> Over {
        let read = tokio::time::timeout(limits::CLOSE_TIME, self.read_to_the_end()).await;
        let error = read.ok().flatten().unwrap_or(error);
        self.over().unwrap_or(Over::Transport(error))
    }

    async fn read_to_the_end(&mut self) -> Option<TransportError> {
        loop {
            let recv = &mut self.stream.recv;
            match poll_fn(|cx| recv.poll_read_bytes(cx, READ)).await {
                Ok(Some(bytes)) => self.handle_bytes(&bytes),
                Err(HalfError::Transport(error @ TransportError::ClosedByPeer { .. })) => {
                    return Some(error);
                }
                Ok(None) | Err(_) => return None,
            }
            if self.over().is_some() {
                return None;
            }
        }
    }

    /// Ends the transport as is due, and tells the session where it does not know.
    async fn finish(mut self, over: Over) -> Option<LinkLoss> {
        self.opening.abort_all();
        self.pumping.abort_all();
        match over {
            Over::Session(ending) => {
                self.finish_session(ending).await;
                None
            }
            Over::Link(end) => {
                self.finish_link(&end).await;
                Some(LinkLoss::Link(end))
            }
            Over::Transport(TransportError::ClosedByPeer { code, reason })
                if !is_of_the_link(code) =>
            {
                // Some transports carry the session's end themselves.
                self.shared
                    .with(|core| core.closed_by_peer(code, reason.clone()));
                self.link.transport.close(code, &reason);
                None
            }
            Over::Transport(error) => {
                self.link.transport.close(CloseCode::TransportLeft, "");
                Some(LinkLoss::Transport(error))
            }
        }
    }

    async fn finish_session(&mut self, ending: Ending) {
        if let Ending::Peer { .. } = ending {
            // The peer's bytes on other streams may still be on their way, although its CLOSE
            // is here.
            let closed = self.link.transport.closed();
            let _ = tokio::time::timeout(limits::CLOSE_TIME, closed).await;
        } else {
            self.say_last_words().await;
        }
        let (code, reason) = match ending {
            Ending::Peer { code, .. } => (code, String::new()),
            Ending::Local { code, reason } => (code, reason),
            Ending::Violation(violation) => (violation.close_code(), chain(&violation)),
            Ending::Detached(_) => (CloseCode::Shutdown, String::new()),
        };
        self.link.transport.close(code, &reason);
        // Until then the process must not end.
        let closed = self.link.transport.closed();
        let _ = tokio::time::timeout(limits::CLOSE_TIME, closed).await;
    }

    async fn finish_link(&mut self, end: &LinkEnd) {
        match end {
            LinkEnd::Left => {
                self.say_last_words().await;
                // The other side ends the transport, once it has everything.
                let closed = self.link.transport.closed();
                let _ = tokio::time::timeout(limits::CLOSE_TIME, closed).await;
                let reason = "the session goes on elsewhere";
                self.link.transport.close(CloseCode::TransportLeft, reason);
            }
            LinkEnd::PeerLeft { reason, .. } => {
                self.link.transport.close(CloseCode::TransportLeft, reason);
            }
            LinkEnd::KeepaliveTimeout(_) => {
                let reason = end.to_string();
                self.link
                    .transport
                    .close(CloseCode::KeepaliveTimeout, &reason);
            }
        }
    }

    /// Sends the remaining frames, and CLOSE where this side closed.
    async fn say_last_words(&mut self) {
        // Earlier output may be unsent; `take_output` waits for it.
        let words = async {
            loop {
                let BiStream { send, .. } = &mut self.stream;
                let unsent = &mut self.unsent;
                // Whether the peer still hears it makes no difference any more.
                if poll_fn(|cx| poll_send(send.as_mut(), unsent, cx))
                    .await
                    .is_err()
                {
                    return;
                }
                self.take_output();
                if self.unsent.is_empty() {
                    break;
                }
            }
            let send = &mut self.stream.send;
            let _ = poll_fn(|cx| send.poll_finish(cx)).await;
        };
        let _ = tokio::time::timeout(limits::CLOSE_TIME, words).await;
    }
}

/// Codes with which a peer ends a transport, and not the session.
fn is_of_the_link(code: CloseCode) -> bool {
    matches!(
        code,
        CloseCode::TransportLeft | CloseCode::KeepaliveTimeout | CloseCode::ResumeRefused
    )
}

fn poll_send(
    send: &mut dyn SendStream,
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

/// The peer ended the control stream, which lives as long as the transport.
#[derive(Debug, thiserror::Error)]
#[error("the peer ended the control stream")]
struct ControlEnded;
