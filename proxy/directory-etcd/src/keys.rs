//! The keys of a directory, and their values.
//!
//! | key below the prefix | value |
//! |---|---|
//! | `format` | [`Mark`](crate::mark::Mark): whose directory it is, and how it is laid out |
//! | `revision` | [`State`](crate::state::State), which each transaction compares and sets |
//! | `objects/KIND/NAME` | the revision of the object's last change, a space, JSON |
//! | `parts/COMMIT/NUMBER` | writes of a change that no transaction holds ([`large`](crate::large)) |
//! | `probe` | never there: what [`check`](crate::EtcdStore) would write |

use underpass_directory::{Key, ObjectKind, Record, Revision};

use crate::config::Prefix;
use crate::error::EtcdError;

/// The keys below a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: Prefix,
    pub(crate) mark: Vec<u8>,
    pub(crate) state: Vec<u8>,
    pub(crate) probe: Vec<u8>,
    pub(crate) objects: Vec<u8>,
    pub(crate) parts: Vec<u8>,
}

impl Keys {
    pub(crate) fn below(prefix: Prefix) -> Self {
        let key = |name: &str| [prefix.as_bytes(), name.as_bytes()].concat();
        Self {
            mark: key("format"),
            state: key("revision"),
            probe: key("probe"),
            objects: key("objects/"),
            parts: key("parts/"),
            prefix,
        }
    }

    pub(crate) fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    pub(crate) fn object(&self, (kind, name): &Key) -> Vec<u8> {
        let mut key = self.objects.clone();
        key.extend_from_slice(kind.as_str().as_bytes());
        key.push(b'/');
        key.extend_from_slice(name.as_bytes());
        key
    }

    /// The object that has this key.
    pub(crate) fn read_object(&self, key: &[u8]) -> Result<Key, EtcdError> {
        let read = || {
            let rest = key.strip_prefix(&*self.objects)?;
            let (kind, name) = std::str::from_utf8(rest).ok()?.split_once('/')?;
            Some((ObjectKind::from_name(kind)?, name.to_owned()))
        };
        read().ok_or_else(|| damaged(key))
    }

    /// All parts of one change.
    pub(crate) fn parts_of(&self, commit: &str) -> Vec<u8> {
        [&*self.parts, commit.as_bytes(), b"/"].concat()
    }

    pub(crate) fn part(&self, commit: &str, number: usize) -> Vec<u8> {
        let number = format!("{number:04}");
        [&*self.parts_of(commit), number.as_bytes()].concat()
    }
}

/// The value of an object's key.
pub(crate) fn write_record(revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{revision} ").into_bytes();
    bytes.extend_from_slice(value);
    bytes
}

/// Reads the output of [`write_record`].
pub(crate) fn read_record(key: &[u8], value: &[u8]) -> Result<Record, EtcdError> {
    let read = || {
        let space = value.iter().position(|byte| *byte == b' ')?;
        let (revision, rest) = value.split_at_checked(space)?;
        let revision = std::str::from_utf8(revision).ok()?.parse().ok()?;
        Some(Record {
            revision: Revision(revision),
            value: rest.get(1..)?.to_vec(),
        })
    };
    read().ok_or_else(|| damaged(key))
}

pub(crate) fn damaged(key: &[u8]) -> EtcdError {
    EtcdError::Damaged {
        key: String::from_utf8_lossy(key).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_again_by_its_key() {
        let keys = Keys::below(Prefix::default());
        for name in ["alice", "", "a/b", "/", "\u{e4} \u{1f600}", "%2f", ".."] {
            for kind in ObjectKind::ALL {
                let key = (kind, name.to_owned());
                assert_eq!(keys.read_object(&keys.object(&key)).unwrap(), key);
            }
        }
        assert_eq!(
            keys.object(&(ObjectKind::User, "alice".to_owned())),
            b"/underpass/objects/user/alice"
        );
        for key in [
            "/underpass/objects/user",
            "/underpass/objects/dragon/x",
            "/other/objects/user/x",
        ] {
            let error = keys.read_object(key.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        keys.read_object(b"/underpass/objects/user/\xff")
            .unwrap_err();
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for value in [&b"{}"[..], b"", b" ", b"7 8", b"\xff\0"] {
            let record = read_record(b"k", &write_record(Revision(42), value)).unwrap();
            assert_eq!((record.revision, &*record.value), (Revision(42), value));
        }
        for value in [&b""[..], b"{}", b"7", b"x {}", b"-1 {}", b"\xff {}"] {
            read_record(b"k", value).unwrap_err();
        }
    }

    #[test]
    fn parts_are_in_the_order_of_their_numbers() {
        let keys = Keys::below(Prefix::default());
        assert!(keys.part("c", 9) < keys.part("c", 10));
        assert!(keys.part("c", 9).starts_with(&keys.parts_of("c")));
        assert!(!keys.part("cc", 9).starts_with(&keys.parts_of("c")));
    }
}
