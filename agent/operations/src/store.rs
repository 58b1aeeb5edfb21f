//! Records on the disk: a file each, replaced as a whole, and durable once a call has returned. Every method blocks.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use underpass_api::{OperationId, OperationRecord, OperationState, OutputBytes};

use crate::error::OpenError;
use crate::limits;

/// A record.
const RECORD: &str = "json";
/// A record that is not yet whole.
const UNFINISHED: &str = "tmp";
/// Room for the record of a run's end.
const KEPT_FREE: &str = "end";
/// The output of a run.
const OUTPUT: &str = "output";

/// A directory of records, which this process alone uses.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
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
        let lock = private().create(true).write(true).open(folder.join("lock"));
        let lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(folder.to_owned()),
            TryLockError::Error(source) => failed(source),
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    fn path(&self, id: &OperationId, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    /// The file of a run's output.
    pub(crate) fn output(&self, id: &OperationId) -> PathBuf {
        self.path(id, OUTPUT)
    }

    /// Every record. A file that cannot be read is one of a run that must not be repeated all the same. Files without a record go.
    pub(crate) fn load(&self) -> io::Result<Vec<OperationRecord>> {
        let mut records = Vec::new();
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let id = id.and_then(|id| id.parse::<OperationId>().ok());
            match (id, path.extension().and_then(|text| text.to_str())) {
                (Some(id), Some(RECORD)) => records.push(read(&path, id)),
                (Some(id), Some(UNFINISHED | KEPT_FREE | OUTPUT)) => others.push((id, path)),
                _ => {}
            }
        }
        for (id, path) in others {
            let is_output = path.extension().is_some_and(|text| text == OUTPUT);
            if !is_output || !records.iter().any(|record| record.id == id) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(records)
    }

    /// Writes the record of a run that is to begin, and keeps room for the record of its end.
    pub(crate) fn create(&self, record: &OperationRecord) -> io::Result<()> {
        let text = encode(record)?;
        // The end's record has a reason and numbers more.
        let room = text.len().saturating_add(4096);
        let written = self.write(&self.path(&record.id, KEPT_FREE), &vec![b' '; room]);
        let written = written.and_then(|()| self.put(record, &text));
        if written.is_err() {
            self.remove(&record.id);
        }
        written
    }

    /// Writes the record of a run that has ended, into the room that was kept for it.
    pub(crate) fn finish(&self, record: &OperationRecord) -> io::Result<()> {
        let text = encode(record)?;
        let room = self.path(&record.id, KEPT_FREE);
        // Without the room, as after a restart: any place will do.
        let Ok(mut file) = OpenOptions::new().write(true).open(&room) else {
            return self.put(record, &text);
        };
        file.write_all(&text)?;
        file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
        file.sync_all()?;
        std::fs::rename(&room, self.path(&record.id, RECORD))?;
        self.sync()
    }

    fn put(&self, record: &OperationRecord, text: &[u8]) -> io::Result<()> {
        let unfinished = self.path(&record.id, UNFINISHED);
        self.write(&unfinished, text)?;
        std::fs::rename(&unfinished, self.path(&record.id, RECORD))?;
        self.sync()
    }

    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let options = private().create(true).write(true).truncate(true).open(path);
        let mut file = options?;
        file.write_all(text)?;
        file.sync_all()
    }

    /// The directory's entries are durable from now on.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Removes a record and its output, as far as they are there.
    pub(crate) fn remove(&self, id: &OperationId) {
        // The record first: an output without a record goes at the next start.
        for extension in [RECORD, UNFINISHED, KEPT_FREE, OUTPUT] {
            match std::fs::remove_file(self.path(id, extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%id, "a file of an operation cannot be removed: {error}");
                }
                _ => {}
            }
        }
    }

    /// Free bytes of the disk.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// A file that its owner alone can read: output may be confidential.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn encode(record: &OperationRecord) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(record)?;
    text.push(b'\n');
    Ok(text)
}

fn read(path: &Path, id: OperationId) -> OperationRecord {
    let mut text = Vec::new();
    let most = limits::RECORD_BYTES;
    let file = File::open(path).and_then(|file| file.take(most).read_to_end(&mut text));
    let record = file.and_then(|_| Ok(serde_json::from_slice::<OperationRecord>(&text)?));
    match record {
        Ok(record) if record.id == id => record,
        unusable => {
            let why = match unusable {
                Ok(_) => "it is another run's".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::error!(%id, "the record of an operation cannot be read: {why}");
            unreadable(id)
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
