//! Why etcd is of no use now.

use std::error::Error;

use thiserror::Error;
use tonic::{Code, Status};

use crate::config::ConfigError;
use crate::mark::THIS_FORMAT;

/// Why the directory on etcd cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// Settings that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No endpoint was connected: nothing was asked.
    #[error("no endpoint of etcd can be reached ({endpoints})")]
    Unreachable {
        /// All of them.
        endpoints: String,
        /// The last attempt's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Asked, and not answered: the members may have no leader.
    #[error("etcd gives no answer (are most of its members up?)")]
    NoAnswer(#[source] Box<dyn Error + Send + Sync>),
    /// etcd takes nothing new.
    #[error(
        "etcd is full (its alarm NOSPACE) and takes no change, revocations included: make room (compact, defragment, or raise \
         --quota-backend-bytes), then `etcdctl alarm disarm`"
    )]
    Full,
    /// The user and the password are not etcd's.
    #[error("etcd does not know the user {user:?} with this password")]
    Login {
        /// The user.
        user: String,
        /// etcd's words.
        #[source]
        source: Box<Status>,
    },
    /// There is no password to log in with.
    #[error("cannot read the password of etcd's user in {}", path.display())]
    Password {
        /// Its file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Calls without a right.
    #[error(
        "etcd refuses: {0} (the user, or the client certificate's name, needs to read and write all keys below the prefix)"
    )]
    Denied(String),
    /// A transaction that etcd's settings do not allow.
    #[error(
        "etcd refuses the request: {0} (it has to be given a user where it asks for one, and needs the defaults of --max-txn-ops \
         and --max-request-bytes, or more)"
    )]
    Bounds(String),
    /// Another refusal.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// A change that no transaction holds.
    #[error(
        "a change of {bytes} bytes is more than etcd takes at once: make several changes of it"
    )]
    TooLarge {
        /// Of the change, or of the one object that is too large.
        bytes: usize,
    },
    /// Keys of something else.
    #[error(
        "the prefix {prefix} holds keys that are not Underpass's, such as {key:?}: choose another prefix"
    )]
    NotOurs {
        /// The prefix.
        prefix: String,
        /// One of them.
        key: String,
    },
    /// Written by another version.
    #[error("the prefix {prefix} has format {found}; this version reads {THIS_FORMAT}")]
    Format {
        /// The prefix.
        prefix: String,
        /// Its format.
        found: u64,
    },
    /// The directory of others.
    #[error(
        "the prefix {prefix} holds the directory of the installation {found}, and this server belongs to {expected}: choose \
         another prefix"
    )]
    AnotherInstallation {
        /// The prefix.
        prefix: String,
        /// The directory's.
        found: String,
        /// This server's.
        expected: String,
    },
    /// The directory was there.
    #[error(
        "the prefix {prefix} is empty, and the directory of this server's installation, {expected}, was there: restore etcd, or \
         import a copy of the directory"
    )]
    Gone {
        /// The prefix.
        prefix: String,
        /// This server's.
        expected: String,
    },
    /// There is no directory.
    #[error("the prefix {prefix} holds no directory")]
    NoDirectory {
        /// The prefix.
        prefix: String,
    },
    /// An older copy, or another history.
    #[error(
        "etcd has the directory at revision {found}, and this server was at {known} of another history: an older copy is in its \
         place, which would bring back what was revoked. Restore the right one, or restart the servers if this is meant"
    )]
    WentBack {
        /// etcd's.
        found: u64,
        /// This server's.
        known: u64,
    },
    /// A key with a value that no version writes.
    #[error("the value of the key {key:?} is damaged, or is from a newer version")]
    Damaged {
        /// The key.
        key: String,
    },
    /// Compaction was faster than each reading.
    #[error("the directory cannot be read as of one revision: etcd compacts too often")]
    Unsteady,
    /// The watch was ended by etcd.
    #[error("etcd does not let the directory be watched: {0}")]
    NoWatch(String),
}

/// Why one call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nothing was done, and another attempt may help.
    NotAsked(EtcdError),
    /// It may have been done.
    Lost(EtcdError),
    /// It was not done. The code is of use to callers that know why.
    Refused(Code, EtcdError),
}

impl CallError {
    /// Reads a status, of etcd's or of the way there.
    pub(crate) fn of(status: Status) -> Self {
        let code = status.code();
        let message = || status.message().to_owned();
        // A status without a source has come from etcd. With these codes it may have passed the call on before.
        let is_lost = status.source().is_some()
            || matches!(
                code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::Internal
                    | Code::Aborted
            );
        if is_lost && code != Code::OutOfRange {
            return Self::Lost(EtcdError::NoAnswer(Box::new(status)));
        }
        let error = match code {
            // etcd's other use of the code is "too many requests".
            Code::ResourceExhausted if status.message().contains("space") => EtcdError::Full,
            Code::PermissionDenied | Code::Unauthenticated => EtcdError::Denied(message()),
            Code::InvalidArgument => EtcdError::Bounds(message()),
            _ => EtcdError::Refused(message()),
        };
        Self::Refused(code, error)
    }
}

impl From<CallError> for EtcdError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotAsked(error) | CallError::Lost(error) | CallError::Refused(_, error) => {
                error
            }
        }
    }
}
