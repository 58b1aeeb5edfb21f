//! Why there is no connection.

use std::{io, sync::Arc, time::Duration};

use http::StatusCode;
use underpass_core::BoxError;
use underpass_https::ConnectError;

/// Why the server is not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No connection: neither directly nor through the proxy.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] ConnectError),
    /// No TLS: most often the certificate of another CA.
    #[error("cannot verify the certificate of {0}, or speak TLS with it")]
    Tls(String, #[source] io::Error),
    /// Something in between speaks HTTP/1.1 only.
    #[error("{0} does not speak HTTP/2")]
    NoHttp2(String),
    /// It ended the connection at once.
    #[error("{0} does not speak HTTP/2 as it should")]
    Http2(String, #[source] h2::Error),
    /// It took too long.
    #[error("{0} does not answer within {1:?}")]
    TooSlow(String, Duration),
}

/// Why there is no stream to a target.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server or the agent refused: in their words, where there are any.
    #[error("{message} ({code})")]
    Refused {
        /// The status.
        code: StatusCode,
        /// One sentence.
        message: String,
    },
    /// There is no credential to ask with.
    #[error("there is no credential for the server")]
    Credential(#[source] Arc<BoxError>),
    /// The server is away.
    #[error("the server cannot be reached")]
    Away(#[source] Arc<DialError>),
    /// The server is away, or busy, and has been for too long.
    #[error("the server has no room for another connection")]
    NoRoom,
    /// The connection to the server was lost before its answer.
    #[error("the connection to the server was lost")]
    Lost(#[source] Arc<h2::Error>),
    /// The server did not answer.
    #[error("no answer from the server within {0:?}")]
    TooSlow(Duration),
    /// The target cannot be written into a request.
    #[error("the target cannot be asked for")]
    Target(#[source] Arc<http::Error>),
}
