//! Events to a service, as kube-apiserver's `--audit-webhook-config-file` sends them.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, Uri, header, uri};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Sink;
use underpass_core::BoxError;

/// Time for one batch.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A service that takes `EventList`s by POST.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Webhook {
    client: kube::Client,
    path: uri::PathAndQuery,
}

/// Why a webhook cannot be used, or has not taken events.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Its kubeconfig cannot be used.
    #[error("the kubeconfig of the audit webhook cannot be used")]
    Config(#[source] BoxError),
    /// It cannot be reached, or not in time.
    #[error("the audit webhook cannot be reached")]
    Unreachable(#[source] BoxError),
    /// It answered with something else than success.
    #[error("the audit webhook answered with {0}")]
    Answer(StatusCode),
}

impl Webhook {
    /// The service that the current context of a kubeconfig names: its server's URL, path included, is where
    /// events are sent, with the context's credentials.
    ///
    /// # Errors
    /// Where the file cannot be used.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, WebhookError> {
        let config = |error: BoxError| WebhookError::Config(error);
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| config(error.into()))?;
        let options = KubeConfigOptions::default();
        let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut made = made.map_err(|error| config(error.into()))?;
        // The client puts a request's path behind its base.
        let mut parts = made.cluster_url.clone().into_parts();
        let root = uri::PathAndQuery::from_static("/");
        let path = parts.path_and_query.replace(root.clone()).unwrap_or(root);
        made.cluster_url = Uri::from_parts(parts).map_err(|error| config(error.into()))?;
        let client = kube::Client::try_from(made).map_err(|error| config(error.into()))?;
        Ok(Self { client, path })
    }

    async fn post(&self, body: Bytes) -> Result<(), WebhookError> {
        let unreachable = |error: BoxError| WebhookError::Unreachable(error);
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.path.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .body(kube::client::Body::from(body.to_vec()))
            .map_err(|error| unreachable(error.into()))?;
        let answer = tokio::time::timeout(ANSWER_TIME, self.client.send(request));
        let answer = answer.await.map_err(|error| unreachable(error.into()))?;
        let status = answer.map_err(|error| unreachable(error.into()))?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(WebhookError::Answer(status))
        }
    }
}

#[async_trait]
impl Sink for Webhook {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        Ok(self.post(list(events)).await?)
    }
}

/// `audit.k8s.io/v1`, `EventList`.
fn list(events: &[Bytes]) -> Bytes {
    let mut body = BytesMut::from(
        &br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#[..],
    );
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            body.extend_from_slice(b",");
        }
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_object() {
        for count in 0..3 {
            let events = vec![Bytes::from_static(b"{\"kind\":\"Event\"}"); count];
            let list: serde_json::Value = serde_json::from_slice(&list(&events)).unwrap();
            assert_eq!(list["kind"], "EventList");
            assert_eq!(list["items"].as_array().unwrap().len(), count);
        }
    }
}
