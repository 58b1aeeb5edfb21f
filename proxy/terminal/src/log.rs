//! The log of a server or an agent, on stderr.
//!
//! A thread of its own writes it. Where stderr cannot be written (a full disk), or nobody reads it (a log driver that is stuck, a paused pager),
//! lines are lost and counted, and nothing else waits or ends: the standard library's own `eprintln!` would end the thread that logs, and
//! a write would hold it up.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::Lines;

/// Lines that wait to be written, and their bytes.
const LINES: usize = 16 * 1024;
const BYTES: usize = 4 * 1024 * 1024;

/// How long a process that ends waits for its last lines.
const LAST: Duration = Duration::from_secs(1);

/// How soon it is tried again to hand a line over, or to write one, where there is no room.
const AGAIN: Duration = Duration::from_millis(10);

/// The log of this process.
static THIS: OnceLock<Arc<State>> = OnceLock::new();

/// How a log's lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    Text,
    /// An object of JSON a line.
    Json,
}

/// The log of this process. Dropped, it waits for what is not written yet: a second at the most.
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct Log(SyncSender<Message>);

#[derive(Debug, Default)]
struct State {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    /// To be answered once all before it is written.
    Written(SyncSender<()>),
}

/// The end at which lines go in.
#[derive(Clone, Debug)]
struct Entry {
    to: SyncSender<Message>,
    state: Arc<State>,
}

/// Makes writers of lines in which a peer's text is visible.
struct Writers {
    entry: Entry,
    colours: bool,
}

/// Starts the log of this process on stderr, of what `filter` lets through, as `RUST_LOG` has it. Colours are for terminals.
///
/// # Errors
/// The system gives no thread.
///
/// # Panics
/// The process has a log already.
pub fn start_log(filter: &str, form: LogForm) -> io::Result<Log> {
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let (entry, from) = entry();
    let state = Arc::clone(&entry.state);
    let _first = THIS.set(Arc::clone(&state));
    let writing = thread::Builder::new().name("log".to_owned());
    writing.spawn(move || write(&from, Stderr, &state))?;
    let log = Log(entry.to.clone());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(Writers { entry, colours });
    match form {
        LogForm::Text => subscriber.init(),
        LogForm::Json => subscriber.json().init(),
    }
    Ok(log)
}

/// Lines of this process's log that were not written: stderr was not read, or could not be written.
pub fn lost_log_lines() -> u64 {
    let state = THIS.get();
    state.map_or(0, |state| state.lost.load(Ordering::Relaxed))
}

fn entry() -> (Entry, Receiver<Message>) {
    let (to, from) = sync_channel(LINES);
    let state = Arc::default();
    (Entry { to, state }, from)
}

impl<'a> MakeWriter<'a> for Writers {
    type Writer = Lines<Entry>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines::new(self.entry.clone(), self.colours)
    }
}

impl Write for Entry {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let State { waiting, lost } = &*self.state;
        let before = waiting.fetch_add(line.len(), Ordering::Relaxed);
        let has_room = before.saturating_add(line.len()) <= BYTES;
        if !has_room || self.to.try_send(Message::Line(line.to_vec())).is_err() {
            waiting.fetch_sub(line.len(), Ordering::Relaxed);
            lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let until = Instant::now() + LAST;
        let (written, all) = sync_channel(1);
        let mut message = Message::Written(written);
        while let Err(TrySendError::Full(back)) = self.0.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            message = back;
            thread::sleep(AGAIN);
        }
        let _late = all.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Writes lines for as long as there may be more.
fn write(from: &Receiver<Message>, mut to: impl Write, state: &State) {
    let mut told = 0;
    for message in from {
        let line = match message {
            Message::Line(line) => line,
            Message::Written(written) => {
                // It may have given up.
                let _ = written.send(());
                continue;
            }
        };
        let written = to.write_all(&line);
        let waiting = state.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        if written.is_err() {
            state.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let lost = state.lost.load(Ordering::Relaxed);
        // With the last of the lines that waited: this one shall have room.
        if lost > told && waiting == line.len() {
            let lines = lost.saturating_sub(told);
            told = lost;
            tracing::warn!(
                lines,
                "lines of this log are lost: standard error was not read, or could not be written"
            );
        }
    }
}

/// Stderr without the lock of the standard library's, which others would wait for while a write is stuck.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(rustix::stdio::stderr(), bytes) {
                // Another process that has the same terminal or pipe can have it so.
                Err(rustix::io::Errno::AGAIN) => thread::sleep(AGAIN),
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Says when a write begins, and waits until it may end, and how.
    struct Gate {
        begun: Sender<Vec<u8>>,
        ends: Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(bytes.to_vec()).unwrap();
            self.ends.recv().unwrap().map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_nothing_and_has_an_end() {
        let (mut entry, from) = entry();
        let (begun, begins) = channel();
        let (end, ends) = channel();
        let state = Arc::clone(&entry.state);
        let writing = thread::spawn(move || write(&from, Gate { begun, ends }, &state));
        entry.write_all(b"first\n").unwrap();
        assert_eq!(begins.recv_timeout(SOON).unwrap(), b"first\n");
        let line = vec![b'x'; 1024];
        let lines = BYTES / line.len() + 10;
        for _ in 0..lines {
            entry.write_all(&line).unwrap();
        }
        assert!(entry.state.waiting.load(Ordering::Relaxed) <= BYTES);
        let lost = entry.state.lost.load(Ordering::Relaxed);
        assert!((10..20).contains(&lost), "{lost}");
        // A process that ends does not wait for it.
        let before = Instant::now();
        drop(Log(entry.to.clone()));
        assert!(before.elapsed() < SOON);
        for _ in 0..lines {
            end.send(Ok(())).unwrap();
        }
        drop((entry, end));
        while begins.recv_timeout(SOON).is_ok() {}
        writing.join().unwrap();
    }

    #[test]
    fn a_log_that_cannot_be_written_goes_on_and_counts() {
        let (mut entry, from) = entry();
        let (begun, begins) = channel();
        let (end, ends) = channel();
        let state = Arc::clone(&entry.state);
        let writing = thread::spawn(move || write(&from, Gate { begun, ends }, &state));
        for ended in [Err(io::ErrorKind::StorageFull.into()), Ok(())] {
            entry.write_all(b"line\n").unwrap();
            end.send(ended).unwrap();
            begins.recv_timeout(SOON).unwrap();
        }
        drop(Log(entry.to.clone()));
        assert_eq!(entry.state.lost.load(Ordering::Relaxed), 1);
        assert_eq!(entry.state.waiting.load(Ordering::Relaxed), 0);
        drop(entry);
        writing.join().unwrap();
    }
}
