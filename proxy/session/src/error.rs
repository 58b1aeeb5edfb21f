//! Why there is no session, or no stream of one.

use std::sync::Arc;

use thiserror::Error;
use underpass_api::Problem;
use underpass_api::client::{ClientError, ServerError};
use underpass_core::BoxError;
use underpass_tunnel::{ConfigError, KeyError, ResetCode, StreamError};

/// Why there is no session.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not the URL of a server.
    #[error("{0:?} is not https://HOST[:PORT]")]
    Url(String),
    /// A key cannot be made.
    #[error("cannot make the session's key")]
    Key(#[source] KeyError),
    /// Nothing can be dialled with this configuration.
    #[error("the session cannot be configured")]
    Config(#[from] ConfigError),
    /// There is no credential.
    #[error("there is no credential for the server")]
    Credential(#[source] BoxError),
    /// The credential, or the server's address, cannot be used.
    #[error("the server cannot be asked")]
    Server(#[from] ServerError),
    /// The server is older than this program.
    #[error(
        "this server has no user sessions: it is older than this program, or something in front of it keeps them from it"
    )]
    NoUserSessions,
    /// The server does not accept the credential.
    #[error("the server does not accept the credential: {0}")]
    Unauthorized(Problem),
    /// The server does not register the key: there are too many sessions, for example.
    #[error("the server gives no session: {0}")]
    Refused(Problem),
    /// The server does not answer.
    #[error("cannot register the session's key")]
    Register(#[source] ClientError),
    /// The server cannot be reached, or lets the session not in.
    #[error("cannot open a session")]
    Dial(#[from] underpass_tunnel::ConnectError),
}

/// Why there is no stream.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The session has no connection, and none came in time.
    #[error("the connection to the server is lost")]
    Away,
    /// The session is over.
    #[error("the session has ended")]
    Ended,
    /// There is none, since the server does not accept the user's credential: why, for people.
    #[error("{0}")]
    Refused(Arc<str>),
    /// It takes no stream.
    #[error("the session opens no stream")]
    Stream(#[from] underpass_tunnel::OpenError),
    /// The server has not taken it.
    #[error("the server has not taken the stream")]
    NotTaken(#[source] Arc<StreamError>),
}

impl OpenError {
    /// May another attempt succeed, once the path is there again?
    pub(super) fn is_of_the_path(&self) -> bool {
        match self {
            Self::Away | Self::Ended | Self::Refused(_) => false,
            Self::Stream(error) => matches!(
                error,
                underpass_tunnel::OpenError::NoAnswer(_) | underpass_tunnel::OpenError::Session(_)
            ),
            Self::NotTaken(error) => match error.as_ref() {
                StreamError::Refused { code, .. } => *code == ResetCode::GoingAway,
                StreamError::NoAnswer(_) | StreamError::Unanswered | StreamError::Session(_) => {
                    true
                }
                _ => false,
            },
        }
    }
}
