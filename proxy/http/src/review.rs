//! Questions to a cluster's API server that are this server's own, through the tunnel as any request is.
//!
//! The agent impersonates a user of Underpass's own, whom the cluster's RBAC lets create one kind of review and nothing
//! else. So the server needs no credential of the cluster's (security rule 9) and no way to its API server, the agent's
//! own account gets no further right, and the cluster's administrator decides by one binding.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::exchange::{self, Answered, ExchangeError};
use underpass_core::{
    BoxError, Brief, ClusterName, Clusters, ConnectError, Identity, Open, StreamClass, Target, Via,
    limits,
};

/// Asks clusters for one kind of review.
pub struct Reviewer {
    /// How clusters are reached.
    pub clusters: Arc<dyn Clusters>,
    /// The impersonated user: a name of [`OWN_NAMES`](underpass_core::names::OWN_NAMES).
    pub user: &'static str,
    /// The resource that it creates, as RBAC and kubectl write it.
    pub resource: &'static str,
    /// Where.
    pub path: &'static str,
}

/// Why a cluster has not said anything of use.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// There is no stream to it.
    #[error("cluster \"{0}\" cannot be reached")]
    Unreachable(ClusterName, #[source] ConnectError),
    /// There was a stream, and no answer came of it.
    #[error("cluster \"{0}\" has not answered")]
    Lost(ClusterName, #[source] ExchangeError),
    /// By its RBAC, or by its agent's policy.
    #[error("cluster \"{cluster}\" does not let user {user} create {resource}: {said:?}")]
    Forbidden {
        /// Which cluster.
        cluster: ClusterName,
        /// The user as which it was asked.
        user: &'static str,
        /// The resource that the user was to create.
        resource: &'static str,
        /// In its own words, cut.
        said: String,
    },
    /// Another status than that of a review that was made.
    #[error("cluster \"{cluster}\" answered {code}: {said:?}")]
    Status {
        /// Which cluster.
        cluster: ClusterName,
        /// The status.
        code: StatusCode,
        /// In its own words, cut.
        said: String,
    },
    /// There is no whole answer.
    #[error("the answer was cut off or is too large")]
    Body(#[source] BoxError),
    /// The answer is whole, and says something else.
    #[error("the answer is no review")]
    Malformed(#[source] Brief<serde_json::Error>),
    /// Nothing was asked.
    #[error("the question cannot be written")]
    Question(#[source] BoxError),
}

impl Reviewer {
    /// Asks one question. The caller bounds it in time.
    pub async fn ask<A: DeserializeOwned>(
        &self,
        cluster: &ClusterName,
        question: &(impl Serialize + Sync),
    ) -> Result<A, ReviewError> {
        self.ask_via(cluster, question, Via::default()).await
    }

    /// The same. `via` has the agent that the question went through, where it went through one.
    pub async fn ask_via<A: DeserializeOwned>(
        &self,
        cluster: &ClusterName,
        question: &(impl Serialize + Sync),
        via: Via,
    ) -> Result<A, ReviewError> {
        let identity = self.identity().map_err(ReviewError::Question)?;
        let mut open = Open::new(
            Target::KubeApi,
            identity,
            StreamClass::Default,
            underpass_core::new_audit_id(),
        );
        open.via = via;
        let request = self.request(question, &open.audit_id);
        let request = request.map_err(ReviewError::Question)?;
        let stream = self.clusters.connect(cluster, &open).await;
        let stream = stream.map_err(|e| ReviewError::Unreachable(cluster.clone(), e))?;
        let answered = exchange::send(stream, request).await;
        let (response, mut exchange) =
            answered.map_err(|e| ReviewError::Lost(cluster.clone(), e))?;
        let code = response.status();
        let body = read(response).await;
        match code {
            StatusCode::OK | StatusCode::CREATED => {}
            _ => return Err(self.refused(cluster, code, body)),
        }
        let body = body.map_err(ReviewError::Body)?;
        exchange.finish();
        serde_json::from_slice(&body).map_err(|error| ReviewError::Malformed(Brief(error)))
    }

    fn identity(&self) -> Result<Bytes, BoxError> {
        let identity = Identity::new(self.user.to_owned(), None, Vec::new(), Default::default())?;
        Ok(identity.encode()?)
    }

    fn request(
        &self,
        question: &impl Serialize,
        audit_id: &str,
    ) -> Result<Request<Full<Bytes>>, BoxError> {
        // It may hold a token.
        let body = Zeroizing::new(serde_json::to_vec(question)?);
        let json = HeaderValue::from_static("application/json");
        Ok(Request::post(self.path)
            .header(header::HOST, "kubernetes.default.svc")
            .header(header::CONTENT_TYPE, &json)
            .header(header::ACCEPT, &json)
            .header("audit-id", audit_id)
            .body(Full::from(body.to_vec()))?)
    }

    fn refused(
        &self,
        cluster: &ClusterName,
        code: StatusCode,
        body: Result<Bytes, BoxError>,
    ) -> ReviewError {
        let (cluster, said) = (cluster.clone(), message(&body.unwrap_or_default()));
        match code {
            StatusCode::FORBIDDEN => ReviewError::Forbidden {
                cluster,
                user: self.user,
                resource: self.resource,
                said,
            },
            code => ReviewError::Status {
                cluster,
                code,
                said,
            },
        }
    }
}

async fn read(response: Response<Answered>) -> Result<Bytes, BoxError> {
    let body = Limited::new(response.into_body(), limits::PROVIDER_ANSWER_BYTES);
    Ok(body.collect().await?.to_bytes())
}

/// The message of a `metav1.Status`, for the log.
fn message(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default)]
        message: String,
    }
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    status
        .message
        .chars()
        .take(limits::PEER_MESSAGE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_11_a_peers_message_is_cut() {
        let long = "x".repeat(2 * limits::PEER_MESSAGE_CHARS);
        let body = serde_json::json!({ "kind": "Status", "message": long }).to_string();
        assert_eq!(message(body.as_bytes()).len(), limits::PEER_MESSAGE_CHARS);
        assert_eq!(message(b"<html>"), "");
    }
}
