//! Why the API server gave no response.

use std::sync::Arc;

use super::endpoint::ConnectError;
use underpass_core::Rejection;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No connection.
    #[error("no connection to the API server")]
    Connect(#[source] Arc<ConnectError>),
    /// Every connection that we allow ourselves is full.
    #[error("too many requests in flight")]
    Full,
    /// The API server did not act on the request, and it could not be sent again.
    #[error("the API server did not take the request")]
    Unprocessed(#[source] hyper::Error),
    /// A connection that was used before ended without a byte of an answer: most likely it was idle for too long. The request reads
    /// only, and may be sent once more.
    #[error("the connection to the API server had ended")]
    Stale(#[source] hyper::Error),
    /// The connection failed; whether the API server acted is not known, so that it is not sent again.
    #[error("the connection to the API server failed")]
    Failed(#[source] hyper::Error),
}

impl SendError {
    pub(super) fn rejection(&self) -> Rejection {
        match self {
            Self::Connect(error) => error.rejection(),
            Self::Full => Rejection::TooManyRequests,
            Self::Unprocessed(_) => Rejection::Unavailable,
            Self::Stale(_) | Self::Failed(_) => {
                Rejection::ApiServerUnreachable("the connection was lost")
            }
        }
    }
}
