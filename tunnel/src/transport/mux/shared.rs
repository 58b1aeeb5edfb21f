//! State shared by a connection's driver and its streams.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use underpass_proto::mux::{Event, Key, Mux};

use crate::transport::TransportError;

/// The multiplexer, and the wakers.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// A task may take a stream, or hear that none will come.
    pub(super) opened: Notify,
    /// How the connection ended. Set once, and read without the lock.
    ended: OnceLock<TransportError>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) mux: Mux,
    /// By key.
    waiting: Vec<Waiting>,
    /// The driver, while it has nothing to send.
    driver: Option<Waker>,
}

/// The wakers of one stream, one at most for each half.
#[derive(Debug, Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    pub(super) fn new(mux: Mux) -> Self {
        Self {
            state: Mutex::new(State {
                mux,
                waiting: Vec::new(),
                driver: None,
            }),
            opened: Notify::new(),
            ended: OnceLock::new(),
        }
    }

    /// Changes the multiplexer, then wakes the tasks that wait for its events.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        let mut wake = Wake::default();
        while let Some(event) = state.mux.poll_event() {
            match event {
                Event::Opened => wake.opened += 1,
                Event::Readable(key) => wake.add(state.waiting(key).reader.take()),
                Event::Writable(key) => wake.add(state.waiting(key).writer.take()),
            }
        }
        if state.mux.has_frames() {
            wake.add(state.driver.take());
        }
        // Woken tasks want the lock.
        drop(state);
        for _ in 0..wake.opened {
            self.opened.notify_one();
        }
        wake.wake();
        result
    }

    /// The connection has ended: the first reason stays, and all tasks hear of it.
    pub(super) fn end(&self, error: TransportError) {
        let _ = self.ended.set(error);
        let mut wake = Wake::default();
        for waiting in &mut self.lock().waiting {
            wake.add(waiting.reader.take());
            wake.add(waiting.writer.take());
        }
        self.opened.notify_waiters();
        wake.wake();
    }

    pub(super) fn ended(&self) -> Option<&TransportError> {
        self.ended.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics by design; at worst a panic breaks a stream.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The reader of `key` found nothing.
    pub(super) fn wait_to_read(&mut self, key: Key, cx: &Context<'_>) {
        register(&mut self.waiting(key).reader, cx);
    }

    /// The writer of `key` found no room.
    pub(super) fn wait_to_write(&mut self, key: Key, cx: &Context<'_>) {
        register(&mut self.waiting(key).writer, cx);
    }

    /// The driver found nothing to send.
    pub(super) fn wait_to_send(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
    }

    /// The writing half of `key` is gone, and its waker with it: the key may soon be another
    /// stream's.
    pub(super) fn release_send(&mut self, key: Key) {
        self.waiting(key).writer = None;
        self.mux.release_send(key);
    }

    /// The same for the reading half.
    pub(super) fn release_recv(&mut self, key: Key) {
        self.waiting(key).reader = None;
        self.mux.release_recv(key);
    }

    fn waiting(&mut self, key: Key) -> &mut Waiting {
        let index = key.index();
        if self.waiting.len() <= index {
            self.waiting.resize_with(index + 1, Waiting::default);
        }
        // It was just made long enough.
        #[allow(clippy::indexing_slicing, reason = "the line above makes it that long")]
        &mut self.waiting[index]
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// Wakers to call once the lock is free. In the ordinary case that is one.
#[derive(Default)]
struct Wake {
    opened: usize,
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wake {
    fn add(&mut self, waker: Option<Waker>) {
        let Some(waker) = waker else { return };
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.more.push(waker),
        }
    }

    fn wake(self) {
        for waker in self.first.into_iter().chain(self.more) {
            waker.wake();
        }
    }
}
