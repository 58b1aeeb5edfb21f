//! A queue of events, in front of something that may be slow.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use underpass_core::{BoxError, limits};

/// The wait after a sink has failed, and the maximum of its doublings.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// The duration of a write after which its sink counts as stuck: as long as a call waits for room.
const STUCK: Duration = Duration::from_secs(10);

/// How long events gather behind others that have just been written: a write mostly wakes a thread and makes a system call, and
/// a busy client would wait for both in each call.
const GATHER: Duration = Duration::from_millis(20);

/// Where events end: a file, a stream, a service.
#[async_trait]
pub trait Sink: Send {
    /// Writes events, each a JSON object without a line's end. All of them, or none as far as can be seen: failed ones are
    /// tried again.
    ///
    /// # Errors
    /// They could not be written now.
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError>;
}

/// The behaviour while a sink is slower than the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// New calls wait until there is room, and are refused when there is none for some seconds: no call goes unwritten.
    Block,
    /// Events are dropped, and counted (`underpass_audit_dropped_total`). For sinks that may be slow or away, such as services:
    /// no call ever waits for them.
    Drop,
}

/// How a backend behaves.
#[derive(Clone, Copy, Debug)]
pub struct BackendConfig {
    /// Events that may wait. With [`Full::Block`] those of calls that had begun come on top.
    pub capacity: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// The behaviour beyond it.
    pub full: Full,
    /// The most events that a sink is given at once.
    pub batch: usize,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            bytes: limits::AUDIT_QUEUE_BYTES,
            full: Full::Block,
            batch: 400,
        }
    }
}

/// One sink and its queue. The events go to it in a task of their own, in order.
#[derive(Clone, Debug)]
pub struct Backend {
    config: BackendConfig,
    name: &'static str,
    queue: mpsc::UnboundedSender<Bytes>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: AtomicUsize,
    bytes: AtomicUsize,
    /// Some were written.
    written: Notify,
    /// As many wait as a sink is given at once.
    full: Notify,
    /// The last write failed.
    failing: AtomicBool,
    /// When the write in progress began, its repetitions included.
    writing: Mutex<Option<Instant>>,
}

impl Backend {
    /// Starts the task; `name` is the backend's in metrics and logs. It ends with the last clone.
    pub fn start(name: &'static str, sink: Box<dyn Sink>, config: BackendConfig) -> Self {
        let (queue, events) = mpsc::unbounded_channel();
        let state = Arc::new(State::default());
        tokio::spawn(run(name, sink, events, Arc::clone(&state), config.batch));
        Self {
            config,
            name,
            queue,
            state,
        }
    }

    /// Waits until the task that writes has ended, by a panic of the sink or with the runtime: nothing is written any more.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Events that were not written yet.
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::Acquire)
    }

    /// Whether its sink takes events: the last write did not fail, and none takes longer than a call waits for room.
    pub fn is_writable(&self) -> bool {
        !self.state.failing.load(Ordering::Acquire)
            && self
                .state
                .writing()
                .is_none_or(|begun| begun.elapsed() < STUCK)
    }

    /// Whether calls are refused while its sink takes no events.
    pub(super) fn blocks(&self) -> bool {
        self.config.full == Full::Block
    }

    /// Queues an event. Where there is no room it is dropped if the backend drops, and also if it `may_drop`: that of
    /// a call that never began, which did not wait for room and of which there may be any number.
    pub(super) fn put(&self, event: Bytes, may_drop: bool) {
        if (may_drop || self.config.full == Full::Drop) && !self.has_room() {
            metrics::counter!("underpass_audit_dropped_total", "sink" => self.name).increment(1);
            return;
        }
        let length = event.len();
        self.state.bytes.fetch_add(length, Ordering::AcqRel);
        let before = self.state.waiting.fetch_add(1, Ordering::AcqRel);
        if before.saturating_add(1) == self.config.batch {
            self.state.full.notify_one();
        }
        if self.queue.send(event).is_err() {
            // Its task was dropped with the runtime.
            self.state.done(1, length);
        }
    }

    fn has_room(&self) -> bool {
        self.has_room_and(1)
    }

    /// Room within so many times its bounds.
    fn has_room_and(&self, times: usize) -> bool {
        let (waiting, bytes) = (self.waiting(), self.state.bytes.load(Ordering::Acquire));
        waiting < self.config.capacity.saturating_mul(times)
            && bytes < self.config.bytes.saturating_mul(times)
    }

    /// Waits until a call may begin.
    pub(super) async fn ready(&self) {
        if self.config.full == Full::Block {
            self.until(|| self.has_room()).await;
        }
    }

    /// The same for a call that may be a revocation: it has as much room again.
    pub(super) async fn ready_to_revoke(&self) {
        if self.config.full == Full::Block {
            self.until(|| self.has_room_and(2)).await;
        }
    }

    /// Waits until everything is written.
    pub(super) async fn flushed(&self) {
        self.until(|| self.waiting() == 0).await;
    }

    async fn until(&self, there: impl Fn() -> bool) {
        loop {
            let written = self.state.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if there() {
                return;
            }
            written.await;
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

impl State {
    fn writing(&self) -> Option<Instant> {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_writing(&self, begun: Option<Instant>) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    fn done(&self, events: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.waiting.fetch_sub(events, Ordering::AcqRel);
        self.written.notify_waiters();
    }

    /// Waits until then, or until a batch is full. The queue is not polled meanwhile: an event wakes no task.
    async fn gather(&self, batch: usize, until: Instant) {
        if self.waiting.load(Ordering::Acquire) < batch {
            let _ = tokio::time::timeout_at(until, self.full.notified()).await;
        }
    }
}

async fn run(
    name: &'static str,
    mut sink: Box<dyn Sink>,
    mut events: mpsc::UnboundedReceiver<Bytes>,
    state: Arc<State>,
    batch: usize,
) {
    let batch = batch.max(1);
    let mut next = Vec::with_capacity(batch);
    let mut gathered = Instant::now();
    while events.recv_many(&mut next, batch).await > 0 {
        state.gather(batch, gathered).await;
        while next.len() < batch
            && let Ok(event) = events.try_recv()
        {
            next.push(event);
        }
        state.set_writing(Some(Instant::now()));
        write(name, sink.as_mut(), &next, &state.failing).await;
        state.set_writing(None);
        gathered = Instant::now() + GATHER;
        let count = next.len();
        metrics::counter!("underpass_audit_events_total", "sink" => name).increment(count as u64);
        let bytes = next.iter().map(Bytes::len).sum();
        next.clear();
        state.done(count, bytes);
    }
}

/// Until it succeeds.
async fn write(name: &'static str, sink: &mut dyn Sink, events: &[Bytes], failing: &AtomicBool) {
    let mut again = AGAIN;
    while let Err(error) = sink.write(events).await {
        metrics::counter!("underpass_audit_errors_total", "sink" => name).increment(1);
        if !failing.swap(true, Ordering::AcqRel) {
            let error: &dyn std::error::Error = &*error;
            tracing::error!(sink = name, error, "the audit log cannot be written");
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
    if failing.swap(false, Ordering::AcqRel) {
        tracing::info!(sink = name, "the audit log is written again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use underpass_http::scheduling::testing::counted;

    /// Keeps how many events came at once, and when.
    #[derive(Clone, Default)]
    struct Batches(Arc<Mutex<Vec<(usize, Instant)>>>);

    #[async_trait]
    impl Sink for Batches {
        async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
            self.0.lock().unwrap().push((events.len(), Instant::now()));
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_gather_behind_one_that_was_written() {
        let (batches, begun) = (Batches::default(), Instant::now());
        let sink = Box::new(batches.clone());
        let backend = Backend::start("test", sink, BackendConfig::default());
        for _ in 0..4 {
            backend.put(Bytes::from_static(b"{}"), false);
            tokio::time::sleep(GATHER / 5).await;
        }
        backend.flushed().await;
        tokio::time::sleep(GATHER).await;
        backend.put(Bytes::from_static(b"{}"), false);
        backend.flushed().await;
        let written = batches.0.lock().unwrap().clone();
        let at_once = |time: Duration| time < Duration::from_millis(2);
        assert_eq!(
            written.iter().map(|(len, _)| *len).collect::<Vec<_>>(),
            [1, 3, 1]
        );
        assert!(at_once(written[0].1 - begun), "{written:?}");
        assert!(at_once(written[1].1 - written[0].1 - GATHER), "{written:?}");
        assert!(at_once(written[2].1 - written[1].1 - GATHER), "{written:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_gathers_wakes_nobody() {
        let (queue, events) = mpsc::unbounded_channel();
        let (state, turns) = (Arc::new(State::default()), Arc::new(AtomicUsize::new(0)));
        let config = BackendConfig::default();
        let sink = Box::new(Batches::default());
        let running = run("test", sink, events, Arc::clone(&state), config.batch);
        let count = Arc::clone(&turns);
        tokio::spawn(async move { counted(&count, running).await });
        let backend = Backend {
            config,
            name: "test",
            queue,
            state,
        };
        backend.put(Bytes::from_static(b"{}"), false);
        backend.flushed().await;
        let before = turns.load(Ordering::Relaxed);
        for _ in 0..100 {
            backend.put(Bytes::from_static(b"{}"), false);
            tokio::task::yield_now().await;
        }
        backend.flushed().await;
        // For the first event, at the end of the time, and for later events.
        let turns = turns.load(Ordering::Relaxed) - before;
        assert!(turns <= 3, "{turns}");
    }

    /// Fails, stands still, or works, as it is told.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<Option<Outage>>>);

    #[derive(Clone, Copy)]
    enum Outage {
        Full,
        Hangs,
    }

    #[async_trait]
    impl Sink for Disk {
        async fn write(&mut self, _: &[Bytes]) -> Result<(), BoxError> {
            let outage = *self.0.lock().unwrap();
            match outage {
                None => Ok(()),
                Some(Outage::Full) => Err("no space left".into()),
                Some(Outage::Hangs) => {
                    tokio::time::sleep(4 * STUCK).await;
                    Ok(())
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_fails_or_hangs_is_not_writable_until_it_works_again() {
        let disk = Disk::default();
        let backend = Backend::start("test", Box::new(disk.clone()), BackendConfig::default());
        assert!(backend.is_writable());
        *disk.0.lock().unwrap() = Some(Outage::Full);
        backend.put(Bytes::from_static(b"{}"), false);
        tokio::time::sleep(GATHER).await;
        assert!(!backend.is_writable(), "the disk is full");
        *disk.0.lock().unwrap() = None;
        backend.flushed().await;
        assert!(backend.is_writable(), "the disk has room again");

        *disk.0.lock().unwrap() = Some(Outage::Hangs);
        backend.put(Bytes::from_static(b"{}"), false);
        tokio::time::sleep(STUCK / 2).await;
        assert!(backend.is_writable(), "a slow write is none that fails");
        tokio::time::sleep(STUCK).await;
        assert!(!backend.is_writable(), "the disk hangs");
        backend.flushed().await;
        assert!(backend.is_writable(), "the disk works again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_waits_for_nothing() {
        let (batches, begun) = (Batches::default(), Instant::now());
        let config = BackendConfig {
            batch: 2,
            ..BackendConfig::default()
        };
        let backend = Backend::start("test", Box::new(batches.clone()), config);
        for _ in 0..6 {
            backend.put(Bytes::from_static(b"{}"), false);
        }
        backend.flushed().await;
        assert_eq!(batches.0.lock().unwrap().len(), 3);
        assert!(begun.elapsed() < GATHER, "{:?}", begun.elapsed());
    }
}
