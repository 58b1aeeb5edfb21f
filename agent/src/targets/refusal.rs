//! Why a stream to a target is refused.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use underpass_agent_policy::Denied;
use underpass_core::IdentityError;
use underpass_core::policy::NeverImpersonated;
use underpass_dial::UsedUp;
use underpass_tunnel::ResetCode;

use super::services::ServiceError;
use crate::limits;

/// The text is a sentence for the caller: it names nothing but the target. The source is for the log.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("the agent cannot read the identity")]
    Identity(#[source] IdentityError),
    #[error("{0} in this cluster")]
    Impersonation(NeverImpersonated),
    #[error("{0}")]
    Policy(Denied),
    #[error(
        "the agent keeps no records of operations, and runs none: it needs --state-dir, and a folder there that it can use"
    )]
    NoRecords,
    #[error("this agent opens no shells")]
    NoShells,
    #[error("there is no such shell of yours at this agent")]
    NoShell,
    #[error("{0} belongs to the agent itself, and no policy allows it")]
    Own(String),
    #[error(
        "the agent has no room for another stream of yours: it may have {0} streams to targets, and keeps some for other users: try \
         again later"
    )]
    Overloaded(usize),
    #[error("{target} cannot be reached: the name does not resolve")]
    Unresolved { target: String, source: io::Error },
    #[error("{target} cannot be reached: {source}")]
    Service {
        target: String,
        source: ServiceError,
    },
    #[error("{target} cannot be reached: looking it up takes longer than {} s", limits::TARGET_TIME.as_secs())]
    LookupTimeout { target: String },
    #[error("{target} cannot be reached: it refuses connections")]
    Refused { target: String, source: io::Error },
    #[error("{target} cannot be reached: it did not answer within {} s", limits::TARGET_TIME.as_secs())]
    Silent { target: String },
    #[error("{target} cannot be reached: the agent's network has no route to it")]
    NoRoute { target: String, source: io::Error },
    #[error("{target} cannot be reached: on the agent's machine {what}; try again later")]
    UsedUp {
        target: String,
        what: UsedUp,
        source: io::Error,
    },
    #[error(
        "{target} cannot be reached: its path leads elsewhere than when it was looked up, through a symbolic link that was put there"
    )]
    Moved { target: String, source: io::Error },
    #[error("{target} cannot be reached: it is no socket")]
    OtherFile { target: String },
    #[error("{target} cannot be reached: there is no such socket")]
    NoSocket { target: String, source: io::Error },
    #[error("{target} cannot be reached: the agent's user may not open it")]
    NoPermission { target: String, source: io::Error },
    #[error("{target} cannot be reached: the connection failed")]
    Failed { target: String, source: io::Error },
}

impl Refusal {
    /// The reason for programs.
    pub(super) fn code(&self) -> ResetCode {
        match self {
            Self::Identity(_) => ResetCode::HeaderInvalid,
            Self::Policy(Denied::NotServed(_)) | Self::NoRecords | Self::NoShells => {
                ResetCode::UnknownTarget
            }
            Self::Impersonation(_) | Self::Policy(_) | Self::Own(_) => ResetCode::Forbidden,
            Self::Overloaded(_) | Self::UsedUp { .. } => ResetCode::Overloaded,
            Self::Unresolved { .. }
            | Self::NoShell
            | Self::Service { .. }
            | Self::LookupTimeout { .. }
            | Self::Refused { .. }
            | Self::Silent { .. }
            | Self::NoRoute { .. }
            | Self::Moved { .. }
            | Self::OtherFile { .. }
            | Self::NoSocket { .. }
            | Self::NoPermission { .. }
            | Self::Failed { .. } => ResetCode::TargetUnreachable,
        }
    }

    /// A name that does not resolve. To ask takes a connection as well.
    pub(super) fn resolving(target: String, source: io::Error) -> Self {
        match UsedUp::of(&source) {
            Some(what) => Self::UsedUp {
                target,
                what,
                source,
            },
            None => Self::Unresolved { target, source },
        }
    }

    /// A connection that failed.
    pub(super) fn connecting(target: String, source: io::Error) -> Self {
        if let Some(what) = UsedUp::of(&source) {
            return Self::UsedUp {
                target,
                what,
                source,
            };
        }
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { target, source },
            io::ErrorKind::TimedOut => Self::Silent { target },
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::NoRoute { target, source }
            }
            io::ErrorKind::NotFound => Self::NoSocket { target, source },
            io::ErrorKind::PermissionDenied => Self::NoPermission { target, source },
            _ => Self::Failed { target, source },
        }
    }
}

/// The connection's other end, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_hears_of_what_the_agents_machine_lacks_and_of_no_address() {
        let target = || "tcp:db:5432".to_owned();
        for (errno, what) in [
            (rustix::io::Errno::ADDRNOTAVAIL, "no local port is left"),
            (rustix::io::Errno::MFILE, "no open file is left"),
        ] {
            for refusal in [
                Refusal::connecting(target(), errno.into()),
                Refusal::resolving(target(), errno.into()),
            ] {
                let told = refusal.to_string();
                assert!(
                    told.contains(what) && told.contains("the agent's machine"),
                    "{told}"
                );
                // Another attempt may succeed soon.
                assert_eq!(refusal.code(), ResetCode::Overloaded);
            }
        }
        let gone = Refusal::resolving(target(), io::ErrorKind::NotFound.into());
        assert!(gone.to_string().contains("does not resolve"), "{gone}");
    }
}
