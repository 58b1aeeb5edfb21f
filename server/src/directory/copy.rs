//! A directory's copy in a file: lines of JSON, with a checksum at the end.
//!
//! Secrets are in it as the store has them: sealed, with a key that is not in it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use underpass_directory::{Contents, Key, ObjectKind, Record, Revision};

/// How the lines are written. Another one is not read.
const THIS_VERSION: u64 = 1;

/// A text that is no copy.
#[derive(Debug, Error)]
pub(crate) enum CopyError {
    #[error("the value of {kind} {name:?} is not JSON")]
    Value {
        kind: ObjectKind,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("it is no copy of a directory")]
    NoCopy,
    #[error(
        "it is of version {0} of such copies; this version of the program reads {THIS_VERSION}"
    )]
    Version(u64),
    #[error("it is cut off, or was changed: its checksum is not that of its lines")]
    Checksum,
    #[error("line {0} is no object that this version of the program knows")]
    Line(usize),
    #[error("line {line} has {kind} {name:?} a second time")]
    Twice {
        line: usize,
        kind: ObjectKind,
        name: String,
    },
    #[error("it has {found} objects, and says that it has {said}")]
    Count { found: usize, said: usize },
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Head {
    underpass_directory: u64,
    revision: u64,
    objects: usize,
}

/// An object's line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: String,
    name: String,
    revision: u64,
    value: serde_json::Value,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    /// Of all bytes before this line.
    sha256: String,
}

fn checksum(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes a copy.
///
/// # Errors
/// A value is not JSON.
pub(crate) fn write(contents: &Contents) -> Result<String, CopyError> {
    let head = Head {
        underpass_directory: THIS_VERSION,
        revision: contents.revision.0,
        objects: contents.records.len(),
    };
    let mut text = String::new();
    line(&mut text, &head);
    for ((kind, name), record) in &contents.records {
        let value = serde_json::from_slice(&record.value).map_err(|source| CopyError::Value {
            kind: *kind,
            name: name.clone(),
            source,
        })?;
        let object = Line {
            kind: kind.as_str().to_owned(),
            name: name.clone(),
            revision: record.revision.0,
            value,
        };
        line(&mut text, &object);
    }
    let sha256 = checksum(&text);
    line(&mut text, &Foot { sha256 });
    Ok(text)
}

fn line(text: &mut String, value: &impl Serialize) {
    // Strings, numbers and JSON that was read: it can be written.
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
    text.push('\n');
}

/// Reads a copy.
///
/// # Errors
/// It is none, or not as it was written.
pub(crate) fn read(text: &str) -> Result<Contents, CopyError> {
    let first = text.lines().next().unwrap_or_default();
    let version = serde_json::from_str::<serde_json::Value>(first).ok();
    let version = version.and_then(|head| head.get("underpassDirectory")?.as_u64());
    match version {
        None => return Err(CopyError::NoCopy),
        Some(THIS_VERSION) => {}
        Some(other) => return Err(CopyError::Version(other)),
    }
    let head: Head = serde_json::from_str(first).map_err(|_| CopyError::NoCopy)?;
    let whole = text.strip_suffix('\n').ok_or(CopyError::Checksum)?;
    let (body, foot) = whole.rsplit_once('\n').ok_or(CopyError::Checksum)?;
    let foot: Foot = serde_json::from_str(foot).map_err(|_| CopyError::Checksum)?;
    if foot.sha256 != checksum(&format!("{body}\n")) {
        return Err(CopyError::Checksum);
    }
    let mut records = BTreeMap::<Key, Record>::new();
    for (number, text) in body.lines().enumerate().skip(1) {
        let number = number.saturating_add(1);
        let (key, record) = object(text).ok_or(CopyError::Line(number))?;
        if records.insert(key.clone(), record).is_some() {
            return Err(CopyError::Twice {
                line: number,
                kind: key.0,
                name: key.1,
            });
        }
    }
    if records.len() != head.objects {
        return Err(CopyError::Count {
            found: records.len(),
            said: head.objects,
        });
    }
    Ok(Contents {
        revision: Revision(head.revision),
        records,
    })
}

fn object(text: &str) -> Option<(Key, Record)> {
    let line: Line = serde_json::from_str(text).ok()?;
    let kind = ObjectKind::from_name(&line.kind)?;
    let record = Record {
        revision: Revision(line.revision),
        value: serde_json::to_vec(&line.value).ok()?,
    };
    Some(((kind, line.name), record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let record = |revision, value: &str| Record {
            revision: Revision(revision),
            value: value.as_bytes().to_vec(),
        };
        let records = [
            ((ObjectKind::User, "alice"), record(3, r#"{"uid":"1"}"#)),
            ((ObjectKind::User, "a\nb \u{e4}"), record(1, "{}")),
            ((ObjectKind::Binding, "b"), record(7, r#"{"role":"view"}"#)),
        ];
        let records = records.map(|((kind, name), record)| ((kind, name.to_owned()), record));
        Contents {
            revision: Revision(7),
            records: records.into(),
        }
    }

    #[test]
    fn a_copy_is_read_as_it_was_written() {
        for contents in [contents(), Contents::default()] {
            let text = write(&contents).unwrap();
            assert_eq!(read(&text).unwrap(), contents);
            assert_eq!(text.lines().count(), contents.records.len() + 2);
        }
    }

    #[test]
    fn a_copy_that_is_cut_or_changed_is_refused() {
        let text = write(&contents()).unwrap();
        for end in 0..text.len() {
            if let Some(cut) = text.get(..end) {
                read(cut).unwrap_err();
            }
        }
        let changed = text.replace("alice", "mallory");
        assert!(matches!(read(&changed), Err(CopyError::Checksum)));
        let again = |body: &str| format!("{body}{{\"sha256\":\"{}\"}}\n", checksum(body));
        let body = text.rsplit_once("{\"sha256").unwrap().0;
        assert!(read(&again(body)).is_ok());
        let dragon = body.replace("\"kind\":\"user\"", "\"kind\":\"dragon\"");
        assert!(matches!(read(&again(&dragon)), Err(CopyError::Line(2))));
        let fewer = body.replace("\"objects\":3", "\"objects\":4");
        assert!(matches!(read(&again(&fewer)), Err(CopyError::Count { .. })));
        let twice = format!("{body}{}\n", body.lines().nth(1).unwrap());
        assert!(matches!(read(&again(&twice)), Err(CopyError::Twice { .. })));
        let newer = text.replacen(":1", ":2", 1);
        assert!(matches!(read(&newer), Err(CopyError::Version(2))));
        for other in ["", "{}", "users: 7\n"] {
            assert!(matches!(read(other), Err(CopyError::NoCopy)));
        }
    }
}
