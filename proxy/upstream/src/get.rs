//! The agent's own questions to the API server.

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, uri::PathAndQuery};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::{ApiServer, CredentialError, error::SendError, generation::Generation};
use underpass_core::{Body, BoxError};

/// Why the API server gave no object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// The path is none.
    #[error("{0:?} is no path of an API")]
    Path(String),
    /// There is no credential.
    #[error("there is no credential for the API server")]
    Credential(#[source] CredentialError),
    /// It cannot be asked.
    #[error("the API server cannot be reached")]
    Send(#[source] SendError),
    /// It does not know us.
    #[error("the API server does not accept the credential")]
    Unauthorized,
    /// The account of the credential has no right to it.
    #[error("the API server forbids it")]
    Forbidden,
    /// There is no such object, or no such API.
    #[error("the API server has no such object")]
    NotFound,
    /// It answered, but not with an object.
    #[error("the API server answered {0}")]
    Status(StatusCode),
    /// Its answer is not the object.
    #[error("the API server's answer cannot be read")]
    Body(#[source] BoxError),
}

impl ApiServer {
    /// Reads an object, or a list, as the agent itself. The caller sets the deadline, and `most`, the largest answer in bytes.
    ///
    /// # Errors
    /// The reason that there is no object; `source()` has the details.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, most: usize) -> Result<T, GetError> {
        let generation = self.generation().await;
        let target = path.parse::<PathAndQuery>().ok();
        let uri = generation.endpoint.url(target.as_ref());
        let uri = uri.map_err(|_| GetError::Path(path.to_owned()))?;
        let credential = generation.header().await;
        let credential = credential.map_err(GetError::Credential)?;
        let asked = generation.ask(uri, credential).await;
        let response = asked.map_err(GetError::Send)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                generation.refused().await;
                return Err(GetError::Unauthorized);
            }
            StatusCode::FORBIDDEN => return Err(GetError::Forbidden),
            StatusCode::NOT_FOUND => return Err(GetError::NotFound),
            status => return Err(GetError::Status(status)),
        }
        let body = read(response.into_body(), most).await;
        let body = body.map_err(GetError::Body)?;
        serde_json::from_slice(&body).map_err(|error| GetError::Body(error.into()))
    }
}

impl Generation {
    /// Asks for a URL with this credential, as ourselves.
    pub(super) async fn ask(
        &self,
        uri: Uri,
        credential: Option<HeaderValue>,
    ) -> Result<Response<Body>, SendError> {
        let mut head = Request::new(()).into_parts().0;
        head.method = Method::GET;
        head.uri = uri;
        head.headers
            .extend(credential.map(|value| (http::header::AUTHORIZATION, value)));
        self.pool.send(head, underpass_core::empty()).await
    }
}

/// Reads a body of `most` bytes. `Limited` would make every future that holds this one not `Send`, as far as rustc can tell
/// (rust-lang/rust#102211).
pub(super) async fn read(mut body: Body, most: usize) -> Result<Vec<u8>, BoxError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > most {
            return Err("the answer is too large".into());
        }
    }
    Ok(read)
}
