//! A client of the API: over HTTPS with a credential, or over the server's socket, where its operator needs none.

mod error;
mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, IF_MATCH, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use underpass_core::{Brief, Revision};

pub use self::{
    error::{ClientError, ServerError},
    server::{Credential, Server},
    socket::SocketAddress,
};
use crate::{List, Problem, segment};

/// The time for an answer. The server takes 30 s for one at the most.
const PATIENCE: Duration = Duration::from_secs(35);

/// The largest answer: a page of a list, or every cluster that somebody may reach.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The largest list: more objects than a directory has.
const LIST_ITEMS: usize = 1_000_000;

/// The condition of a change (RFC 9110, section 13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// There or not, changed meanwhile or not.
    Anything,
    /// Not there.
    Absent,
    /// There.
    Present,
    /// As it was at this revision.
    Unchanged(Revision),
}

/// A client of one server. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client(Via);

#[derive(Clone, Debug)]
enum Via {
    Socket {
        path: PathBuf,
        /// The user whose server alone is asked.
        owner: Option<u32>,
    },
    Https(Box<Server>),
}

impl Client {
    /// Asks the server whose socket this is.
    pub fn at_socket(path: impl Into<PathBuf>) -> Self {
        Self(Via::Socket {
            path: path.into(),
            owner: None,
        })
    }

    /// The same, as long as the server there runs as this user. A path says little: others may be able to put a socket of
    /// theirs there, or a link.
    pub fn at_socket_of(path: impl Into<PathBuf>, owner: u32) -> Self {
        Self(Via::Socket {
            path: path.into(),
            owner: Some(owner),
        })
    }

    /// Asks a server over HTTPS.
    pub fn at(server: Server) -> Self {
        Self(Via::Https(Box::new(server)))
    }

    /// The server that is asked over HTTPS; `None` at a socket.
    pub fn server(&self) -> Option<&Server> {
        match &self.0 {
            Via::Socket { .. } => None,
            Via::Https(server) => Some(server),
        }
    }

    /// Reads something.
    ///
    /// # Errors
    /// There is no answer, or a [`Problem`].
    ///
    /// # Cancel safety
    /// Dropping the future of this or any other request closes its connection. A change may happen nevertheless.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.ask(Method::GET, path, None, Match::Anything).await?;
        read(&answer)
    }

    /// Reads every page of a list.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut page = path.to_owned();
        let mut last = None::<String>;
        loop {
            let list: List<T> = self.get(&page).await?;
            let is_empty = list.items.is_empty();
            items.extend(list.items);
            let Some(after) = list.next else {
                return Ok(items);
            };
            // A server that repeats itself, or makes objects up, has no last page.
            if is_empty || last.as_ref() == Some(&after) || items.len() > LIST_ITEMS {
                return Err(ClientError::Endless);
            }
            last = Some(after.clone());
            let separator = if path.contains('?') { '&' } else { '?' };
            page = format!("{path}{separator}after={}", segment(&after));
        }
    }

    /// Makes something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = write(body)?;
        let answer = self.ask(Method::POST, path, Some(body), Match::Anything);
        read(&answer.await?)
    }

    /// Replaces an object as a whole, if it is as `expected`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        expected: Match,
    ) -> Result<T, ClientError> {
        let body = write(body)?;
        read(&self.ask(Method::PUT, path, Some(body), expected).await?)
    }

    /// Makes an object, or replaces the one that is there.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn make_or_replace<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        match self.put(path, body, Match::Absent).await {
            Err(error) if error.is(StatusCode::CONFLICT) => {
                self.put(path, body, Match::Present).await
            }
            made => made,
        }
    }

    /// Sets something that the API never shows.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put_secret<B: Serialize>(&self, path: &str, body: &B) -> Result<(), ClientError> {
        let body = write(body)?;
        let answer = self.ask(Method::PUT, path, Some(body), Match::Anything);
        answer.await.map(drop)
    }

    /// Changes parts of an object, if it is as `expected`: a JSON merge patch (RFC 7396).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        expected: Match,
    ) -> Result<T, ClientError> {
        let body = write(body)?;
        read(&self.ask(Method::PATCH, path, Some(body), expected).await?)
    }

    /// Removes something, if it is as `expected`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str, expected: Match) -> Result<(), ClientError> {
        let answer = self.ask(Method::DELETE, path, None, expected);
        answer.await.map(drop)
    }

    /// Reads something that may be long, a piece at a time, and gives the answer's header of this name. There is no bound on its time, but
    /// for each piece.
    ///
    /// # Errors
    /// There is no answer, or not all of it, or a [`Problem`]; or a piece could not be kept.
    ///
    /// # Cancel safety
    /// As [`Client::get`].
    pub async fn download(
        &self,
        path: &str,
        header: &str,
        keep: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<Option<String>, ClientError> {
        let request = request(Method::GET, path, None, Match::Anything)?;
        let mut pieces = Pieces { header, keep };
        match &self.0 {
            Via::Socket { path, owner } => {
                let stream = connect_to(path, *owner).await?;
                let host = const { HeaderValue::from_static("localhost") };
                download(stream, host, request, &mut pieces).await
            }
            Via::Https(server) => server.download(request, &mut pieces).await,
        }
    }

    /// The answer to a request that went well.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        expected: Match,
    ) -> Result<Bytes, ClientError> {
        let request = request(method, path, body, expected)?;
        let answer = async {
            match &self.0 {
                Via::Socket { path, owner } => {
                    let stream = connect_to(path, *owner).await?;
                    let host = const { HeaderValue::from_static("localhost") };
                    exchange(stream, host, request).await
                }
                Via::Https(server) => server.exchange(request).await,
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let (status, bytes) = answer.map_err(|_| ClientError::TooSlow(PATIENCE))??;
        match status.is_success() {
            true => Ok(bytes),
            false => Err(failure(status, &bytes)),
        }
    }
}

fn failure(status: StatusCode, bytes: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) => ClientError::Problem(problem),
        Err(_) => ClientError::Status(status),
    }
}

/// Connects to a socket, and refuses the server of another user than its owner.
async fn connect_to(
    path: &Path,
    owner: Option<u32>,
) -> Result<tokio::net::UnixStream, ClientError> {
    let stream = connect(path).await?;
    let runs_as = stream.peer_cred();
    let runs_as = runs_as.map_err(|error| ClientError::Socket(path.to_owned(), error))?;
    match owner.is_some_and(|owner| runs_as.uid() != owner) {
        true => Err(ClientError::AnothersSocket(path.to_owned())),
        false => Ok(stream),
    }
}

/// The place for the pieces of a long answer, and the name of the header that is of interest.
struct Pieces<'a> {
    header: &'a str,
    keep: &'a mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
}

async fn download<I>(
    io: I,
    host: HeaderValue,
    mut request: Request<Full<Bytes>>,
    pieces: &mut Pieces<'_>,
) -> Result<Option<String>, ClientError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    request.headers_mut().insert(HOST, host);
    let connected = http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = connected.map_err(ClientError::Exchange)?;
    let exchange = async {
        let slow = |_| ClientError::TooSlow(PATIENCE);
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        let response = response.map_err(slow)?.map_err(ClientError::Exchange)?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            let body = Limited::new(body, ANSWER_BYTES).collect();
            let body = tokio::time::timeout(PATIENCE, body).await.map_err(slow)?;
            let body = body.map_err(ClientError::Cut)?.to_bytes();
            return Err(failure(head.status, &body));
        }
        loop {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let Some(frame) = frame.map_err(slow)? else {
                break;
            };
            let frame = frame.map_err(|error| ClientError::Cut(error.into()))?;
            if let Some(piece) = frame.data_ref() {
                (pieces.keep)(piece).map_err(ClientError::Kept)?;
            }
        }
        let value = head.headers.get(pieces.header);
        let value = value.and_then(|value| value.to_str().ok());
        Ok(value.map(str::to_owned))
    };
    tokio::pin!(exchange);
    tokio::select! {
        // The connection may end with the last byte of the answer.
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

async fn connect(path: &Path) -> Result<tokio::net::UnixStream, ClientError> {
    let failed = |error| ClientError::Socket(path.to_owned(), error);
    let address = match SocketAddress::new(path) {
        Ok(address) => address,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ClientError::NoServer(path.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let stream = address.connect().await.map_err(failed)?;
    stream.ok_or_else(|| ClientError::NoServer(path.to_owned()))
}

fn request(
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
    expected: Match,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let no_path = || ClientError::Path(path.to_owned());
    let uri: Uri = path.parse().map_err(|_| no_path())?;
    if !path.starts_with('/') {
        return Err(no_path());
    }
    let has_body = body.is_some();
    let mut request = Request::new(Full::from(body.unwrap_or_default()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    let json = const { HeaderValue::from_static("application/json") };
    headers.insert(ACCEPT, json.clone());
    if has_body {
        headers.insert(CONTENT_TYPE, json);
    }
    let agent =
        const { HeaderValue::from_static(concat!("underpass/", env!("CARGO_PKG_VERSION"))) };
    headers.insert(USER_AGENT, agent);
    if let Some((name, value)) = condition(expected) {
        headers.insert(name, value);
    }
    Ok(request)
}

fn condition(expected: Match) -> Option<(HeaderName, HeaderValue)> {
    let any = const { HeaderValue::from_static("*") };
    match expected {
        Match::Anything => None,
        Match::Absent => Some((IF_NONE_MATCH, any)),
        Match::Present => Some((IF_MATCH, any)),
        Match::Unchanged(revision) => {
            // Digits and quotes are always a header.
            let tag = HeaderValue::from_str(&format!("\"{revision}\"")).ok()?;
            Some((IF_MATCH, tag))
        }
    }
}

async fn exchange<I>(
    io: I,
    host: HeaderValue,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), ClientError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    request.headers_mut().insert(HOST, host);
    let connected = http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = connected.map_err(ClientError::Exchange)?;
    let exchange = async {
        let response = sender.send_request(request).await;
        let (head, body) = response.map_err(ClientError::Exchange)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        Ok((head.status, body.map_err(ClientError::Cut)?.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        // The connection may end with the last byte of the answer.
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

fn write<B: Serialize>(body: &B) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(ClientError::Request)
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(answer).map_err(|error| ClientError::Answer(Brief(error)))
}
