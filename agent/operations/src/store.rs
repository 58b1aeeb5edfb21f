//! Records on the disk: a file each, replaced as a whole, and durable once a call has returned. Every method blocks.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::process::geteuid;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use underpass_api::{OperationId, OperationRecord, OperationState, OutputBytes};

use crate::error::OpenError;
use crate::limits;
use crate::output::{Reader, Writer};
use crate::stored::Stored;

/// A record.
const RECORD: &str = "json";
/// A record that is not yet whole.
const UNFINISHED: &str = "tmp";
/// Room for the record of a run's end.
const KEPT_FREE: &str = "end";
/// The output of a run.
const OUTPUT: &str = "output";
/// The places where its stream changes.
const PLACES: &str = "places";

/// A directory of records, which this process alone uses.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// A name that no other directory of this machine has at the same time.
    name: String,
    /// Places for those who read output: a disk that hangs keeps so many threads, and no more.
    readers: Arc<Semaphore>,
    /// Held as long as the store is open.
    _lock: File,
}

impl Store {
    pub(crate) fn open(folder: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory {
            directory: folder.to_owned(),
            source,
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed)?;
        let about = std::fs::symlink_metadata(folder).map_err(failed)?;
        let around = folder.parent().filter(|path| *path != Path::new(""));
        let around = around.map(std::fs::metadata).transpose().map_err(failed)?;
        if !is_own(&about) || around.as_ref().is_some_and(lets_others_in) {
            return Err(OpenError::Shared(folder.to_owned()));
        }
        let lock = private().create(true).write(true).open(folder.join("lock"));
        let lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(folder.to_owned()),
            TryLockError::Error(source) => failed(source),
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            name: format!("{:x}.{:x}", about.dev(), about.ino()),
            readers: Arc::new(Semaphore::new(limits::READERS)),
            _lock: lock,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn readers(&self) -> &Arc<Semaphore> {
        &self.readers
    }

    fn path(&self, id: &OperationId, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    /// Every record. A file that cannot be read is one of a run that must not be repeated all the same. Files without a record go.
    pub(crate) fn load(&self) -> io::Result<Vec<Stored>> {
        let mut records = Vec::new();
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let id = id.and_then(|id| id.parse::<OperationId>().ok());
            match (id, path.extension().and_then(|text| text.to_str())) {
                (Some(id), Some(RECORD)) => records.push(read(&path, id)),
                (Some(id), Some(extension @ (UNFINISHED | KEPT_FREE | OUTPUT | PLACES))) => {
                    let is_output = matches!(extension, OUTPUT | PLACES);
                    let is_room = extension == KEPT_FREE;
                    others.push((id, path, is_output, is_room));
                }
                _ => {}
            }
        }
        let running = |stored: &Stored| (stored.record.id.clone(), !stored.record.has_ended());
        let is_running: HashMap<_, _> = records.iter().map(running).collect();
        for (id, path, is_output, is_room) in others {
            let is_needed = match is_running.get(&id) {
                // Its end has yet to be recorded, on a disk that may be full.
                Some(true) => is_output || is_room,
                Some(false) => is_output,
                None => false,
            };
            if is_needed {
                continue;
            }
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%id, "a file that is left of an operation cannot be removed: {error}");
            }
        }
        Ok(records)
    }

    /// Empty files for the output of a run, of so many bytes altogether.
    pub(crate) fn write_output(&self, id: &OperationId, limit: u64) -> io::Result<Writer> {
        let data = new(&self.path(id, OUTPUT))?;
        Ok(Writer::new(data, new(&self.path(id, PLACES))?, limit))
    }

    /// The output of a run.
    pub(crate) fn read_output(&self, id: &OperationId) -> io::Result<Reader> {
        let data = open(&self.path(id, OUTPUT))?;
        Ok(Reader::new(data, open(&self.path(id, PLACES))?))
    }

    /// The bytes of a run's output that are there, and those of its files; `None` where it has none.
    pub(crate) fn output_bytes(&self, id: &OperationId) -> io::Result<Option<(u64, u64)>> {
        let length = |extension| match std::fs::metadata(self.path(id, extension)) {
            Ok(about) => Ok(Some(about.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let (data, places) = (length(OUTPUT)?, length(PLACES)?);
        Ok(data.map(|data| (data, data.saturating_add(places.unwrap_or(0)))))
    }

    /// Writes the record of a run that is to begin, and keeps room for the record of its end.
    pub(crate) fn create(&self, stored: &Stored) -> io::Result<()> {
        let (id, text) = (&stored.record.id, encode(stored)?);
        // The end's record has a reason and numbers more.
        let room = text.len().saturating_add(4096);
        let written = write(&self.path(id, KEPT_FREE), &vec![b' '; room]);
        let written = written.and_then(|()| self.put(id, &text));
        if written.is_err() {
            self.remove(id);
        }
        written
    }

    /// Writes the record of a run that has ended, into the room that was kept for it.
    pub(crate) fn finish(&self, stored: &Stored) -> io::Result<()> {
        let (id, text) = (&stored.record.id, encode(stored)?);
        let room = self.path(id, KEPT_FREE);
        // Without the room, any place will do.
        let Ok(mut file) = private().write(true).open(&room) else {
            return self.put(id, &text);
        };
        file.write_all(&text)?;
        file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
        file.sync_all()?;
        std::fs::rename(&room, self.path(id, RECORD))?;
        self.sync()
    }

    fn put(&self, id: &OperationId, text: &[u8]) -> io::Result<()> {
        let unfinished = self.path(id, UNFINISHED);
        write(&unfinished, text)?;
        std::fs::rename(&unfinished, self.path(id, RECORD))?;
        self.sync()
    }

    /// The directory's entries are durable from now on.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Removes a record and its output, as far as they are there.
    pub(crate) fn remove(&self, id: &OperationId) {
        // The record first: an output without a record goes at the next start.
        self.remove_files(id, &[RECORD, UNFINISHED, KEPT_FREE, OUTPUT, PLACES]);
    }

    /// Removes the output of a run. Its record stays.
    pub(crate) fn remove_output(&self, id: &OperationId) {
        self.remove_files(id, &[OUTPUT, PLACES]);
    }

    fn remove_files(&self, id: &OperationId, extensions: &[&str]) {
        for extension in extensions {
            if let Err(error) = remove_if_there(&self.path(id, extension)) {
                tracing::warn!(%id, "a file of an operation cannot be removed: {error}");
            }
        }
    }

    /// Free bytes of the disk.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// A directory of this process's user, which nobody else can write into.
fn is_own(about: &Metadata) -> bool {
    about.is_dir() && about.uid() == geteuid().as_raw() && about.mode() & 0o022 == 0
}

/// Whether every user can put another directory in the place of one that is in this one. Its group may be the agent's own.
fn lets_others_in(around: &Metadata) -> bool {
    let own = [0, geteuid().as_raw()].contains(&around.uid());
    let is_sticky = around.mode() & 0o1000 != 0;
    !own || (around.mode() & 0o002 != 0 && !is_sticky)
}

/// A file that its owner alone can read: output may be confidential. No link is followed to it.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options.mode(0o600).custom_flags(flags);
    options
}

fn open(path: &Path) -> io::Result<File> {
    private().read(true).open(path)
}

/// A file that was not there. An older one goes.
fn new(path: &Path) -> io::Result<File> {
    remove_if_there(path)?;
    private().create_new(true).write(true).open(path)
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = new(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(stored: &Stored) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(stored)?;
    text.push(b'\n');
    Ok(text)
}

fn read(path: &Path, id: OperationId) -> Stored {
    let mut text = Vec::new();
    let most = limits::RECORD_BYTES;
    let file = open(path).and_then(|file| file.take(most).read_to_end(&mut text));
    let stored = file.and_then(|_| Ok(serde_json::from_slice::<Stored>(&text)?));
    match stored {
        Ok(stored) if stored.record.id == id => stored,
        unusable => {
            let why = match unusable {
                Ok(_) => "it is another run's".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::error!(%id, "the record of an operation cannot be read: {why}");
            Stored::new(unreadable(id))
        }
    }
}

/// The record of a run of which the file tells nothing.
fn unreadable(id: OperationId) -> OperationRecord {
    let now = OffsetDateTime::now_utc();
    OperationRecord {
        id,
        operation: String::new(),
        arguments: std::collections::BTreeMap::default(),
        user: String::new(),
        uid: None,
        created: now,
        started: None,
        ended: Some(now),
        state: OperationState::Interrupted,
        exit: None,
        reason: Some("the record on the node's disk cannot be read".to_owned()),
        output: OutputBytes::default(),
    }
}
