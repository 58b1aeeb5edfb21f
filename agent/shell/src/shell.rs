//! One shell: its terminal, its viewers, its screen.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use underpass_agent_policy::ShellRule;

use crate::audience::{
    Audience, Next, Place, RecordedPlace, RecorderId, Recording, ViewerId, Writes,
};
use crate::error::{AttachError, InputError};
use crate::protection::Lack;
use crate::pty::Master;
use crate::record::{Cause, End, Fault, Owner, ShellId, ShellRecord};
use crate::screen::Screen;
use crate::size::Size;
use crate::{Attach, limits};

#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) id: ShellId,
    pub(crate) rule: Arc<ShellRule>,
    pub(crate) owner: Owner,
    created: OffsetDateTime,
    /// Known once its program has started.
    guarded: OnceLock<Guarded>,
    /// `None` once it has ended.
    terminal: Mutex<Option<Arc<Master>>>,
    audience: Mutex<Audience>,
    /// Locked by threads that may block alone, and before the audience.
    screen: Mutex<Screen>,
    /// There is something to hear for viewers, or another writer.
    pub(crate) heard: Notify,
    /// A viewer has taken something, or left.
    pub(crate) took: Notify,
    /// The last viewer has left.
    pub(crate) left: Notify,
    asked: watch::Sender<Option<Cause>>,
    /// The permission for it was taken back.
    pub(crate) revoked: CancellationToken,
    /// It is to end without waiting for viewers.
    pub(crate) hurry: CancellationToken,
    /// Held by the viewer that is let in.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// The uid of a shell, and the protections that it lacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guarded {
    pub(crate) uid: Option<u32>,
    pub(crate) lacks: Vec<Lack>,
}

/// The work of one turn of the screen's model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    /// Whether the model shows all output that there is.
    pub(crate) is_all: bool,
    /// Processor time.
    pub(crate) took: Duration,
}

/// A viewer that has just been let in.
pub(crate) struct Admitted {
    pub(crate) viewer: ViewerId,
    pub(crate) at: u64,
    pub(crate) size: Size,
    pub(crate) redraw: Option<Vec<u8>>,
    pub(crate) is_writer: bool,
}

impl Shell {
    pub(crate) fn new(
        rule: &Arc<ShellRule>,
        owner: Owner,
        size: Size,
        recording: Option<Recording>,
        master: Master,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: ShellId::random(),
            rule: Arc::clone(rule),
            owner,
            created: OffsetDateTime::now_utc(),
            guarded: OnceLock::new(),
            terminal: Mutex::new(Some(Arc::new(master))),
            audience: Mutex::new(Audience::new(size, recording, Instant::now())),
            screen: Mutex::new(Screen::new(size)),
            heard: Notify::new(),
            took: Notify::new(),
            left: Notify::new(),
            asked: watch::Sender::new(None),
            revoked: CancellationToken::new(),
            hurry: CancellationToken::new(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn audience(&self) -> MutexGuard<'_, Audience> {
        lock(&self.audience)
    }

    pub(crate) fn terminal(&self) -> Option<Arc<Master>> {
        lock(&self.terminal).clone()
    }

    pub(crate) fn record(&self) -> ShellRecord {
        let Guarded { uid, lacks } = self.guarded.get().cloned().unwrap_or_default();
        let audience = self.audience();
        ShellRecord {
            id: self.id.clone(),
            kind: self.rule.kind(),
            owner: self.owner.clone(),
            created: self.created,
            size: audience.size(),
            output: audience.output(),
            viewers: audience.viewers(),
            missing: lacks.iter().map(|lack| lack.protection).collect(),
            lacks,
            uid,
            recording: audience.recording(),
            end: audience.end(),
        }
    }

    pub(crate) fn note_guarded(&self, guarded: Guarded) {
        // It starts once.
        let _ = self.guarded.set(guarded);
    }

    /// Has it ended with the permission for it? Its user's name may be another user's by then, who must not see its screen.
    pub(crate) fn is_hidden(&self) -> bool {
        let end = self.audience().end();
        end.is_some_and(|end| end.cause == Cause::Revoked)
    }

    /// Lets a recorder in that has written so much down.
    pub(crate) fn record_from(&self, had: RecordedPlace) -> (RecorderId, RecordedPlace, Duration) {
        let mut audience = self.audience();
        let (id, at) = audience.attach_recorder(had, Instant::now());
        let is_required = audience.recording().is_some_and(|how| how.required);
        let age = audience.age(Instant::now());
        drop(audience);
        // The one before is told.
        self.heard.notify_waiters();
        self.took.notify_one();
        if is_required && at != had {
            self.ask_end(Cause::Unrecorded);
        }
        (id, at, age)
    }

    pub(crate) fn leave_unrecorded(&self, recorder: RecorderId) {
        self.audience().detach_recorder(recorder);
        self.took.notify_one();
    }

    /// A recorder has written everything before this place down.
    pub(crate) fn ack(&self, recorder: RecorderId, had: RecordedPlace) {
        self.audience().ack(recorder, had, Instant::now());
        self.took.notify_one();
        // Input may wait for room.
        self.heard.notify_waiters();
    }

    /// A recorder, if it is the newest one, has the shell end.
    pub(crate) fn end_unrecordable(&self, recorder: RecorderId, fault: Fault) {
        if self.audience().is_recorder(recorder) {
            self.ask_end(Cause::Unrecordable(fault));
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.audience().end().is_some()
    }

    /// Waits until it has ended.
    pub(crate) async fn until_ended(&self) {
        loop {
            let mut heard = std::pin::pin!(self.heard.notified());
            heard.as_mut().enable();
            if self.has_ended() {
                return;
            }
            heard.await;
        }
    }

    /// Has it end. The first to ask says why.
    pub(crate) fn ask_end(&self, cause: Cause) {
        if cause == Cause::Revoked {
            self.revoked.cancel();
        }
        // Where its recording does not go on, nothing makes room for what its program would print yet.
        let hurries = matches!(
            cause,
            Cause::Revoked | Cause::Stopping | Cause::Unrecorded | Cause::Unrecordable(_)
        );
        if hurries {
            self.hurry.cancel();
        }
        self.asked.send_if_modified(|asked| {
            let is_first = asked.is_none();
            if is_first {
                *asked = Some(cause);
            }
            is_first
        });
    }

    /// Waits until its end is asked for.
    pub(crate) async fn end_asked(&self) -> Cause {
        let mut asked = self.asked.subscribe();
        let cause = asked.wait_for(Option::is_some).await;
        match cause.ok().and_then(|cause| *cause) {
            Some(cause) => cause,
            None => std::future::pending().await,
        }
    }

    /// It has ended, and all of its output is there.
    pub(crate) fn finish(&self, end: End) {
        self.audience().finish(end, Instant::now());
        *lock(&self.terminal) = None;
        self.heard.notify_waiters();
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        self.audience().push(bytes, Instant::now());
        self.heard.notify_waiters();
    }

    /// Brings the screen's model nearer to the output that there is. Blocks.
    pub(crate) fn show(&self) -> Shown {
        let mut screen = lock(&self.screen);
        self.catch_up(&mut screen)
    }

    /// The same, for one turn.
    fn catch_up(&self, screen: &mut Screen) -> Shown {
        let before = processor_time();
        loop {
            let next = self.audience().model_next();
            let is_all = next == Next::Nothing;
            match next {
                Next::Output(data) => screen.feed(&data),
                Next::Resized(size) => screen.resize(size),
                Next::Nothing => {}
            }
            let took = processor_time().saturating_sub(before);
            if is_all || took >= limits::SCREEN_TURN {
                return Shown { is_all, took };
            }
        }
    }

    /// Lets a viewer in: behind the bytes that it has had already, or with the screen as it is. One screen of all shells is redrawn
    /// at a time: the sequences of a large one take some ten MiB. Blocks.
    pub(crate) fn admit(
        &self,
        attach: Attach,
        redrawing: &Mutex<()>,
    ) -> Result<Admitted, AttachError> {
        let Attach { writes, size, had } = attach;
        let will_write = self.audience().would_write(writes)?;
        if let Some(size) = size.filter(|_| will_write) {
            self.resize(size);
        }
        let resumed = {
            let mut audience = self.audience();
            let place = had.and_then(|byte| audience.place_at(byte));
            place.map(|place| self.seat(&mut audience, place, writes, None))
        };
        match resumed {
            Some(resumed) => resumed,
            None => {
                let mut screen = lock(&self.screen);
                // Output that the model does not show after its turn comes as output.
                self.catch_up(&mut screen);
                let redraw = {
                    let _one = lock(redrawing);
                    screen.redraw()
                };
                let mut audience = self.audience();
                // The bytes of a character that has only begun come once more, and then whole.
                let place = audience.model_place().before(screen.begun());
                self.seat(&mut audience, place, writes, Some((redraw, screen.size())))
            }
        }
    }

    fn seat(
        &self,
        audience: &mut Audience,
        place: Place,
        writes: Writes,
        screen: Option<(Vec<u8>, Size)>,
    ) -> Result<Admitted, AttachError> {
        let viewer = audience.attach(place, writes, Instant::now())?;
        // The viewer that wrote before may be told now.
        self.heard.notify_waiters();
        let (redraw, size) = match screen {
            Some((redraw, size)) => (Some(redraw), size),
            None => (None, audience.size()),
        };
        Ok(Admitted {
            viewer,
            at: place.byte,
            size,
            redraw,
            is_writer: audience.is_writer(viewer),
        })
    }

    pub(crate) fn leave(&self, viewer: ViewerId) {
        self.audience().leave(viewer, Instant::now());
        self.took.notify_one();
        self.left.notify_one();
        self.heard.notify_waiters();
    }

    /// Gives the terminal another size.
    fn resize(&self, size: Size) {
        let mut audience = self.audience();
        audience.resize(size, Instant::now());
        let resized = lock(&self.terminal)
            .as_ref()
            .map(|master| master.resize(size));
        drop(audience);
        if let Some(Err(error)) = resized {
            tracing::debug!(id = %self.id, "a terminal takes no other size: {error}");
        }
        self.heard.notify_waiters();
    }

    pub(crate) fn resize_by(&self, viewer: ViewerId, size: Size) -> Result<(), InputError> {
        self.audience().check_writer(viewer)?;
        self.resize(size);
        Ok(())
    }

    pub(crate) fn take_over(&self, viewer: ViewerId, size: Option<Size>) -> Result<(), InputError> {
        self.audience().take_over(viewer)?;
        self.heard.notify_waiters();
        if let Some(size) = size {
            self.resize(size);
        }
        Ok(())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
