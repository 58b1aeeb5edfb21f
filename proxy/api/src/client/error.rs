//! Why the API gives no answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use underpass_core::{BoxError, Brief};
use underpass_https::{ConnectError, ProxyConfigError};

use crate::Problem;

/// Why a server cannot be asked at all: the caller's settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Not the URL of a server.
    #[error("{0:?} is not https://HOST[:PORT]")]
    Url(String),
    /// A credential that no header can hold.
    #[error("the credential holds characters that no credential has")]
    Credential,
    /// The cryptography has no TLS.
    #[error("there is no TLS to ask over")]
    Tls(#[source] rustls::Error),
    /// The proxy's CAs cannot be used.
    #[error("the proxy cannot be used")]
    Proxy(#[source] ProxyConfigError),
}

/// Why a request has no answer, or another one than it asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's own answer: it has not done what it was asked for.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The same, in other words than the API's: a load balancer's, for example.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// No server listens at the socket.
    #[error("no server answers at {}", .0.display())]
    NoServer(PathBuf),
    /// The socket cannot be opened.
    #[error("cannot connect to {}", .0.display())]
    Socket(PathBuf, #[source] io::Error),
    /// The server there runs as another user than it should.
    #[error("the server at {} runs as another user: name its socket with --socket if you trust it", .0.display())]
    AnothersSocket(PathBuf),
    /// Pages of a list that do not come to an end.
    #[error("the server's list has no end")]
    Endless,
    /// No connection: neither directly nor through the proxy.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] ConnectError),
    /// No TLS: most often the certificate of another CA.
    #[error("cannot verify the certificate of {0}, or speak TLS with it")]
    Tls(String, #[source] io::Error),
    /// The connection ended before the answer.
    #[error("the server ended the connection")]
    Exchange(#[source] hyper::Error),
    /// The answer has no end, or too much before it.
    #[error("the answer was cut off, or is too large")]
    Cut(#[source] BoxError),
    /// A piece of a long answer could not be kept.
    #[error("what the server sends cannot be written here")]
    Kept(#[source] std::io::Error),
    /// The answer is none of this API.
    #[error("the server's answer is not understood (is it of another version?)")]
    Answer(#[source] Brief<serde_json::Error>),
    /// The request's body cannot be written as JSON.
    #[error("the request cannot be written")]
    Request(#[source] serde_json::Error),
    /// Not the path of a request.
    #[error("{0:?} is no path of the API")]
    Path(String),
    /// The server took too long.
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
}

impl ClientError {
    /// The server's own words, where it has answered.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Did the server answer with this status?
    pub fn is(&self, status: StatusCode) -> bool {
        match self {
            Self::Problem(problem) => problem.is(status),
            Self::Status(answered) => *answered == status,
            _ => false,
        }
    }
}
