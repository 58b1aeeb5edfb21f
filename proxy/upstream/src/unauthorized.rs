//! Tells a 401 to our own credential from the 401 of an aggregated API.
//!
//! kube-apiserver answers 401 to a credential that it does not accept: ours. It also passes on the 401 of an aggregated API
//! server, which is about the caller or about kube-apiserver's own certificate (`--requestheader-client-ca-file`). Nothing in the
//! answer tells the two apart, so that kube-apiserver is asked for its version, which it never has from behind it, with the same credential.

use std::time::Instant;

use http::{HeaderValue, StatusCode};
use tokio::sync::Mutex;

use super::{error::SendError, generation::Generation};
use underpass_core::{Rejection, RequestInfo, limits};

/// The API server's last word about our credential.
#[derive(Debug, Default)]
pub(super) struct Acceptance {
    /// Held while it is asked: the other requests with a 401 wait for the same answer.
    last: Mutex<Option<Answer>>,
}

#[derive(Debug)]
struct Answer {
    credential: Option<HeaderValue>,
    at: Instant,
    accepted: bool,
}

impl Answer {
    fn is_about(&self, credential: Option<&HeaderValue>) -> bool {
        self.credential.as_ref() == credential && self.at.elapsed() < limits::CREDENTIAL_ANSWER_AGE
    }
}

impl Acceptance {
    /// Forgets the answer: it was about another client certificate.
    pub(super) async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

impl Generation {
    /// The caller's answer to a request that was sent with `credential` and got a 401.
    pub(super) async fn unauthorized(
        &self,
        info: &RequestInfo,
        path: &str,
        credential: Option<HeaderValue>,
    ) -> Rejection {
        let accepted = match self.accepts(credential).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "whether the API server accepts our credential is not known"
                );
                false
            }
        };
        if !accepted {
            // It is we who are unknown there: the caller must not go and renew a credential.
            tracing::error!("the API server does not accept our credential");
            self.refused().await;
            return Rejection::AgentUnauthorized;
        }
        let api = match info.api_group() {
            "" => path.to_owned(),
            group => format!("{group}/{}", info.api_version()),
        };
        tracing::warn!(api, "an aggregated API answered 401");
        Rejection::AggregatedUnauthorized { api }
    }

    async fn accepts(&self, credential: Option<HeaderValue>) -> Result<bool, NoWord> {
        let mut last = self.acceptance.last.lock().await;
        if let Some(answer) = last.as_ref().filter(|a| a.is_about(credential.as_ref())) {
            return Ok(answer.accepted);
        }
        let asking = self.ask_for_version(credential.clone());
        let asked = tokio::time::timeout(limits::API_SERVER_CHECK_TIMEOUT, asking).await;
        let response = asked.map_err(|_| NoWord::Timeout)??;
        let accepted = response.status() != StatusCode::UNAUTHORIZED;
        *last = Some(Answer {
            credential,
            at: Instant::now(),
            accepted,
        });
        Ok(accepted)
    }
}

/// The API server has not said whether it accepts our credential.
#[derive(Debug, thiserror::Error)]
enum NoWord {
    #[error("the API server did not answer in time")]
    Timeout,
    #[error("the API server cannot be reached")]
    Send(#[from] SendError),
}
