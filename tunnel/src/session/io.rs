//! A stream's transport halves, which the application, the link and the session share.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use underpass_proto::code::ResetCode;
use underpass_proto::frame::{Attached, Class, Leg};
use underpass_proto::session::{LinkId, WriteAction, WriteEnd};
use underpass_proto::stream::{Chunk, RecvEnd, SendEnd};
use underpass_proto::stream_id::StreamId;

use super::Shared;
use super::writers::Writers;
use crate::stream::StreamError;
use crate::transport::{BiStream, HalfError, RecvStream, SendStream};

/// The halves that carry a stream now, if any do, and their wakers.
///
/// Locks are taken in this order: a half's, then the session's.
pub(crate) struct StreamIo {
    id: StreamId,
    reader: AtomicWaker,
    writers: Arc<Writers>,
    /// The stream leaves for another transport: an earlier ATTACH waits for nothing.
    leaves: Notify,
    recv: Mutex<RecvIo>,
    send: Mutex<SendIo>,
}

#[derive(Default)]
struct RecvIo {
    half: Option<Box<dyn RecvStream>>,
    /// Bytes that came with a frame in front, and count as received.
    early: Bytes,
}

#[derive(Default)]
struct SendIo {
    half: Option<Box<dyn SendStream>>,
    /// The half has bytes that it may not have passed on.
    unflushed: bool,
}

/// A stream that left its old transport: its first frame on the next.
pub(super) type Begun = Option<underpass_proto::session::Beginning>;

impl StreamIo {
    pub(super) fn new(id: StreamId) -> Arc<Self> {
        Arc::new(Self {
            id,
            reader: AtomicWaker::new(),
            writers: Arc::default(),
            leaves: Notify::new(),
            recv: Mutex::default(),
            send: Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    /// Its OPEN is known, and says how urgent it is.
    pub(super) fn classify(&self, shared: &Shared, class: Class) {
        let mut send = self.send();
        shared.with(|core| core.classify(self.id, class));
        if let Some(half) = send.half.as_mut() {
            half.prioritize(class);
        }
    }

    pub(super) fn wake_reader(&self) {
        self.reader.wake();
    }

    pub(super) fn wake_writer(&self) {
        self.writers.wake_all();
    }

    fn recv(&self) -> MutexGuard<'_, RecvIo> {
        // Nothing under the lock leaves it half-changed.
        self.recv.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self) -> MutexGuard<'_, SendIo> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the transport that carries the stream for `link`. `None` where it is not to go there.
    pub(super) fn begin(&self, shared: &Shared, link: LinkId) -> Begun {
        let (mut recv, mut send) = (self.recv(), self.send());
        let beginning = shared.with(|core| core.begin(link, self.id))?;
        // Bytes that arrive there from now on would not be counted.
        recv.half = None;
        send.half = None;
        self.leaves.notify_waiters();
        Some(beginning)
    }

    /// Waits until a leg after `leg` has begun, or the stream is no more.
    pub(super) async fn leaves(&self, shared: &Shared, leg: Leg) {
        loop {
            let mut left = pin!(self.leaves.notified());
            // Before the look, so that a move between it and the wait is not missed.
            left.as_mut().enable();
            if !shared.core(|core| core.is_current(self.id, leg)) {
                return;
            }
            left.await;
        }
    }

    /// Goes on, on a transport stream of this side whose peer answered ATTACH.
    pub(super) fn attach(
        &self,
        shared: &Shared,
        leg: Leg,
        stream: BiStream,
        attached: Attached,
        rest: Bytes,
    ) {
        let (mut recv, mut send) = (self.recv(), self.send());
        let carries =
            shared.check(|core| core.rewind(self.id, leg, attached.received, attached.limit));
        if carries {
            self.install(shared, &mut recv, &mut send, stream);
            self.take_early(shared, &mut recv, rest);
        }
    }

    /// Begins on a transport stream of this side.
    pub(super) fn open(&self, shared: &Shared, leg: Leg, stream: BiStream) {
        let (mut recv, mut send) = (self.recv(), self.send());
        if shared.with(|core| core.is_current(self.id, leg)) {
            self.install(shared, &mut recv, &mut send, stream);
        }
    }

    /// Begins on a transport stream of the peer's, with the payload behind its OPEN. Where an ATTACH has overtaken it, only the
    /// payload counts, which the peer was told of.
    pub(super) fn take(&self, shared: &Shared, stream: BiStream, payload: Bytes) {
        let (mut recv, mut send) = (self.recv(), self.send());
        recv.early = payload;
        if shared.core(|core| core.is_current(self.id, Leg::FIRST)) {
            self.install(shared, &mut recv, &mut send, stream);
        }
    }

    /// Goes on, on a transport stream of the peer's that began with ATTACH; `answer` gives the
    /// answer while nothing more arrives on the old one, or `None` where that is a later leg's.
    pub(super) fn take_attached(
        &self,
        shared: &Shared,
        stream: BiStream,
        answer: impl FnOnce() -> Option<Attached>,
    ) -> Option<()> {
        let (mut recv, mut send) = (self.recv(), self.send());
        let attached = answer()?;
        self.leaves.notify_waiters();
        let mut stream = stream;
        // In front of everything else: no other task has the half yet.
        let frame = underpass_proto::frame::to_bytes(&attached);
        stream.send = Box::new(super::preface::Prefaced::new(stream.send, frame));
        self.install(shared, &mut recv, &mut send, stream);
        Some(())
    }

    fn install(&self, shared: &Shared, recv: &mut RecvIo, send: &mut SendIo, stream: BiStream) {
        let mut stream = stream;
        let (reads, class) =
            shared.core(|core| (core.recv_end(self.id).is_none(), core.class(self.id)));
        if let Some(class) = class {
            stream.send.prioritize(class);
        }
        recv.half = reads.then_some(stream.recv);
        send.half = Some(stream.send);
        send.unflushed = true;
        self.reader.wake();
        self.wake_writer();
    }

    fn take_early(&self, shared: &Shared, recv: &mut RecvIo, rest: Bytes) {
        let len = rest.len() as u64;
        if len > 0 && shared.check(|core| core.received(self.id, len, super::now()).map(|()| true))
        {
            recv.early = if recv.early.is_empty() {
                rest
            } else {
                [&recv.early[..], &rest].concat().into()
            };
        }
    }

    /// Gives back bytes that were read and belong to the application.
    pub(super) fn put_back(&self, bytes: Bytes) {
        self.recv().early = bytes;
    }

    /// Drops the halves: the session is over.
    pub(super) fn detach(&self) {
        self.leaves.notify_waiters();
        self.recv().half = None;
        self.send().half = None;
    }

    // --- reading ---

    /// The next bytes; `None` at the clean end.
    pub(crate) fn poll_read(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let mut recv = self.recv();
        if !recv.early.is_empty() {
            let len = recv.early.len().min(max);
            return Poll::Ready(Ok(Some(recv.early.split_to(len))));
        }
        self.poll_read_half(shared, cx, &mut recv, |half, cx| {
            half.poll_read_bytes(cx, max)
                .map_ok(|bytes| bytes.map(|bytes| (bytes.len(), bytes)))
        })
    }

    /// The next bytes as they came, in as many of `chunks` as it gives; `None` at the clean end.
    pub(crate) fn poll_read_chunks(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        let mut recv = self.recv();
        if !recv.early.is_empty()
            && let Some(first) = chunks.first_mut()
        {
            *first = std::mem::take(&mut recv.early);
            return Poll::Ready(Ok(Some(1)));
        }
        self.poll_read_half(shared, cx, &mut recv, |half, cx| {
            let filled = ready!(half.poll_read_chunks(cx, chunks))?;
            Poll::Ready(Ok(filled.map(|filled| {
                let chunks = chunks.iter().take(filled);
                (chunks.map(Bytes::len).sum(), filled)
            })))
        })
    }

    /// Reads from the stream's transport; `read` gives how many bytes that is.
    fn poll_read_half<T>(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
        recv: &mut RecvIo,
        read: impl FnOnce(
            &mut dyn RecvStream,
            &mut Context<'_>,
        ) -> Poll<Result<Option<(usize, T)>, HalfError>>,
    ) -> Poll<Result<Option<T>, StreamError>> {
        self.reader.register(cx.waker());
        if let Some(half) = recv.half.as_mut() {
            match read(half.as_mut(), cx) {
                Poll::Ready(Ok(Some((len, bytes)))) => {
                    let (len, now) = (len as u64, super::now());
                    if shared.check(|core| core.received(self.id, len, now).map(|()| true)) {
                        return Poll::Ready(Ok(Some(bytes)));
                    }
                }
                Poll::Ready(Ok(None)) => {
                    recv.half = None;
                    shared.with(|core| core.fin_received(self.id, super::now()));
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Err(HalfError::Malformed(error))) => {
                    recv.half = None;
                    shared.with(|core| core.stop(self.id, ResetCode::Internal, super::now()));
                    return Poll::Ready(Err(StreamError::Malformed(error)));
                }
                // The session knows how the stream ended, or another transport carries it on.
                Poll::Ready(Err(_)) => recv.half = None,
                Poll::Pending => {}
            }
        }
        self.poll_read_end(shared)
    }

    fn poll_read_end<T>(&self, shared: &Shared) -> Poll<Result<Option<T>, StreamError>> {
        let Some(end) = shared.recv_end(self.id) else {
            return Poll::Pending;
        };
        Poll::Ready(match end.map_err(StreamError::Session)? {
            RecvEnd::Ended => Ok(None),
            RecvEnd::Reset(code) => Err(StreamError::Reset(code)),
            RecvEnd::Refused(code, reason) => Err(StreamError::Refused { code, reason }),
            RecvEnd::Stopped => Err(StreamError::Finished),
        })
    }

    /// Waits until the peer has reset its direction, or the session has ended. For a task that cannot take the bytes before that.
    pub(crate) fn poll_reset(&self, shared: &Shared, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.reader.register(cx.waker());
        match self.poll_read_end::<()>(shared) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Reads no more.
    pub(crate) fn stop(&self, shared: &Shared, code: ResetCode) {
        let half = self.recv().half.take();
        shared.with(|core| core.stop(self.id, code, super::now()));
        if let Some(mut half) = half {
            half.stop(code);
        }
    }

    // --- writing ---

    /// Takes bytes that go with the application's next ones, or its end; or the link hands them over, when
    /// acknowledgements are due. A flush leaves them: hyper flushes before it has anything to say.
    pub(crate) fn poll_write_coalesced(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        self.writers.application.register(cx.waker());
        let now = super::now();
        let writable = shared.with(|core| {
            let writable = core.writable(self.id)?;
            if writable > 0 {
                let bytes = bytes.split_to(bytes.len().min(writable));
                core.write_coalesced(self.id, bytes, now);
            }
            Ok(writable)
        });
        match writable {
            Ok(0) => Poll::Pending,
            Ok(_) => Poll::Ready(Ok(())),
            Err(end) => Poll::Ready(Err(write_error(shared, end))),
        }
    }

    /// Takes bytes, which `take` gives for a number at the most; gives how many.
    pub(crate) fn poll_write(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
        take: impl FnOnce(usize) -> Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        let mut send = self.send();
        self.writers.application.register(cx.waker());
        let writable = ready!(self.poll_writable(shared, &mut send))?;
        // Without the session's lock: it may copy.
        let bytes = take(writable);
        let len = bytes.len();
        if send.half.is_some() {
            let chunk = shared.with(|core| core.write_and_next(self.id, bytes));
            // The next write or a flush hands over the rest.
            let _ = self.poll_hand_over(shared, &mut send, chunk);
        } else {
            shared.with(|core| core.write(self.id, bytes));
        }
        Poll::Ready(Ok(len))
    }

    /// Bytes that may be written, at least one, once everything that was written before is handed over.
    fn poll_writable(
        &self,
        shared: &Shared,
        send: &mut SendIo,
    ) -> Poll<Result<usize, StreamError>> {
        loop {
            let carried = send.half.is_some();
            let writable = shared.with(|core| {
                if carried {
                    core.write_action(self.id)
                } else {
                    core.writable(self.id).map(WriteAction::Write)
                }
            });
            match writable {
                Ok(WriteAction::HandOver(chunk)) => {
                    ready!(self.poll_hand_over(shared, send, chunk))
                }
                Ok(WriteAction::Write(0)) => return Poll::Pending,
                Ok(WriteAction::Write(writable)) => return Poll::Ready(Ok(writable)),
                Err(end) => return Poll::Ready(Err(write_error(shared, end))),
            }
        }
    }

    /// Hands over everything that was written. A session without a transport keeps it: that is as
    /// good.
    pub(crate) fn poll_flush(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.writers.application.register(cx.waker());
        ready!(self.poll_flush_half(shared));
        match self.writable(shared) {
            // To a peer that reads no more there is nothing to hand over: the next write hears it.
            Ok(_) | Err(StreamError::Finished | StreamError::Stopped(_)) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// As [`poll_flush`](Self::poll_flush), for a task beside the application's.
    pub(super) fn poll_pump(&self, shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
        self.writers.register_pump(cx.waker());
        self.poll_flush_half(shared)
    }

    /// Hands over all that waits on that leg. Ends with the leg: each has a pump of its own, and a peer that takes nothing would
    /// have each move leave one behind.
    pub(super) async fn pump(&self, shared: &Shared, leg: Leg) {
        tokio::select! {
            () = poll_fn(|cx| self.poll_pump(shared, cx)) => {}
            () = self.leaves(shared, leg) => {}
        }
    }

    /// The stream is no more.
    pub(super) fn is_forgotten(&self) {
        self.leaves.notify_waiters();
    }

    fn poll_flush_half(&self, shared: &Shared) -> Poll<()> {
        let mut send = self.send();
        if send.half.is_some() {
            let chunk = shared.with(|core| core.next_chunk(self.id));
            ready!(self.poll_hand_over(shared, &mut send, chunk));
        }
        if !send.unflushed {
            return Poll::Ready(());
        }
        if let Some(half) = send.half.as_mut() {
            let waker = self.writers.waker();
            if ready!(half.poll_flush(&mut Context::from_waker(&waker))).is_err() {
                send.half = None;
            }
        }
        send.unflushed = false;
        Poll::Ready(())
    }

    /// Ends the direction cleanly. Ready once the transport has the end, or there is none.
    pub(crate) fn poll_finish(
        &self,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        match self.writable(shared) {
            Ok(_) => shared.with(|core| core.finish(self.id)),
            // A peer that reads no more does not mind that nothing more comes.
            Err(StreamError::Finished | StreamError::Stopped(_)) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        self.poll_flush(shared, cx)
    }

    /// Waits until the peer takes no more bytes, or the session has ended. For a task that has none to write.
    pub(crate) fn poll_stopped(&self, shared: &Shared, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.writers.application.register(cx.waker());
        match self.writable(shared) {
            Ok(_) | Err(StreamError::Finished) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// Ends the direction early.
    pub(crate) fn reset(&self, shared: &Shared, code: ResetCode) {
        let half = self.send().half.take();
        shared.with(|core| core.reset(self.id, code));
        if let Some(mut half) = half {
            half.reset(code);
        }
    }

    /// Bytes that may be written.
    fn writable(&self, shared: &Shared) -> Result<usize, StreamError> {
        let writable = shared.with(|core| core.writable(self.id));
        writable.map_err(|end| write_error(shared, end))
    }

    /// Hands `chunk` and the following ones to the transport until it takes no more. Ready where
    /// nothing is left, or there is no transport.
    fn poll_hand_over(&self, shared: &Shared, send: &mut SendIo, mut chunk: Chunk) -> Poll<()> {
        let SendIo { half, unflushed } = send;
        let Some(transport) = half.as_mut() else {
            return Poll::Ready(());
        };
        if chunk == Chunk::Nothing {
            return Poll::Ready(());
        }
        let waker = self.writers.waker();
        let cx = &mut Context::from_waker(&waker);
        loop {
            *unflushed = true;
            let handed = match &mut chunk {
                Chunk::Nothing => return Poll::Ready(()),
                Chunk::Data(bytes) => {
                    let before = bytes.len();
                    let written = ready!(transport.poll_write_bytes(cx, bytes));
                    written.map(|()| before - bytes.len())
                }
                Chunk::Fin => ready!(transport.poll_finish(cx)).map(|()| 0),
            };
            chunk = match (handed, &chunk) {
                (Ok(_), Chunk::Fin) => {
                    shared.with(|core| core.fin_sent(self.id));
                    *half = None;
                    return Poll::Ready(());
                }
                (Ok(len), _) => shared.with(|core| core.sent_and_next(self.id, len)),
                // The session hears why, or goes on elsewhere.
                (Err(_), _) => {
                    *half = None;
                    return Poll::Ready(());
                }
            };
        }
    }
}

/// Why nothing more can be written, for the application.
fn write_error(shared: &Shared, end: WriteEnd) -> StreamError {
    match end {
        WriteEnd::Finished | WriteEnd::Over(SendEnd::Done) => StreamError::Finished,
        WriteEnd::Over(SendEnd::Reset(code)) => StreamError::Reset(code),
        WriteEnd::Over(SendEnd::Stopped(code)) => StreamError::Stopped(code),
        WriteEnd::Gone => match shared.ended() {
            Some(error) => StreamError::Session(error),
            None => StreamError::Finished,
        },
    }
}
