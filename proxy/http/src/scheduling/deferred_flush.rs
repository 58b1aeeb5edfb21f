//! One write for what many requests of an HTTP/2 connection have to say at once.
//!
//! h2 flushes after each DATA frame that it does not copy, which are those of 256 bytes and more. Straight on TLS, each of a
//! thousand watches' events would be a record and a system call of its own. Here its flushes wait for the end of the turn in
//! which the connection is driven, and in a burst that turn waits until others who were woken have had theirs.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf},
    time::Instant,
};

use underpass_core::limits;

/// A connection that is driven so many times more, each within this time after the last, is in a burst. The head and the body
/// of one answer drive it less often: a wait would only cost them one more turn.
const BURST: (u32, Duration) = (2, Duration::from_micros(100));

/// A byte stream that its driver ([`Batched`]) flushes, and no writer.
pub struct DeferredFlush<I>(Arc<Mutex<Inner<I>>>);

struct Inner<I> {
    io: BufWriter<I>,
    /// A flush's error, for the next call.
    failed: Option<io::Error>,
    /// The writer, where it waits for room. The stream below knows one waiter, and that is its driver once it has flushed.
    waits: Option<Waker>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Inner<I> {
    fn failure(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn remember_waiting<T>(&mut self, polled: &Poll<T>, cx: &Context<'_>) {
        if polled.is_pending() {
            self.waits = Some(cx.waker().clone());
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> DeferredFlush<I> {
    /// Two handles: for the writer, and for the driver.
    pub fn pair(io: I) -> (Self, Self) {
        let io = BufWriter::with_capacity(limits::FRONT_WRITE_BUFFER, io);
        let inner = Arc::new(Mutex::new(Inner {
            io,
            failed: None,
            waits: None,
        }));
        (Self(Arc::clone(&inner)), Self(inner))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<I>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready once nothing is left, which may be because it cannot be written.
    fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if let Err(error) = ready!(Pin::new(&mut inner.io).poll_flush(cx)) {
            inner.failed = Some(error);
        }
        Poll::Ready(())
    }

    fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    fn has_waiting_writer(&self) -> bool {
        self.lock().waits.is_some()
    }

    /// Wakes the writer, if it waits: its driver was woken in its place.
    fn wake_writer(&self) {
        let waits = self.lock().waits.take();
        if let Some(writer) = waits {
            writer.wake();
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for DeferredFlush<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        inner.failure()?;
        Pin::new(&mut inner.io).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DeferredFlush<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        inner.failure()?;
        let written = Pin::new(&mut inner.io).poll_write(cx, buf);
        inner.remember_waiting(&written, cx);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        inner.failure()?;
        let written = Pin::new(&mut inner.io).poll_write_vectored(cx, bufs);
        inner.remember_waiting(&written, cx);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().io.is_write_vectored()
    }

    /// At the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.lock().failure())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        inner.failure()?;
        let shut = Pin::new(&mut inner.io).poll_shutdown(cx);
        inner.remember_waiting(&shut, cx);
        shut
    }
}

/// Drives the speaker on a [`DeferredFlush`] stream, and flushes the stream.
pub struct Batched<I, C, T> {
    speaker: Pin<Box<C>>,
    io: DeferredFlush<I>,
    driven: Instant,
    /// Turns that have followed each other at once.
    streak: u32,
    /// Others have had their turn.
    waited: bool,
    /// The speaker's result, while its last bytes are written.
    ended: Option<T>,
}

impl<I, C, T> Batched<I, C, T> {
    /// `speaker` has the stream's other handle.
    pub fn new(io: DeferredFlush<I>, speaker: C) -> Self {
        Self {
            speaker: Box::pin(speaker),
            io,
            driven: Instant::now(),
            streak: 0,
            waited: false,
            ended: None,
        }
    }

    /// The driven future.
    pub fn speaker(&mut self) -> Pin<&mut C> {
        self.speaker.as_mut()
    }
}

impl<I, C, T> Future for Batched<I, C, T>
where
    I: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = T>,
    T: Unpin,
{
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let (turns, time) = BURST;
        if !std::mem::take(&mut this.waited) {
            let at_once = this.driven.elapsed() < time;
            this.streak = if at_once {
                this.streak.saturating_add(1)
            } else {
                0
            };
            if this.streak >= turns {
                this.waited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        // Twice, if the speaker has yet to hear that it is no use.
        for _ in 0..2 {
            // Only then: a writer that was woken for nothing would wake this task, which woke it again.
            if this.io.has_waiting_writer() && this.io.poll_empty(cx).is_ready() {
                this.io.wake_writer();
            }
            if this.ended.is_none()
                && let Poll::Ready(ended) = this.speaker.as_mut().poll(cx)
            {
                this.ended = Some(ended);
            }
            if this.io.poll_empty(cx).is_ready() {
                if let Some(ended) = this.ended.take() {
                    return Poll::Ready(ended);
                }
                // There is room again, and nothing below will say so.
                if this.io.has_waiting_writer() {
                    cx.waker().wake_by_ref();
                }
            }
            if !this.io.has_failed() {
                break;
            }
        }
        this.driven = Instant::now();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
    };

    use super::*;
    use crate::scheduling::on_wake::OnWake;

    /// Takes what is written piece by piece, unless it is blocked or broken, and never has anything to read.
    #[derive(Clone, Default)]
    struct Wire(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        written: Vec<usize>,
        blocked: bool,
        /// So many more writes until it is blocked.
        room: Option<usize>,
        broken: bool,
        /// The last one that was told that it is blocked, as a socket has it.
        waits: Option<Waker>,
    }

    impl Wire {
        fn set(&self, change: impl FnOnce(&mut State)) {
            let mut state = self.0.lock().unwrap();
            change(&mut state);
            if !state.blocked
                && let Some(waits) = state.waits.take()
            {
                waits.wake();
            }
        }

        fn written(&self) -> Vec<usize> {
            self.0.lock().unwrap().written.clone()
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let mut state = self.0.lock().unwrap();
            if state.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if state.blocked {
                state.waits = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.written.push(buf.len());
            if let Some(room) = &mut state.room {
                *room -= 1;
                state.blocked = *room == 0;
            }
            Poll::Ready(Ok(buf.len()))
        }

        /// As TLS has it, whose own bytes wait where the socket is full.
        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut state = self.0.lock().unwrap();
            if state.blocked {
                state.waits = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn batched<C: Future>(
        wire: Wire,
        speak: impl FnOnce(DeferredFlush<Wire>) -> C,
    ) -> Batched<Wire, C, C::Output> {
        let (io, driven) = DeferredFlush::pair(wire);
        Batched::new(driven, speak(io))
    }

    #[tokio::test]
    async fn frames_of_one_turn_are_one_write() {
        let wire = Wire::default();
        let mut batched = batched(wire.clone(), async |mut io| {
            for _ in 0..20 {
                io.write_all(&[1; 600]).await.unwrap();
                io.flush().await.unwrap();
            }
            assert_eq!(io.read_u8().await.map_err(|_| ()), Ok(0));
        });
        assert!((&mut batched).now_or_never().is_none());
        assert_eq!(wire.written(), [12_000]);
    }

    #[tokio::test]
    async fn what_is_large_is_not_copied() {
        let wire = Wire::default();
        batched(wire.clone(), async |mut io| {
            io.write_all(&[1; 9]).await.unwrap();
            io.write_all(&[2; limits::FRONT_WRITE_BUFFER])
                .await
                .unwrap();
        })
        .await;
        assert_eq!(wire.written(), [9, limits::FRONT_WRITE_BUFFER]);
    }

    #[tokio::test]
    async fn its_last_bytes_go_before_its_end() {
        let wire = Wire::default();
        wire.set(|state| state.blocked = true);
        let mut batched = batched(wire.clone(), async |mut io| {
            io.write_all(b"GOAWAY").await.unwrap();
            7
        });
        assert_eq!((&mut batched).now_or_never(), None);
        wire.set(|state| state.blocked = false);
        assert_eq!(batched.await, 7);
        assert_eq!(wire.written(), [6]);
    }

    /// A speaker that is only polled when it was woken itself, as a connection in an `InTask`.
    #[tokio::test(start_paused = true)]
    async fn the_speaker_goes_on_where_there_is_room_again() {
        let wire = Wire::default();
        let speaking = batched(wire.clone(), |mut io| {
            let mut speaker = OnWake::new(Box::pin(async move {
                for _ in 0..8 * limits::FRONT_WRITE_BUFFER / 512 {
                    io.write_all(&[1; 512]).await.unwrap();
                }
            }));
            poll_fn(move |cx| speaker.poll(cx))
        });
        let speaking = tokio::spawn(speaking);
        for blocked in [true, false, true, false] {
            wire.set(|state| state.blocked = blocked);
            tokio::task::yield_now().await;
        }
        let ended = tokio::time::timeout(Duration::from_secs(1), speaking).await;
        ended.expect("it goes on").unwrap();
        let written: usize = wire.written().iter().sum();
        assert_eq!(written, 8 * limits::FRONT_WRITE_BUFFER);
    }

    /// A client that reads slowly: the connection is driven when there is room, and not all the time until then.
    #[test]
    fn a_connection_that_waits_for_room_sleeps() {
        for size in [512, 4 * limits::FRONT_WRITE_BUFFER] {
            let wire = Wire::default();
            let mut speaking = batched(wire.clone(), |mut io| {
                let mut speaker = OnWake::new(Box::pin(async move {
                    loop {
                        io.write_all(&vec![1; size]).await.unwrap();
                    }
                }));
                poll_fn(move |cx| speaker.poll(cx))
            });
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let mut drive = || {
                let polled = Pin::new(&mut speaking).poll(&mut Context::from_waker(&waker));
                assert!(matches!(polled, Poll::<()>::Pending));
                wakes.0.swap(0, Ordering::Relaxed)
            };
            wire.set(|state| state.blocked = true);
            drive();
            for _ in 0..2 * BURST.0 {
                // A burst is the only reason left.
                std::thread::sleep(2 * BURST.1);
                assert_eq!(drive(), 0, "{size}");
            }
            let before = wire.written().len();
            wire.set(|state| state.blocked = false);
            assert!(wakes.0.load(Ordering::Relaxed) > 0, "there is room");
            std::thread::sleep(2 * BURST.1);
            wire.set(|state| state.room = Some(3));
            drive();
            assert_eq!(wire.written().len(), before + 3);
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn the_speaker_hears_that_it_cannot_be_written() {
        let wire = Wire::default();
        wire.set(|state| state.broken = true);
        let heard = batched(wire, async |mut io| {
            io.write_all(b"HEADERS").await.unwrap();
            io.flush().await.unwrap();
            io.read_u8().await.map_err(|error| error.kind())
        });
        assert_eq!(heard.await, Err(io::ErrorKind::BrokenPipe));
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_burst_others_have_their_turn_first() {
        let (wire, events) = (Wire::default(), Arc::new(Notify::new()));
        let more = Arc::clone(&events);
        let mut batched = batched(wire.clone(), async move |mut io| {
            loop {
                more.notified().await;
                io.write_all(&[1; 600]).await.unwrap();
                io.flush().await.unwrap();
            }
        });
        let mut turn = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut batched).poll(cx))).await;
        let (turns, time) = BURST;
        let mut events_seen = 0;
        for _ in 1..turns {
            assert_eq!(turn().await, Poll::<()>::Pending);
            assert_eq!(wire.written().len(), events_seen, "so far it goes at once");
            events.notify_one();
            events_seen += 1;
        }
        assert_eq!(turn().await, Poll::Pending, "it comes again by itself");
        assert_eq!(wire.written().len(), events_seen - 1, "others go first");
        assert_eq!(turn().await, Poll::Pending);
        assert_eq!(wire.written().len(), events_seen);

        tokio::time::advance(time).await;
        events.notify_one();
        assert_eq!(turn().await, Poll::Pending);
        assert_eq!(wire.written().len(), events_seen + 1, "the burst is over");
    }
}
