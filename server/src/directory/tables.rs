//! The tables of the directory's file.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use underpass_directory::{Contents, ObjectKind, Record, Revision, Write};

/// Objects: kind and name, to the revision of the last change and JSON.
const OBJECTS: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("objects");

/// Numbers about the whole.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";

/// How the file is laid out. Another one is not read.
pub(super) const THIS_FORMAT: u64 = 1;

/// The file's format, which a new one gets. A file that has one is only read: its disk may be full.
pub(super) fn format(database: &Database) -> Result<u64, redb::Error> {
    let found = match database.begin_read()?.open_table(META) {
        Ok(meta) => meta.get(FORMAT)?.map(|format| format.value()),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match found {
        Some(format) => Ok(format),
        None => write_format(database).map(|()| THIS_FORMAT),
    }
}

/// Writes the format, which changes nothing where it is there: a commit like any other.
pub(super) fn write_format(database: &Database) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    writing.open_table(OBJECTS)?;
    writing.open_table(META)?.insert(FORMAT, THIS_FORMAT)?;
    Ok(writing.commit()?)
}

pub(super) fn revision(database: &Database) -> Result<Revision, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let revision = meta.get(REVISION)?;
    Ok(Revision(revision.map_or(0, |revision| revision.value())))
}

pub(super) fn load(database: &Database) -> Result<Contents, redb::Error> {
    let reading = database.begin_read()?;
    let revision = reading.open_table(META)?.get(REVISION)?;
    let mut contents = Contents {
        revision: Revision(revision.map_or(0, |revision| revision.value())),
        ..Contents::default()
    };
    for item in reading.open_table(OBJECTS)?.iter()? {
        let (key, value) = item?;
        let ((kind, name), (revision, value)) = (key.value(), value.value());
        let kind = ObjectKind::from_name(kind).ok_or_else(|| {
            redb::Error::Corrupted(format!("an object of the unknown kind {kind:?}"))
        })?;
        let record = Record {
            revision: Revision(revision),
            value: value.to_vec(),
        };
        contents.records.insert((kind, name.to_owned()), record);
    }
    Ok(contents)
}

/// Durable once it returns: the file is synced. `None`: the file is not at `at`.
pub(super) fn commit(
    database: &Database,
    at: Revision,
    writes: &[Write],
) -> Result<Option<Revision>, redb::Error> {
    let writing = database.begin_write()?;
    let revision = at.next();
    {
        let mut meta = writing.open_table(META)?;
        let now = meta.get(REVISION)?.map_or(0, |revision| revision.value());
        if now != at.0 {
            return Ok(None);
        }
        meta.insert(REVISION, revision.0)?;
        let mut objects = writing.open_table(OBJECTS)?;
        for Write { key, value } in writes {
            let key = (key.0.as_str(), key.1.as_str());
            match value {
                Some(value) => drop(objects.insert(key, (revision.0, value.as_slice()))?),
                None => drop(objects.remove(key)?),
            }
        }
    }
    writing.commit()?;
    Ok(Some(revision))
}
