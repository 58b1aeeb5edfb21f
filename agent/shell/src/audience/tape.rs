//! The recording of a shell: the times of its output, its input, and how much of both the recorder has written down. The output
//! itself is in the audience's ring.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;
use crate::ring;

/// How a shell is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Whether the program waits for a recorder that is away, and the shell ends where it does so for longer than [`wait`](Self::wait).
    pub required: bool,
    /// Whether input is recorded as well.
    pub input: bool,
    /// How long such a shell waits.
    pub wait: Duration,
}

impl Recording {
    /// Of output, as far as a recorder is there.
    pub(crate) const WHERE_IT_CAN_BE: Self = Self {
        required: false,
        input: false,
        wait: Duration::ZERO,
    };
}

/// A place in what is recorded of a shell: so many bytes of output, and of input, come before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedPlace {
    /// Bytes of output.
    pub output: u64,
    /// Bytes of input.
    pub input: u64,
}

/// The recorder of a shell: the newest one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecorderId(u64);

/// The times of a sequence of bytes: each mark says when the bytes from some place on came. Bytes that come within [`step`](Self::step) of
/// a mark are the mark's.
#[derive(Debug)]
struct Marks {
    marks: VecDeque<Mark>,
    step: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: u64,
    came: Instant,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            marks: VecDeque::new(),
            step: limits::MARK_STEP,
        }
    }
}

impl Marks {
    /// Notes that bytes from this place on come now.
    fn note(&mut self, at: u64, now: Instant) {
        let last = self.marks.back();
        if last.is_some_and(|last| now < last.came + self.step) {
            return;
        }
        if self.marks.len() >= limits::MARKS {
            // Half as exact, for twice as long.
            let mut number = 0_usize;
            self.marks.retain(|_| {
                number = number.saturating_add(1);
                number % 2 == 1
            });
            self.step = self.step.saturating_mul(2);
        }
        self.marks.push_back(Mark { at, came: now });
    }

    /// When the byte at this place came, and the place from which on bytes came later.
    fn of(&self, at: u64) -> Option<(Instant, u64)> {
        let behind = self.marks.partition_point(|mark| mark.at <= at);
        let mark = self.marks.get(behind.checked_sub(1)?)?;
        let next = self.marks.get(behind);
        Some((mark.came, next.map_or(u64::MAX, |next| next.at)))
    }

    /// Forgets the marks of bytes before this place.
    fn forget_before(&mut self, at: u64) {
        while self.marks.get(1).is_some_and(|next| next.at <= at) {
            self.marks.pop_front();
        }
        if self.marks.len() <= 1 {
            self.step = limits::MARK_STEP;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tape {
    pub(crate) recording: Recording,
    output: Marks,
    input: VecDeque<u8>,
    /// The place of the first byte of input that is kept.
    input_start: u64,
    input_marks: Marks,
    /// The place before which the recorder has written everything down.
    had: RecordedPlace,
    /// Whether a recorder is there, and which one.
    recorder: Option<RecorderId>,
    next_recorder: u64,
    /// The recorder's place in the input.
    input_place: u64,
    /// When the recorder last wrote something down, or had everything.
    moved: Instant,
}

impl Tape {
    /// Of a shell with so much output already, of which the times are not known.
    pub(crate) fn new(recording: Recording, output: u64, now: Instant) -> Self {
        let mut tape = Self {
            recording,
            output: Marks::default(),
            input: VecDeque::new(),
            input_start: 0,
            input_marks: Marks::default(),
            had: RecordedPlace::default(),
            recorder: None,
            next_recorder: 0,
            input_place: 0,
            moved: now,
        };
        if output > 0 {
            tape.output.note(0, now);
        }
        tape
    }

    /// Notes output that comes behind so many bytes.
    pub(crate) fn note_output(&mut self, at: u64, now: Instant) {
        if self.has_all(at) {
            self.moved = now;
        }
        self.output.note(at, now);
    }

    /// Adds input. Beyond [`limits::INPUT_BYTES`], the oldest goes.
    pub(crate) fn note_input(&mut self, bytes: &[u8], output: u64, now: Instant) {
        if !self.recording.input || bytes.is_empty() {
            return;
        }
        if self.has_all(output) {
            self.moved = now;
        }
        self.input_marks.note(self.input_end(), now);
        self.input.extend(bytes);
        // A required recording waits for room before: only writers that take over from each other go beyond.
        if !self.recording.required {
            let surplus = self.input.len().saturating_sub(limits::INPUT_BYTES);
            self.input.drain(..surplus);
            self.input_start = self.input_start.saturating_add(ring::length(surplus));
        }
    }

    fn input_end(&self) -> u64 {
        self.input_start
            .saturating_add(ring::length(self.input.len()))
    }

    /// Has the recorder written everything down that there is?
    pub(crate) fn has_all(&self, output: u64) -> bool {
        self.had.output >= output && self.had.input >= self.input_end()
    }

    /// The output that must be kept: from this byte on. `None` where nothing is.
    pub(crate) fn holds_from(&self) -> Option<u64> {
        let holds = self.recording.required || self.recorder.is_some();
        holds.then_some(self.had.output)
    }

    /// Bytes of input that there is room for.
    pub(crate) fn input_room(&self) -> usize {
        let waits = self.recording.required && self.recording.input;
        match waits {
            true => limits::INPUT_BYTES.saturating_sub(self.input.len()),
            false => usize::MAX,
        }
    }

    /// When the shell ends whose recording must go on and does not. `None` where nothing waits for it.
    pub(crate) fn deadline(&self, output: u64) -> Option<Instant> {
        let waits = self.recording.required && !self.has_all(output);
        waits.then(|| self.moved + self.recording.wait)
    }

    /// When the recorder is given up that keeps the program waiting: one that is not required.
    pub(crate) fn patience(&self, is_full: bool) -> Option<Instant> {
        let waits = is_full && !self.recording.required && self.recorder.is_some();
        waits.then(|| self.moved + limits::STALLED)
    }

    pub(crate) fn dismiss(&mut self, is_full: bool, now: Instant) {
        if self.patience(is_full).is_some_and(|most| most <= now) {
            self.recorder = None;
        }
    }

    /// Lets a recorder in that has written so much down, of which the first one is gone. Gives the place at which it goes on: the output is
    /// kept from a byte on, and ends at another.
    pub(crate) fn attach(
        &mut self,
        had: RecordedPlace,
        kept: std::ops::RangeInclusive<u64>,
        now: Instant,
    ) -> (RecorderId, RecordedPlace) {
        let at = RecordedPlace {
            output: had.output.clamp(*kept.start(), *kept.end()),
            input: had.input.clamp(self.input_start, self.input_end()),
        };
        let id = RecorderId(self.next_recorder);
        self.next_recorder = self.next_recorder.saturating_add(1);
        self.recorder = Some(id);
        self.had = at;
        self.input_place = at.input;
        if self.has_all(*kept.end()) || !self.recording.required {
            self.moved = now;
        }
        (id, at)
    }

    pub(crate) fn leave(&mut self, recorder: RecorderId) {
        self.recorder = self.recorder.filter(|now| *now != recorder);
    }

    pub(crate) fn is(&self, recorder: RecorderId) -> bool {
        self.recorder == Some(recorder)
    }

    /// The recorder has written everything before this place down. It was sent no more than that.
    pub(crate) fn ack(&mut self, had: RecordedPlace, sent: u64, now: Instant) {
        let before = self.had;
        self.had = RecordedPlace {
            output: had.output.min(sent).max(before.output),
            input: had.input.min(self.input_place).max(before.input),
        };
        if self.had != before {
            self.moved = now;
        }
        self.output.forget_before(self.had.output);
        let written = self.had.input.saturating_sub(self.input_start);
        let written = usize::try_from(written).unwrap_or(usize::MAX);
        self.input.drain(..written.min(self.input.len()));
        self.input_start = self.had.input.max(self.input_start);
        self.input_marks.forget_before(self.input_start);
    }

    pub(crate) fn had(&self) -> RecordedPlace {
        self.had
    }

    /// When the output at this place came, and the place from which on it came later.
    pub(crate) fn output_at(&self, at: u64) -> Option<(Instant, u64)> {
        self.output.of(at)
    }

    /// When the next input came; `None` where there is none.
    pub(crate) fn input_came(&self) -> Option<Instant> {
        let has_some = self.input_place < self.input_end();
        has_some
            .then(|| self.input_marks.of(self.input_place))?
            .map(|(came, _)| came)
    }

    /// Takes the next input that came at one time.
    pub(crate) fn take_input(&mut self) -> Vec<u8> {
        let Some((_, until)) = self.input_marks.of(self.input_place) else {
            return Vec::new();
        };
        let until = until.min(self.input_end());
        let index = |place: u64| usize::try_from(place.saturating_sub(self.input_start));
        let (Ok(from), Ok(until)) = (index(self.input_place), index(until)) else {
            return Vec::new();
        };
        let until = until.min(from.saturating_add(limits::PIECE_BYTES));
        let bytes: Vec<_> = self.input.range(from..until.max(from)).copied().collect();
        self.input_place = self.input_place.saturating_add(ring::length(bytes.len()));
        bytes
    }
}
