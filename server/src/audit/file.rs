//! Events in a file that is put aside when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::task::spawn_blocking;
use underpass_audit::Sink;
use underpass_core::BoxError;

/// In the names of files put aside; sorts by time.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:6]Z");

/// The retention of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// Bytes of one file, which one batch of events may exceed.
    pub(super) size: u64,
    /// Files put aside.
    pub(super) files: usize,
    /// How old these become.
    pub(super) age: Option<Duration>,
}

/// A log file, open. Only its owner can read it. Another program may move it away, and a new one is begun then; or truncate it
/// in place (logrotate's `copytruncate`), and the log goes on at the file's end.
pub(super) struct LogFile(Option<Open>);

struct Open {
    path: PathBuf,
    keep: Keep,
    file: File,
    /// Bytes of it, when they were last looked at.
    length: u64,
}

impl LogFile {
    /// Opens the file, behind what it holds.
    pub(super) fn open(path: PathBuf, keep: Keep) -> io::Result<Self> {
        let file = append(&path)?;
        let length = file.metadata()?.len();
        let mut open = Open {
            path,
            keep,
            file,
            length,
        };
        open.end_line()?;
        Ok(Self(Some(open)))
    }
}

#[async_trait]
impl Sink for LogFile {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let mut open = self.0.take().ok_or("the log file is gone")?;
        let lines = lines(events);
        let (open, result) = spawn_blocking(move || {
            let result = open.write(&lines);
            (open, result)
        })
        .await?;
        self.0 = Some(open);
        Ok(result?)
    }
}

/// Each event on a line of its own.
pub(super) fn lines(events: &[Bytes]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum());
    for event in events {
        lines.extend_from_slice(event);
        lines.push(b'\n');
    }
    lines
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true).mode(0o600);
    options.open(path)
}

impl Open {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_gone() {
            self.begin()?;
        }
        // Another program may have truncated the file since the last write.
        self.length = self.file.metadata()?.len();
        self.end_line()?;
        if self.length > 0 && self.length + lines.len() as u64 > self.keep.size {
            self.put_aside()?;
        }
        if let Err(error) = self.file.write_all(lines) {
            // A full disk takes half a line; the whole batch comes again. Where it cannot be cut off, what
            // follows begins a line of its own. A file that became shorter meanwhile must not be filled up with zeros.
            if self.file.metadata()?.len() > self.length {
                let _ = self.file.set_len(self.length);
            }
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// A killed process may have left half a line: the next event must not be part of it.
    fn end_line(&mut self) -> io::Result<()> {
        use std::os::unix::fs::FileExt;

        let mut last = [b'\n'];
        if self.length > 0 {
            self.file.read_exact_at(&mut last, self.length - 1)?;
        }
        if last != [b'\n'] {
            self.file.write_all(b"\n")?;
            self.length += 1;
        }
        Ok(())
    }

    fn is_gone(&self) -> bool {
        let ours = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let named = fs::metadata(&self.path).map(|file| (file.dev(), file.ino()));
        !matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file = append(&self.path)?;
        self.length = self.file.metadata()?.len();
        self.end_line()
    }

    fn put_aside(&mut self) -> io::Result<()> {
        let stamp = OffsetDateTime::now_utc().format(STAMP);
        let stamp = stamp.map_err(io::Error::other)?;
        fs::rename(&self.path, self.aside(&format!("{stamp}.")))?;
        self.begin()?;
        self.clean_up();
        Ok(())
    }

    /// `audit.log` is put aside as `audit-STAMP.log`.
    fn aside(&self, stamp: &str) -> PathBuf {
        let (front, back) = self.name();
        self.path.with_file_name(format!("{front}-{stamp}{back}"))
    }

    fn name(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        (text(self.path.file_stem()), text(self.path.extension()))
    }

    /// Removes files put aside that are too many or too old. A file that cannot be removed stays.
    fn clean_up(&self) {
        let mut aside = self.all_aside().unwrap_or_default();
        aside.sort_unstable();
        let many = aside.len().saturating_sub(self.keep.files);
        let old = |path: &Path| {
            let age = self.keep.age?;
            let modified = fs::metadata(path).ok()?.modified().ok()?;
            Some(SystemTime::now().duration_since(modified).ok()? > age)
        };
        for (index, path) in aside.iter().enumerate() {
            if index < many || old(path) == Some(true) {
                let removed = fs::remove_file(path);
                if let Err(error) = removed {
                    tracing::warn!(file = %path.display(), %error, "an old audit log stays");
                }
            }
        }
    }

    fn all_aside(&self) -> io::Result<Vec<PathBuf>> {
        let (front, back) = self.name();
        let folder = self
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let mut found = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let stamp = name
                .and_then(|name| name.strip_prefix(&front)?.strip_prefix('-'))
                .and_then(|name| name.strip_suffix(&back)?.strip_suffix('.'));
            // Another log's name may begin alike.
            if stamp.is_some_and(|stamp| time::PrimitiveDateTime::parse(stamp, STAMP).is_ok()) {
                found.push(path);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEEP: Keep = Keep {
        size: 100,
        files: 2,
        age: None,
    };

    fn event(number: usize) -> Bytes {
        format!("{{\"event\":{number:030}}}").into()
    }

    fn texts(folder: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn a_full_file_is_put_aside_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(folder.path().join("audit-else.log"), "mine").unwrap();
        let mut log = LogFile::open(path.clone(), KEEP).unwrap();
        for number in 0..9 {
            log.write(&[event(number)]).await.unwrap();
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let all = texts(folder.path());
        let whole: String = all
            .iter()
            .filter(|(name, _)| name != "audit-else.log")
            .map(|(_, text)| text.as_str())
            .collect();
        // Two fit in a file: 0 to 7 in four files, of which two are kept, and 8 in the newest.
        let wanted: Vec<_> = (4..9).map(event).collect();
        assert_eq!(whole.as_bytes(), lines(&wanted));
        assert_eq!(all.len(), 4, "{all:?}");
    }

    #[tokio::test]
    async fn what_is_too_old_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let keep = Keep {
            age: Some(Duration::ZERO),
            files: 100,
            ..KEEP
        };
        let mut log = LogFile::open(path, keep).unwrap();
        for number in 0..7 {
            log.write(&[event(number)]).await.unwrap();
        }
        assert_eq!(texts(folder.path()).len(), 1);
    }

    #[tokio::test]
    async fn half_a_line_stays_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(&path, "{\"whole\":1}\n{\"hal").unwrap();
        let mut log = LogFile::open(path.clone(), KEEP).unwrap();
        log.write(&[event(1)]).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(text.lines().last().unwrap().as_bytes(), event(1));
    }

    /// As logrotate does without being told of us.
    #[tokio::test]
    async fn a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = LogFile::open(path.clone(), KEEP).unwrap();
        log.write(&[event(1)]).await.unwrap();
        fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        log.write(&[event(2)]).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), lines(&[event(2)]));
    }

    /// As logrotate's `copytruncate` does, and `: > audit.log`.
    #[tokio::test]
    async fn a_file_that_was_truncated_goes_on_from_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = LogFile::open(path.clone(), KEEP).unwrap();
        log.write(&[event(1), event(2)]).await.unwrap();
        let truncated = OpenOptions::new().write(true).open(&path).unwrap();
        truncated.set_len(0).unwrap();
        log.write(&[event(3)]).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), lines(&[event(3)]));
        // In the middle of a line.
        truncated.set_len(10).unwrap();
        log.write(&[event(4)]).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(text.lines().last().unwrap().as_bytes(), event(4));
        // The file holds two events, and no more than it had before it was truncated: nothing was put aside.
        assert_eq!(texts(folder.path()).len(), 1);
    }

    /// /dev/full fails as a full disk does.
    #[tokio::test]
    async fn a_disk_that_is_full_is_an_error() {
        let error = LogFile::open("/dev/full".into(), KEEP)
            .unwrap()
            .write(&[event(1)])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}
