//! `underpass shell play`

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{Context as Hashing, SHA256};
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep_until};
use underpass_api::{CastData, CastEvent, CastHeader, CastReader};
use underpass_terminal::{Tame, Terminal, obey, say};

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
    let mut copy = Copy::prepare(path, options.force)?;
    download(which, options, copy.file.as_file_mut()).await?;
    copy.keep()?;
    say!("The recording is in {}.", path.display());
    Ok(())
}

/// A file that a recording is written to, for the owner of the file alone: a recording shows what its user saw. It appears once it is whole.
struct Copy<'a> {
    path: &'a Path,
    replaces: bool,
    file: NamedTempFile,
}

impl<'a> Copy<'a> {
    fn prepare(path: &'a Path, force: bool) -> Result<Self> {
        let shown = path.display();
        match path.symlink_metadata() {
            Ok(_) if !force => {
                bail!("{shown} exists, and is not overwritten: name another file, or add --force")
            }
            Ok(found) if !found.is_file() => {
                bail!("{shown} is no regular file, and is not replaced: name another one")
            }
            _ => {}
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        // Temporary files are made readable by their owner only.
        let file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
        Ok(Self {
            path,
            replaces: force,
            file: file.with_context(|| format!("cannot write {shown}"))?,
        })
    }

    /// The file appears. A link that came in its place meanwhile is not followed.
    fn keep(self) -> Result<()> {
        let shown = format!("cannot write {}", self.path.display());
        self.file.as_file().sync_all().context(shown.clone())?;
        let kept = match self.replaces {
            true => self.file.persist(self.path),
            false => self.file.persist_noclobber(self.path),
        };
        kept.map_err(|error| error.error).context(shown)?;
        Ok(())
    }
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
    // It may be another user's.
    let mut tame = Tame::default();
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
        let drawn = tame.pass(&bytes);
        let shown = tokio::task::spawn_blocking(move || obey(&drawn)).await;
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
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn clock(speed: f64, max_wait: Option<Duration>) -> Clock {
        Clock::new(&Play {
            cluster: "edge".parse().unwrap(),
            id: underpass_core::ShellId::random(),
            speed,
            max_wait,
            output: None,
            force: false,
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

    fn copy(path: &Path, force: bool, text: &str) -> Result<()> {
        let mut copy = Copy::prepare(path, force)?;
        copy.file.write_all(text.as_bytes())?;
        copy.keep()
    }

    #[test]
    fn rule_9_a_recordings_file_is_its_owners_and_takes_no_others_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shell.cast");
        copy(&path, false, "one").unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o600);
        let error = copy(&path, false, "two").unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        copy(&path, true, "two").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), mode()),
            ("two".to_owned(), 0o600)
        );
        // Nor a link's, and not the place that it leads to.
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        for force in [false, true] {
            copy(&link, force, "three").unwrap_err();
        }
        let new = folder.path().join("new");
        let mut begun = Copy::prepare(&new, false).unwrap();
        begun.file.write_all(b"four").unwrap();
        symlink(&path, &new).unwrap();
        begun.keep().unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
