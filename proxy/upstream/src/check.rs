//! Is the API server there, and does it know us?

use http::{HeaderValue, Response, StatusCode};
use serde::Deserialize;

use super::{ApiServer, CredentialError, error::SendError, generation::Generation, get::read};
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
        let body = read(response.into_body(), limits::VERSION_BYTES).await;
        let body = body.map_err(CheckError::Body)?;
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
        self.ask(self.endpoint.version_url(), credential).await
    }
}
