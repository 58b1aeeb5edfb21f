//! The recorder of a shell: an attendant that never writes, and hears everything with its time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::audience::{Recorded, RecordedPlace, RecorderId};
use crate::record::{End, Fault};
use crate::shell::Shell;
use crate::size::Size;

/// The recorder of a shell. Dropped, it is away, and another one goes on.
///
/// The program waits for it: output stays until the recorder has said by [`Acks::ack`] that it has written it down. Where the recording
/// is required, that holds while it is away as well.
pub struct Recorder {
    seat: Arc<Seat>,
    at: RecordedPlace,
    age: Duration,
    is_over: bool,
}

/// A recorder's word on what it has written down. Clones are the same.
#[derive(Clone)]
pub struct Acks(Arc<Seat>);

/// An event for the recorder. Times count from the shell's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecorderEvent {
    /// The next output, unchanged: it may be cut in the midst of a character.
    Output(Duration, Vec<u8>),
    /// The next input, where it is recorded.
    Input(Duration, Vec<u8>),
    /// The terminal has another size from here on. It may be told again to a recorder that comes back.
    Resized(Duration, Size),
    /// Another recorder has taken its place, or it wrote nothing down for [`limits::STALLED`](crate::limits::STALLED) while the program
    /// waited for it. This is the last event.
    Dismissed,
    /// The shell has ended. This is the last event.
    Ended(Duration, End),
}

struct Seat {
    shell: Arc<Shell>,
    id: RecorderId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shell.leave_unrecorded(self.id);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Recorder");
        text.field("shell", &self.seat.shell.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_tuple("Acks");
        text.field(&self.0.shell.id).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(crate) fn new(shell: Arc<Shell>, had: RecordedPlace) -> Self {
        let (id, at, age) = shell.record_from(had);
        Self {
            seat: Arc::new(Seat { shell, id }),
            at,
            age,
            is_over: false,
        }
    }

    /// The place at which it goes on.
    pub fn at(&self) -> RecordedPlace {
        self.at
    }

    /// The time since the shell's beginning, when it was attached.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Its word on what it has written down.
    pub fn acks(&self) -> Acks {
        Acks(Arc::clone(&self.seat))
    }

    /// The next event, each once and in order; `None` behind the last one.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<RecorderEvent> {
        if self.is_over {
            return None;
        }
        let Seat { shell, id } = &*self.seat;
        loop {
            let mut heard = std::pin::pin!(shell.heard.notified());
            heard.as_mut().enable();
            let told = shell.audience().tell_recorder(*id);
            let event = match told {
                Recorded::Wait => {
                    heard.await;
                    continue;
                }
                Recorded::Output(at, data) => RecorderEvent::Output(at, data),
                Recorded::Input(at, data) => RecorderEvent::Input(at, data),
                Recorded::Resized(at, size) => RecorderEvent::Resized(at, size),
                Recorded::Dismissed => RecorderEvent::Dismissed,
                Recorded::Ended(at, end) => RecorderEvent::Ended(at, end),
            };
            self.is_over = matches!(event, RecorderEvent::Dismissed | RecorderEvent::Ended(..));
            return Some(event);
        }
    }
}

impl Acks {
    /// The recorder has written down everything before this place. A place that was not sent yet counts as the last one that was.
    pub fn ack(&self, had: RecordedPlace) {
        let Self(seat) = self;
        seat.shell.ack(seat.id, had);
    }

    /// The shell ends at once, for this reason: it must not go on without its recording.
    pub fn end(&self, fault: Fault) {
        let Self(seat) = self;
        seat.shell.end_unrecordable(seat.id, fault);
    }
}
