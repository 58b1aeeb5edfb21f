//! The viewers of a shell, and each one's place in its output. Knows no clock and no terminal.
//!
//! The output is kept once, in a [`Ring`], and each viewer is a place in it: no viewer has a queue. The ring has room for so
//! much as the viewer that is furthest behind has taken, and for all of it where there is no viewer.

#[cfg(test)]
mod recorded_tests;
mod tape;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{AttachError, InputError};
use crate::limits;
use crate::record::End;
use crate::ring::{self, Ring};
use crate::size::Size;

pub(crate) use self::tape::RecorderId;
use self::tape::Tape;
pub use self::tape::{RecordedPlace, Recording};

/// A viewer of one shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ViewerId(u64);

/// A place in the output, and in the changes of the size beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) byte: u64,
    /// The number of the next change.
    change: u64,
}

impl Place {
    /// The place so many bytes before, with the sizes that are known here.
    pub(crate) fn before(self, bytes: usize) -> Self {
        let byte = self.byte.saturating_sub(ring::length(bytes));
        Self { byte, ..self }
    }
}

/// The next thing at a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Output(Vec<u8>),
    Resized(Size),
    Nothing,
}

/// The next thing that a viewer hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Output {
        at: u64,
        data: Vec<u8>,
    },
    Resized(Size),
    /// Another viewer writes now.
    TakenOver,
    /// It took nothing for too long.
    Dismissed,
    Ended(End),
    /// Nothing yet.
    Wait,
}

/// The next thing that the recorder hears, with the time since the shell's beginning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Output(Duration, Vec<u8>),
    Input(Duration, Vec<u8>),
    Resized(Duration, Size),
    Ended(Duration, End),
    /// Another recorder has taken its place, or it took nothing for too long.
    Dismissed,
    /// Nothing yet.
    Wait,
}

/// The terminal had another size from some byte on.
#[derive(Debug)]
struct Change {
    number: u64,
    at: u64,
    size: Size,
    came: Instant,
}

#[derive(Debug)]
struct Seat {
    place: Place,
    /// When it took something, or had taken everything.
    moved: Instant,
    was_taken_over: bool,
    is_dismissed: bool,
}

#[derive(Debug)]
pub(crate) struct Audience {
    ring: Ring,
    size: Size,
    changes: VecDeque<Change>,
    next_change: u64,
    /// The screen's model: it holds the output like a viewer.
    model: Place,
    seats: BTreeMap<ViewerId, Seat>,
    next_viewer: u64,
    writer: Option<ViewerId>,
    end: Option<End>,
    /// Since when there is no viewer.
    detached: Option<Instant>,
    /// The last input or output.
    active: Instant,
    begun: Instant,
    tape: Option<Tape>,
    /// The recorder's place.
    recorded: Place,
    ended: Option<Instant>,
}

impl Audience {
    pub(crate) fn new(size: Size, recording: Option<Recording>, now: Instant) -> Self {
        Self {
            tape: recording.map(|recording| Tape::new(recording, 0, now)),
            recorded: Place { byte: 0, change: 0 },
            begun: now,
            ended: None,
            ring: Ring::default(),
            size,
            changes: VecDeque::new(),
            next_change: 0,
            model: Place { byte: 0, change: 0 },
            seats: BTreeMap::new(),
            next_viewer: 0,
            writer: None,
            end: None,
            detached: Some(now),
            active: now,
        }
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Bytes of output so far.
    pub(crate) fn output(&self) -> u64 {
        self.ring.end()
    }

    pub(crate) fn viewers(&self) -> usize {
        self.attached().count()
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Since when there is no viewer.
    pub(crate) fn detached(&self) -> Option<Instant> {
        self.detached
    }

    /// The time since its beginning.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now - self.begun
    }

    /// The last input or output.
    pub(crate) fn active(&self) -> Instant {
        self.active
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.active = now;
    }

    fn attached(&self) -> impl Iterator<Item = &Seat> {
        self.seats.values().filter(|seat| !seat.is_dismissed)
    }

    /// Bytes that may be pushed now.
    pub(crate) fn room(&self) -> usize {
        let seats = self.attached().map(|seat| seat.place.byte);
        let slowest = seats.min().unwrap_or(u64::MAX).min(self.model.byte);
        let recorded = self.tape.as_ref().and_then(Tape::holds_from);
        let slowest = slowest.min(recorded.unwrap_or(u64::MAX));
        let waiting = usize::try_from(self.ring.end().saturating_sub(slowest));
        limits::OUTPUT_BYTES.saturating_sub(waiting.unwrap_or(usize::MAX))
    }

    /// When the viewer that keeps the program waiting is dismissed. `None` while none does.
    pub(crate) fn patience(&self) -> Option<Instant> {
        let waits = self.attached().filter(|seat| self.blocks(seat));
        let longest = waits.map(|seat| seat.moved).min();
        let viewers = longest.map(|moved| moved + limits::STALLED);
        let is_full = self.recorder_blocks();
        let recorder = self.tape.as_ref().and_then(|tape| tape.patience(is_full));
        viewers.into_iter().chain(recorder).min()
    }

    /// Does the program wait for the recorder?
    fn recorder_blocks(&self) -> bool {
        let held = self.tape.as_ref().and_then(Tape::holds_from);
        let waiting = held.map(|from| self.ring.end().saturating_sub(from));
        waiting.is_some_and(|waiting| waiting >= ring::length(limits::OUTPUT_BYTES))
    }

    /// When a shell ends whose recording must go on and does not.
    pub(crate) fn recording_deadline(&self) -> Option<Instant> {
        let tape = self.tape.as_ref()?;
        tape.deadline(self.ring.end())
    }

    /// Is something of it not recorded that should be?
    pub(crate) fn is_unrecorded(&self) -> bool {
        let tape = self.tape.as_ref();
        tape.is_some_and(|tape| !tape.has_all(self.ring.end()))
    }

    pub(crate) fn recording(&self) -> Option<Recording> {
        self.tape.as_ref().map(|tape| tape.recording)
    }

    fn blocks(&self, seat: &Seat) -> bool {
        let waiting = self.ring.end().saturating_sub(seat.place.byte);
        waiting >= ring::length(limits::OUTPUT_BYTES)
    }

    /// Dismisses the viewers that have kept the program waiting for too long.
    pub(crate) fn dismiss(&mut self, now: Instant) {
        let end = self.ring.end();
        let full = ring::length(limits::OUTPUT_BYTES);
        for seat in self.seats.values_mut() {
            let blocks = end.saturating_sub(seat.place.byte) >= full;
            seat.is_dismissed |= blocks && seat.moved + limits::STALLED <= now;
        }
        let is_dismissed = |id: &ViewerId| self.seats.get(id).is_none_or(|seat| seat.is_dismissed);
        self.writer = self.writer.filter(|writer| !is_dismissed(writer));
        let is_full = self.recorder_blocks();
        if let Some(tape) = &mut self.tape {
            tape.dismiss(is_full, now);
        }
        self.note_detached(now);
    }

    fn note_detached(&mut self, now: Instant) {
        let has_viewers = self.viewers() > 0;
        self.detached = self.detached.or(Some(now)).filter(|_| !has_viewers);
    }

    /// Adds output, for which there has to be [room](Self::room).
    pub(crate) fn push(&mut self, bytes: &[u8], now: Instant) {
        let end = self.ring.end();
        for seat in self.seats.values_mut() {
            // Until now it had nothing to take.
            if seat.place.byte == end {
                seat.moved = now;
            }
        }
        if let Some(tape) = &mut self.tape {
            tape.note_output(end, now);
        }
        self.ring.push(bytes);
        self.active = now;
    }

    /// Bytes of input that may be typed now.
    pub(crate) fn input_room(&self) -> usize {
        self.tape.as_ref().map_or(usize::MAX, Tape::input_room)
    }

    /// The terminal has taken input.
    pub(crate) fn note_input(&mut self, bytes: &[u8], now: Instant) {
        let output = self.ring.end();
        if let Some(tape) = &mut self.tape {
            tape.note_input(bytes, output, now);
        }
    }

    /// The shell has ended, and all of its output is here.
    pub(crate) fn finish(&mut self, end: End, now: Instant) {
        self.end = Some(end);
        self.ended = Some(now);
    }

    /// Gives the terminal another size.
    pub(crate) fn resize(&mut self, size: Size, now: Instant) {
        if size == self.size {
            return;
        }
        self.size = size;
        self.forget_changes();
        let at = self.ring.end();
        let number = self.next_change;
        // Changes between which there is no output are one, and so are the newest where there are too many: under a new number, for
        // those that have seen the old one.
        let is_same = self.changes.back().is_some_and(|last| last.at == at);
        if is_same || self.changes.len() >= limits::SIZES {
            self.changes.pop_back();
        }
        self.changes.push_back(Change {
            number,
            at,
            size,
            came: now,
        });
        self.next_change = number.saturating_add(1);
    }

    /// Those that all have passed.
    fn forget_changes(&mut self) {
        let places = self.attached().map(|seat| seat.place.change);
        let first = places.min().unwrap_or(u64::MAX).min(self.model.change);
        // A recorder that comes back may lack those behind what it has written down.
        let written = self.tape.as_ref().map(|tape| tape.had().output);
        let is_passed = |change: &Change| {
            change.number < first && written.is_none_or(|written| change.at < written)
        };
        while self.changes.front().is_some_and(is_passed) {
            self.changes.pop_front();
        }
    }

    /// The next thing at a place, with so many bytes at the most, and the place behind it.
    fn next_at(&self, place: Place, most: usize) -> (Next, Place) {
        let change = self
            .changes
            .iter()
            .find(|change| change.number >= place.change);
        match change {
            Some(change) if change.at <= place.byte => {
                let change_behind = change.number.saturating_add(1);
                let behind = Place {
                    change: change_behind,
                    ..place
                };
                (Next::Resized(change.size), behind)
            }
            change => {
                let before = change.map_or(u64::MAX, |change| change.at);
                let data = self.ring.read(place.byte, before, most);
                if data.is_empty() {
                    return (Next::Nothing, place);
                }
                let byte = place.byte.saturating_add(ring::length(data.len()));
                (Next::Output(data), Place { byte, ..place })
            }
        }
    }

    /// The next thing for the screen's model to show.
    pub(crate) fn model_next(&mut self) -> Next {
        let (next, behind) = self.next_at(self.model, limits::SCREEN_PIECE_BYTES);
        self.model = behind;
        next
    }

    /// The model's place.
    pub(crate) fn model_place(&self) -> Place {
        self.model
    }

    /// The place of a viewer that has had all bytes before this one, where the rest is kept.
    pub(crate) fn place_at(&self, byte: u64) -> Option<Place> {
        let kept = self.ring.start()..=self.ring.end();
        kept.contains(&byte).then_some(Place {
            byte,
            change: self.next_change,
        })
    }

    /// Would a viewer that attaches now write?
    pub(crate) fn would_write(&self, writes: Writes) -> Result<bool, AttachError> {
        if self.viewers() >= limits::VIEWERS {
            return Err(AttachError::TooManyViewers);
        }
        Ok(match writes {
            Writes::TakesOver => true,
            Writes::WhereNoneDoes => self.writer.is_none(),
            Writes::Never => false,
        })
    }

    /// Lets a viewer in at this place. The first one to ask for it writes.
    pub(crate) fn attach(
        &mut self,
        place: Place,
        writes: Writes,
        now: Instant,
    ) -> Result<ViewerId, AttachError> {
        let will_write = self.would_write(writes)?;
        let id = ViewerId(self.next_viewer);
        self.next_viewer = self.next_viewer.saturating_add(1);
        let seat = Seat {
            place,
            moved: now,
            was_taken_over: false,
            is_dismissed: false,
        };
        self.seats.insert(id, seat);
        self.detached = None;
        if will_write {
            self.give_to(id);
        }
        Ok(id)
    }

    pub(crate) fn leave(&mut self, viewer: ViewerId, now: Instant) {
        self.seats.remove(&viewer);
        self.writer = self.writer.filter(|writer| *writer != viewer);
        self.note_detached(now);
    }

    pub(crate) fn is_writer(&self, viewer: ViewerId) -> bool {
        self.writer == Some(viewer)
    }

    fn give_to(&mut self, viewer: ViewerId) {
        let before = self
            .writer
            .replace(viewer)
            .filter(|before| *before != viewer);
        if let Some(seat) = before.and_then(|before| self.seats.get_mut(&before)) {
            seat.was_taken_over = true;
        }
        if let Some(seat) = self.seats.get_mut(&viewer) {
            seat.was_taken_over = false;
        }
    }

    pub(crate) fn take_over(&mut self, viewer: ViewerId) -> Result<(), InputError> {
        self.check_attached(viewer)?;
        self.give_to(viewer);
        Ok(())
    }

    fn check_attached(&self, viewer: ViewerId) -> Result<(), InputError> {
        let seat = self.seats.get(&viewer);
        match seat.is_some_and(|seat| !seat.is_dismissed) {
            true if self.end.is_some() => Err(InputError::Ended),
            true => Ok(()),
            false => Err(InputError::Detached),
        }
    }

    pub(crate) fn check_writer(&self, viewer: ViewerId) -> Result<(), InputError> {
        self.check_attached(viewer)?;
        match self.is_writer(viewer) {
            true => Ok(()),
            false => Err(InputError::NotWriter),
        }
    }

    /// Lets a recorder in that has written so much down. Gives the place at which it goes on. A shell that was not recorded before is from
    /// here on, as far as its output is kept.
    pub(crate) fn attach_recorder(
        &mut self,
        had: RecordedPlace,
        now: Instant,
    ) -> (RecorderId, RecordedPlace) {
        let kept = self.ring.start()..=self.ring.end();
        let output = self.ring.end();
        let tape = self
            .tape
            .get_or_insert_with(|| Tape::new(Recording::WHERE_IT_CAN_BE, output, now));
        let (id, at) = tape.attach(had, kept, now);
        let change = self.changes.iter().find(|change| change.at >= at.output);
        let change = change.map_or(self.next_change, |change| change.number);
        self.recorded = Place {
            byte: at.output,
            change,
        };
        (id, at)
    }

    pub(crate) fn detach_recorder(&mut self, recorder: RecorderId) {
        if let Some(tape) = &mut self.tape {
            tape.leave(recorder);
        }
    }

    pub(crate) fn is_recorder(&self, recorder: RecorderId) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.is(recorder))
    }

    /// The recorder has written everything before this place down.
    pub(crate) fn ack(&mut self, recorder: RecorderId, had: RecordedPlace, now: Instant) {
        let sent = self.recorded.byte;
        if let Some(tape) = self.tape.as_mut().filter(|tape| tape.is(recorder)) {
            tape.ack(had, sent, now);
        }
    }

    /// The next thing that the recorder hears. It has heard it by that, and has not written it down.
    pub(crate) fn tell_recorder(&mut self, recorder: RecorderId) -> Recorded {
        let (begun, at) = (self.begun, self.recorded);
        let Some(tape) = self.tape.as_ref().filter(|tape| tape.is(recorder)) else {
            return Recorded::Dismissed;
        };
        let change = self
            .changes
            .iter()
            .find(|change| change.number >= at.change && change.at <= at.byte);
        let marked = tape.output_at(at.byte);
        let most = marked.map_or(limits::PIECE_BYTES, |(_, until)| {
            let until = usize::try_from(until.saturating_sub(at.byte));
            until.unwrap_or(usize::MAX).min(limits::PIECE_BYTES)
        });
        let came = change.map(|change| change.came);
        let came = came.or(marked.map(|(came, _)| came)).unwrap_or(begun);
        let (next, behind) = self.next_at(at, most);
        // Input comes before its echo.
        let typed = tape.input_came();
        let typed = typed.filter(|typed| next == Next::Nothing || *typed <= came);
        if let (Some(typed), Some(tape)) = (typed, &mut self.tape) {
            return Recorded::Input(typed - begun, tape.take_input());
        }
        self.recorded = behind;
        match (next, self.end) {
            (Next::Output(data), _) => Recorded::Output(came - begun, data),
            (Next::Resized(size), _) => Recorded::Resized(came - begun, size),
            (Next::Nothing, Some(end)) => Recorded::Ended(self.ended.unwrap_or(begun) - begun, end),
            (Next::Nothing, None) => Recorded::Wait,
        }
    }

    /// The next thing that a viewer hears. It has heard it by that.
    pub(crate) fn tell(&mut self, viewer: ViewerId, now: Instant) -> Told {
        let Some(seat) = self.seats.get(&viewer) else {
            return Told::Dismissed;
        };
        if seat.is_dismissed {
            return Told::Dismissed;
        }
        let (was_taken_over, at) = (seat.was_taken_over, seat.place);
        let (next, behind) = match was_taken_over {
            // At once: its keys do nothing any more.
            true => (Next::Nothing, at),
            false => self.next_at(at, limits::PIECE_BYTES),
        };
        if let Some(seat) = self.seats.get_mut(&viewer) {
            if seat.place.byte != behind.byte {
                seat.moved = now;
            }
            seat.place = behind;
            seat.was_taken_over = false;
        }
        match (next, self.end) {
            _ if was_taken_over => Told::TakenOver,
            (Next::Output(data), _) => Told::Output { at: at.byte, data },
            (Next::Resized(size), _) => Told::Resized(size),
            (Next::Nothing, Some(end)) => Told::Ended(end),
            (Next::Nothing, None) => Told::Wait,
        }
    }
}

/// Whether a viewer that attaches writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Where no other viewer does.
    #[default]
    WhereNoneDoes,
    /// In any case: the viewer that wrote before is told, and writes no more.
    TakesOver,
    /// It only watches.
    Never,
}
