//! `underpass shell play`

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{Context as Hashing, SHA256};
use tokio::time::{Instant, sleep_until};
use underpass_api::{CastData, CastEvent, CastHeader, CastReader};
use underpass_terminal::{Terminal, obey, say};

use super::recordings;
use crate::args::{Play, Which};
use crate::keyboard::{Event, Keyboard};

/// The header with the hash that a recording had when it was finished.
const SHA256_HEADER: &str = "underpass-recording-sha256";

pub(super) async fn run(which: &Which, options: &Play) -> Result<()> {
    let Some(path) = &options.output else {
        let Some(terminal) = Terminal::of_this_program() else {
            bail!(
                "a recording plays in a terminal, and standard input and output are not one: --output FILE writes it to a file"
            );
        };
        let mut file = tempfile::tempfile().context("there is no room for the recording")?;
        download(which, options, &mut file).await?;
        file.rewind()?;
        return play(BufReader::new(file), options, &terminal).await;
    };
    let mut file = create(path).with_context(|| format!("cannot write {}", path.display()))?;
    download(which, options, &mut file).await?;
    file.sync_all()?;
    say!("The recording is in {}.", path.display());
    Ok(())
}

/// A recording shows what its user saw: it is for the owner of the file alone.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// Writes the recording to a file, and says where it is not as it was when it was finished.
async fn download(which: &Which, options: &Play, file: &mut File) -> Result<()> {
    let path = format!("{}/{}", recordings::path(&options.cluster), options.id);
    let mut hashing = Hashing::new(&SHA256);
    let mut keep = |piece: &[u8]| {
        hashing.update(piece);
        file.write_all(piece)
    };
    let client = which.client().await?;
    let recorded = client.download(&path, SHA256_HEADER, &mut keep).await?;
    let mut hash = String::new();
    for byte in hashing.finish().as_ref() {
        write!(hash, "{byte:02x}")?;
    }
    match recorded {
        None => say!("underpass: the shell is being recorded: this is what there is of it so far"),
        Some(recorded) if recorded != hash => say!(
            "underpass: THE RECORDING WAS CHANGED since it was finished: its SHA-256 is {hash}, and was {recorded}"
        ),
        Some(_) => {}
    }
    Ok(())
}

async fn play(from: impl io::BufRead, options: &Play, terminal: &Terminal) -> Result<()> {
    let mut lines = from.lines();
    let header = lines.next().context("the recording is empty")??;
    let header: CastHeader = header.parse()?;
    let size = header.size();
    let fits = terminal
        .size()
        .is_none_or(|(columns, rows)| columns >= size.columns && rows >= size.rows);
    if !fits {
        say!(
            "underpass: the shell's terminal had {} columns and {} rows, and this one has fewer",
            size.columns,
            size.rows
        );
    }
    let _raw = terminal
        .raw()
        .context("the terminal does not give every key")?;
    let mut keyboard = Keyboard::new().context("the keyboard cannot be read")?;
    let (mut reader, mut clock) = (CastReader::default(), Clock::new(options));
    for line in lines {
        let event: CastEvent = line?.parse()?;
        let Some((event, bytes)) = reader.read(event) else {
            continue;
        };
        let CastData::Output(_) = event.what else {
            continue;
        };
        let due = clock.due(event.at);
        if is_ended(due, &mut keyboard).await {
            return Ok(());
        }
        let shown = tokio::task::spawn_blocking(move || obey(&bytes)).await;
        shown.unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
    }
    Ok(())
}

/// Waits for a moment; true where a key ends the player before it.
async fn is_ended(due: Instant, keyboard: &mut Keyboard) -> bool {
    loop {
        tokio::select! {
            biased;
            event = keyboard.next() => match event {
                Event::Gone => return true,
                // Ctrl-C, which a terminal that gives every key gives as one.
                Event::Keys(keys) if keys.contains(&3) || keys.contains(&b'q') => return true,
                _ => {}
            },
            () = sleep_until(due) => return false,
        }
    }
}

/// The moments at which events are due.
struct Clock {
    speed: f64,
    max_wait: Duration,
    due: Instant,
    /// The time of the last event in the recording.
    last: u64,
}

impl Clock {
    fn new(options: &Play) -> Self {
        Self {
            speed: options.speed,
            max_wait: options.max_wait.unwrap_or(Duration::MAX),
            due: Instant::now(),
            last: 0,
        }
    }

    fn due(&mut self, at: u64) -> Instant {
        let wait = Duration::from_millis(at.saturating_sub(self.last));
        let wait = Duration::try_from_secs_f64(wait.as_secs_f64() / self.speed);
        let wait = wait.unwrap_or(Duration::MAX).min(self.max_wait);
        self.last = self.last.max(at);
        // A moment beyond all moments is one that a key ends.
        let far = self.due + Duration::from_secs(u64::from(u32::MAX));
        self.due = self.due.checked_add(wait).unwrap_or(far);
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(speed: f64, max_wait: Option<Duration>) -> Clock {
        Clock::new(&Play {
            cluster: "edge".parse().unwrap(),
            id: underpass_core::ShellId::random(),
            speed,
            max_wait,
            output: None,
        })
    }

    #[test]
    fn events_are_due_at_their_times_at_this_speed_and_no_later_than_the_longest_wait() {
        let ms = Duration::from_millis;
        for (speed, max_wait, expected) in [
            (1.0, None, [100, 100, 60_100]),
            (2.0, None, [50, 50, 30_050]),
            (1.0, Some(ms(1000)), [100, 100, 1100]),
            (100.0, Some(ms(1000)), [1, 1, 601]),
        ] {
            let mut clock = clock(speed, max_wait);
            let begun = clock.due;
            // The second one is out of order.
            let due = [100, 50, 60_100].map(|at| clock.due(at) - begun);
            assert_eq!(due, expected.map(ms), "{speed} {max_wait:?}");
        }
        clock(0.01, None).due(u64::MAX);
    }
}
