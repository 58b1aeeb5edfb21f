//! Is the API server there, and does it know us?

use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;

use super::{ApiServer, CredentialError, error::SendError, generation::Generation};
use underpass_core::{Body, BoxError, limits};

/// Why the API server is not ready for us.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// There is no credential.
    #[error("there is no credential for the API server")]
    Credential(#[source] CredentialError),
    /// It cannot be asked.
    #[error("the API server cannot be reached")]
    Send(#[source] SendError),
    /// It did not answer in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// It does not know us.
    #[error("the API server does not accept the credential")]
    Unauthorized,
    /// It answered, but not with its version.
    #[error("the API server answered {0} to a request for its version")]
    Status(StatusCode),
    /// Its answer is no version.
    #[error("the API server's version cannot be read")]
    Body(#[source] BoxError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

impl ApiServer {
    /// Asks for the API server's version, as ourselves: a readiness check. Returns it, like `v1.34.1`.
    ///
    /// # Errors
    /// The reason that the API server was not reached; `source()` has the details.
    pub async fn check(&self) -> Result<String, CheckError> {
        let check = tokio::time::timeout(limits::API_SERVER_CHECK_TIMEOUT, self.version());
        check.await.map_err(|_| CheckError::Timeout)?
    }

    async fn version(&self) -> Result<String, CheckError> {
        let generation = self.generation().await;
        let credential = generation.header().await;
        let credential = credential.map_err(CheckError::Credential)?;
        let asked = generation.ask_for_version(credential).await;
        let response = asked.map_err(CheckError::Send)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            generation.refused().await;
            return Err(CheckError::Unauthorized);
        }
        if response.status() != StatusCode::OK {
            return Err(CheckError::Status(response.status()));
        }
        let body = read(response.into_body()).await.map_err(CheckError::Body)?;
        let version: Version =
            serde_json::from_slice(&body).map_err(|error| CheckError::Body(error.into()))?;
        Ok(version.git_version)
    }
}

impl Generation {
    /// Asks for the version with this credential, as ourselves.
    pub(super) async fn ask_for_version(
        &self,
        credential: Option<HeaderValue>,
    ) -> Result<Response<Body>, SendError> {
        let mut head = Request::new(()).into_parts().0;
        head.method = Method::GET;
        head.uri = self.endpoint.version_url();
        head.headers
            .extend(credential.map(|value| (http::header::AUTHORIZATION, value)));
        self.pool.send(head, underpass_core::empty()).await
    }
}

/// `Limited` would make every future that holds this one not `Send`, as far as rustc can tell (rust-lang/rust#102211).
async fn read(mut body: Body) -> Result<Vec<u8>, BoxError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > limits::VERSION_BYTES {
            return Err("the answer is too large".into());
        }
    }
    Ok(read)
}
