//! The authenticators with which the server ran last, so that one that was changed while it did not run is known to be another.
//!
//! Each has a fingerprint of its entry and of the files that this names. It is keyed with the CA's private key: a backup of
//! the file lets nobody try passwords against it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::hmac;
use serde_json::Value;

use super::entry::Entry;
use super::file::Contents;
use crate::data_dir::{DataDir, FileError};

/// The file in the data directory.
const NAME: &str = "authenticators.json";

/// Fingerprints by the authenticators' names.
pub(super) type Known = BTreeMap<String, String>;

/// Where fingerprints are kept, and their key.
#[derive(Clone)]
pub(crate) struct Fingerprints {
    data: DataDir,
    key: hmac::Key,
}

impl Fingerprints {
    /// Of this data directory. `secret` lasts as long as the logins do: another one ends them.
    pub(crate) fn new(data: DataDir, secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = hmac::sign(&secret, b"underpass authenticators");
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_ref());
        Self { data, key }
    }

    /// The fingerprint of an entry with the contents of its files.
    pub(super) fn of(&self, entry: &Entry, contents: &Contents) -> String {
        let mut parts = vec![said(entry).to_string().into_bytes()];
        for (path, bytes) in contents.iter() {
            parts.push(path.as_os_str().as_encoded_bytes().to_vec());
            parts.push(bytes.to_vec());
        }
        self.sign(&parts)
    }

    /// The fingerprint of an embedder's authenticator, of which only the name is known.
    pub(super) fn of_own(&self) -> String {
        self.sign(&[])
    }

    fn sign(&self, parts: &[Vec<u8>]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            // With its length: the border between two parts is part of them.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        let mut text = String::new();
        for byte in context.sign().as_ref() {
            // A String takes everything.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The authenticators of the last run. `None` where no server has written them yet. Of a file that cannot be understood
    /// nothing is known: all of them are others then. Blocks.
    pub(super) fn read(&self) -> Result<Option<Known>, FileError> {
        let Some(text) = self.data.read(NAME)? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Replaces them. Blocks.
    pub(super) fn write(&self, known: &Known) -> Result<(), FileError> {
        let known: serde_json::Map<_, _> = known
            .iter()
            .map(|(name, fingerprint)| (name.clone(), Value::from(fingerprint.as_str())))
            .collect();
        self.data.write(NAME, &format!("{}\n", Value::from(known)))
    }
}

/// The fields of an entry that are set: a version that knows more fields makes the same of the same entry.
fn said(entry: &Entry) -> Value {
    // Texts, numbers and lists: all of it can be written.
    let mut value = serde_json::to_value(entry).unwrap_or_default();
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
