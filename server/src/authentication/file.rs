//! Reading the authentication file, and what it names.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use underpass_authenticate::{ConfigError, Misconfigured};
use underpass_core::files;
use underpass_core::yaml::Fault;
use zeroize::Zeroizing;

use super::entry::Entry;

/// A file larger than this is not what it should be.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The file's content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) authenticators: Vec<Entry>,
}

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum AuthenticationError {
    #[error("cannot read the authentication file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no valid authentication file: at {at}", path.display())]
    Parse {
        path: PathBuf,
        at: String,
        // A secret may stand where the name of its file should.
        source: Fault,
    },
    #[error("the authentication file is not valid: {at}")]
    Entry { at: String, source: ConfigError },
    #[error("the authentication file is not valid: {at}")]
    Invalid { at: String, source: Misconfigured },
    #[error("two authenticators of this program have the name \"{0}\"")]
    OwnTwice(String),
    #[error("the authentication file is not valid: at {at}: cannot read {}", path.display())]
    Named {
        at: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the authentication file, or one that it names, is not read")]
    Stuck(#[source] files::Stuck),
}

impl AuthenticationError {
    pub(super) fn entry(at: String, field: &str, why: Misconfigured) -> Self {
        let field = field.to_owned();
        Self::Entry {
            at,
            source: ConfigError { field, why },
        }
    }
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, AuthenticationError> {
        let bytes = read(path).map_err(|source| AuthenticationError::Read {
            path: path.into(),
            source,
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let mut at = String::new();
        let parsed = serde_saphyr::with_deserializer_from_str(&text, |deserializer| {
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                at = error.path().to_string();
                error.into_inner()
            })
        });
        let file: Self = parsed.map_err(|source| AuthenticationError::Parse {
            path: path.into(),
            at,
            source: Fault::of(&source),
        })?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), AuthenticationError> {
        if self.authenticators.is_empty() {
            let at = "authenticators".to_owned();
            let source = Misconfigured::Empty;
            return Err(AuthenticationError::Invalid { at, source });
        }
        for (position, entry) in self.authenticators.iter().enumerate() {
            let at = || format!("authenticators[{position}]");
            if let Err(source) = entry.kind() {
                return Err(AuthenticationError::Invalid { at: at(), source });
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if entry.name.is_empty() || !entry.name.chars().all(legal) {
                let why = Misconfigured::Invalid("must be letters, digits, '-', '_' and '.'");
                return Err(AuthenticationError::entry(at(), "name", why));
            }
            let before = self.authenticators.iter().take(position);
            if before.clone().any(|other| other.name == entry.name) {
                let why = Misconfigured::Twice(entry.name.clone());
                return Err(AuthenticationError::entry(at(), "name", why));
            }
            let clash = |other: &Entry| entry.clash(other).or_else(|| entry.shares_names(other));
            if let Some((field, why)) = before.clone().find_map(clash) {
                return Err(AuthenticationError::entry(at(), field, why));
            }
        }
        Ok(())
    }
}

/// The entries of a file, each with the contents of the files that it names.
pub(super) type Wanted = Vec<(Entry, Contents)>;

/// Reads the file, and every file that it names. Blocks. Without a file there are Underpass's own tokens.
pub(super) fn read_all(path: Option<&Path>) -> Result<Wanted, AuthenticationError> {
    let entries = match path {
        Some(path) => File::read(path)?.authenticators,
        None => vec![Entry::tokens()],
    };
    // Paths are relative to the authentication file.
    let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let mut read = Vec::with_capacity(entries.len());
    for (position, entry) in entries.into_iter().enumerate() {
        let contents = Contents::read(&entry.files(), position, folder)?;
        read.push((entry, contents));
    }
    Ok(read)
}

/// The contents of the files that an entry names. Some of it is secret.
#[derive(Clone, PartialEq)]
pub(super) struct Contents(Vec<(PathBuf, Zeroizing<Vec<u8>>)>);

impl Contents {
    pub(super) fn read(
        files: &[(String, &Path)],
        position: usize,
        folder: &Path,
    ) -> Result<Self, AuthenticationError> {
        let read = |(field, path): &(String, &Path)| match read(&folder.join(path)) {
            Ok(bytes) => Ok((path.to_path_buf(), bytes)),
            Err(source) => Err(AuthenticationError::Named {
                at: format!("authenticators[{position}].{field}"),
                path: folder.join(path),
                source,
            }),
        };
        files.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Each file, by its name in the entry.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        let files = self.0.iter();
        files.map(|(path, bytes)| (path.as_path(), bytes.as_slice()))
    }

    pub(super) fn of(&self, path: &Path) -> &[u8] {
        let file = self.0.iter().find(|(name, _)| name == path);
        file.map(|(_, bytes)| bytes.as_slice()).unwrap_or_default()
    }

    /// All of these, one after the other.
    pub(super) fn of_all(&self, paths: &[PathBuf]) -> Vec<u8> {
        let files: Vec<_> = paths.iter().map(|path| self.of(path)).collect();
        files.join(&b'\n')
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    files::read(path, MAX_BYTES)
}

/// `10s`, `5m`, `1h 30m`.
pub(super) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = humantime::parse_duration(&text).map(Some);
    parsed.map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"a duration, such as 30s"))
}
