//! The file of a recording that is being written. Lines are added at its end and nowhere else, so that a killed server leaves a
//! recording up to its last line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::{fmt::Write as _, io};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::OFlags;
use underpass_api::{
    CastData, CastEvent, CastHeader, CastNote, CastReader, RecordingEvent, RecordingPlace,
    TerminalSize,
};

use super::error::RecordingError;
use super::facts::Progress;
use super::text::Text;

/// A recording's file.
#[derive(Debug)]
pub(super) struct CastFile {
    file: File,
    most: u64,
    state: State,
    /// Something of it is not synced to the disk yet.
    is_dirty: bool,
}

/// The contents of its lines, in numbers.
#[derive(Clone, Debug)]
struct State {
    bytes: u64,
    /// Bytes of the shell's, recorded or missing.
    had: RecordingPlace,
    missing: u64,
    /// The time of the last line.
    last: u64,
    size: TerminalSize,
    output: Text,
    input: Text,
}

impl CastFile {
    /// A new file. Nobody else can read it.
    ///
    /// # Errors
    /// There is one, or there can be none.
    pub(super) fn create(
        path: &Path,
        header: &CastHeader,
        most: u64,
    ) -> Result<Self, RecordingError> {
        let file = options().create_new(true).open(path)?;
        let created = Self::begin(file, header, most);
        if created.is_err() {
            // Its beginning would be taken for a recording.
            let _ = std::fs::remove_file(path);
        }
        created
    }

    pub(super) fn begin(
        file: File,
        header: &CastHeader,
        most: u64,
    ) -> Result<Self, RecordingError> {
        let state = State {
            bytes: 0,
            had: RecordingPlace::default(),
            missing: 0,
            last: 0,
            size: header.size(),
            output: Text::default(),
            input: Text::default(),
        };
        let mut begun = Self {
            file,
            most,
            state: state.clone(),
            is_dirty: false,
        };
        begun.write(state, &header.line())?;
        begun.sync()?;
        Ok(begun)
    }

    /// A file that a server has left, without a line that it has left unfinished.
    ///
    /// # Errors
    /// It cannot be read, or was changed.
    pub(super) fn reopen(path: &Path, most: u64) -> Result<Self, RecordingError> {
        let file = options().open(path)?;
        let state = State::scan(&file)?;
        file.set_len(state.bytes)?;
        Ok(Self {
            file,
            most,
            state,
            is_dirty: true,
        })
    }

    /// The bytes of the shell's that are in it. A beginning of a character that waits for its end is not.
    pub(super) fn had(&self) -> RecordingPlace {
        self.state.had
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            bytes: self.state.bytes,
            milliseconds: self.state.last,
            missing: self.state.missing,
        }
    }

    /// Must it be [settled](Self::settle) where nothing more comes?
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_dirty || self.state.output.waits() || self.state.input.waits()
    }

    /// Goes on at a place. The bytes between are named as missing.
    pub(super) fn go_on_at(&mut self, at: RecordingPlace, ms: u64) -> Result<(), RecordingError> {
        let mut state = self.state.clone();
        // They are sent again.
        (state.output, state.input) = Default::default();
        let output = at.output.checked_sub(state.had.output);
        let input = at.input.checked_sub(state.had.input);
        let (Some(output), Some(input)) = (output, input) else {
            return Err(RecordingError::AnotherShell);
        };
        let mut lines = String::new();
        if output > 0 || input > 0 {
            state.missing = state.missing.saturating_add(output).saturating_add(input);
            let label = format!(
                "underpass: {output} bytes of output and {input} of input were not recorded here"
            );
            state.line(
                &mut lines,
                ms,
                CastData::Note(CastNote::Missing { output, input }),
            );
            state.line(&mut lines, ms, CastData::Marker(label));
        }
        state.had = at;
        self.write(state, &lines)
    }

    /// Adds events: all of them, or none where it fails.
    pub(super) fn add(&mut self, events: &[RecordingEvent]) -> Result<(), RecordingError> {
        let mut state = self.state.clone();
        let mut lines = String::new();
        for event in events {
            state.add(&mut lines, event);
        }
        self.write(state, &lines)
    }

    /// Writes what waits for the end of a character, and syncs.
    pub(super) fn settle(&mut self) -> Result<(), RecordingError> {
        let mut state = self.state.clone();
        let mut lines = String::new();
        state.flush(&mut lines);
        self.write(state, &lines)?;
        self.sync()
    }

    /// Adds a label for people, beyond the bound of its size.
    pub(super) fn label(&mut self, label: String) -> Result<(), RecordingError> {
        let mut state = self.state.clone();
        let (mut lines, last) = (String::new(), state.last);
        state.line(&mut lines, last, CastData::Marker(label));
        self.write_unbounded(state, &lines)
    }

    /// Names the bytes up to a place as missing, beyond the bound of its size: nothing more is added.
    pub(super) fn end_at(&mut self, at: RecordingPlace) -> Result<(), RecordingError> {
        let most = std::mem::replace(&mut self.most, u64::MAX);
        let ended = self.go_on_at(at, self.state.last);
        self.most = most;
        ended
    }

    fn write_unbounded(&mut self, state: State, lines: &str) -> Result<(), RecordingError> {
        let most = std::mem::replace(&mut self.most, u64::MAX);
        let written = self.write(state, lines);
        self.most = most;
        written
    }

    fn write(&mut self, mut state: State, lines: &str) -> Result<(), RecordingError> {
        state.bytes = state.bytes.saturating_add(length(lines.len()));
        if state.bytes > self.most && !lines.is_empty() {
            return Err(RecordingError::TooLarge(self.most));
        }
        if let Err(error) = self.file.write_all(lines.as_bytes()) {
            // A part of a line would be the end of the recording. Where this fails as well, the next start does it.
            let _ = self.file.set_len(self.state.bytes);
            return Err(error.into());
        }
        self.is_dirty |= !lines.is_empty();
        self.state = state;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), RecordingError> {
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        Ok(())
    }
}

impl State {
    fn line(&mut self, lines: &mut String, ms: u64, what: CastData) {
        // The times of an agent's events may go back a little.
        self.last = self.last.max(ms);
        let at = self.last;
        lines.push_str(&CastEvent { at, what }.line());
    }

    fn add(&mut self, lines: &mut String, event: &RecordingEvent) {
        match event {
            RecordingEvent::Output { ms, data } => {
                self.last = self.last.max(*ms);
                let (events, number) = self.output.add(data, self.last, CastData::Output);
                self.had.output = self.had.output.saturating_add(length(number));
                push(lines, &events);
            }
            RecordingEvent::Input { ms, data } => {
                self.last = self.last.max(*ms);
                let (events, number) = self.input.add(data, self.last, CastData::Input);
                self.had.input = self.had.input.saturating_add(length(number));
                push(lines, &events);
            }
            // A recorder that comes back is told the last one again.
            RecordingEvent::Resized { ms, size } if *size != self.size => {
                self.size = *size;
                self.line(lines, *ms, CastData::Resized(*size));
            }
            _ => {}
        }
    }

    fn flush(&mut self, lines: &mut String) {
        let (events, number) = self.output.flush(self.last, CastData::Output);
        self.had.output = self.had.output.saturating_add(length(number));
        push(lines, &events);
        let (events, number) = self.input.flush(self.last, CastData::Input);
        self.had.input = self.had.input.saturating_add(length(number));
        push(lines, &events);
    }

    /// The state after the whole lines of a file.
    fn scan(file: &File) -> Result<Self, RecordingError> {
        let mut lines = Lines::new(file);
        let header = lines.next()?.ok_or(RecordingError::Unreadable)?;
        let header: CastHeader = header.parse().map_err(|_| RecordingError::Unreadable)?;
        let mut state = Self {
            bytes: lines.read,
            had: RecordingPlace::default(),
            missing: 0,
            last: 0,
            size: header.size(),
            output: Text::default(),
            input: Text::default(),
        };
        let mut reader = CastReader::default();
        while let Some(line) = lines.next()? {
            let event: CastEvent = line.parse().map_err(|_| RecordingError::Unreadable)?;
            state.last = event.at;
            if let Some((event, bytes)) = reader.read(event) {
                state.count(&event.what, length(bytes.len()));
                // An exact note without its event is as good as none.
                state.bytes = lines.read;
            }
        }
        Ok(state)
    }

    fn count(&mut self, what: &CastData, bytes: u64) {
        match what {
            CastData::Output(_) => self.had.output = self.had.output.saturating_add(bytes),
            CastData::Input(_) => self.had.input = self.had.input.saturating_add(bytes),
            CastData::Resized(size) => self.size = *size,
            CastData::Note(CastNote::Missing { output, input }) => {
                self.had.output = self.had.output.saturating_add(*output);
                self.had.input = self.had.input.saturating_add(*input);
                let missing = output.saturating_add(*input);
                self.missing = self.missing.saturating_add(missing);
            }
            _ => {}
        }
    }
}

fn push(lines: &mut String, events: &[CastEvent]) {
    events
        .iter()
        .for_each(|event| lines.push_str(&event.line()));
}

/// The whole lines of a file, in their order.
struct Lines<'a> {
    from: BufReader<&'a File>,
    /// Bytes of those that were given.
    read: u64,
}

impl<'a> Lines<'a> {
    fn new(file: &'a File) -> Self {
        Self {
            from: BufReader::new(file),
            read: 0,
        }
    }

    fn next(&mut self) -> Result<Option<String>, RecordingError> {
        let mut line = String::new();
        let mut bounded = (&mut self.from).take(super::LINE_BYTES);
        // A part of a line may be cut within a character.
        let read = match bounded.read_line(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => 0,
            read => read?,
        };
        if !line.ends_with('\n') {
            return Ok(None);
        }
        self.read = self.read.saturating_add(length(read));
        line.pop();
        Ok(Some(line))
    }
}

/// The SHA-256 of a file, in hexadecimal, and its length.
pub(super) fn hash(path: &Path) -> io::Result<(String, u64)> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let (mut context, mut bytes) = (Context::new(&SHA256), 0_u64);
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut piece)?;
        let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else {
            break;
        };
        context.update(read);
        bytes = bytes.saturating_add(length(read.len()));
    }
    let mut text = String::new();
    for byte in context.finish().as_ref() {
        // Text takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    Ok((text, bytes))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options
        .read(true)
        .append(true)
        .mode(0o600)
        .custom_flags(flags);
    options
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
