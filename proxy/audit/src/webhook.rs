//! Events to a service, as kube-apiserver's `--audit-webhook-config-file` sends them.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, Uri, header, uri};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use kube::{
    client::{ClientBuilder, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tower::ServiceBuilder;

use super::Sink;
use underpass_core::BoxError;
use underpass_https::{Connector, Proxy, ProxyUrl};

/// Stands in the place of a proxy's URL where a kubeconfig has none.
const NO_PROXY: &str = "http://no-proxy.invalid/";

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
    /// events are sent, with the context's credentials. The way there leads through the kubeconfig's `proxy-url`, or else
    /// through this proxy where it is not excepted.
    ///
    /// # Errors
    /// Where the file cannot be used.
    pub async fn from_kubeconfig(path: &Path, proxy: Option<&Proxy>) -> Result<Self, WebhookError> {
        let config = |error: BoxError| WebhookError::Config(error);
        let mut kubeconfig = Kubeconfig::read_from(path).map_err(|error| config(error.into()))?;
        // kube would take the environment's, and knows no exceptions.
        for cluster in &mut kubeconfig.clusters {
            let url = cluster
                .cluster
                .as_mut()
                .map(|cluster| &mut cluster.proxy_url);
            if let Some(url) = url.filter(|url| url.as_ref().is_none_or(String::is_empty)) {
                *url = Some(NO_PROXY.to_owned());
            }
        }
        let options = KubeConfigOptions::default();
        let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut made = made.map_err(|error| config(error.into()))?;
        // The client puts a request's path behind its base.
        let mut parts = made.cluster_url.clone().into_parts();
        let root = uri::PathAndQuery::from_static("/");
        let path = parts.path_and_query.replace(root.clone()).unwrap_or(root);
        made.cluster_url = Uri::from_parts(parts).map_err(|error| config(error.into()))?;
        let named = made.proxy_url.as_ref().filter(|url| **url != NO_PROXY);
        let named = named.map(|url| url.to_string().parse::<ProxyUrl>());
        let named = named.transpose().map_err(|error| config(error.into()))?;
        let named = named.map(Proxy::new);
        let connector = Connector::new(named.as_ref().or(proxy));
        let connector = connector.map_err(|error| config(error.into()))?;
        let client = client(&made, connector).map_err(|error| config(error.into()))?;
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

/// kube's own client, over these connections.
fn client(config: &kube::Config, connector: Connector) -> kube::Result<kube::Client> {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread was first.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let https = Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(https);
    Ok(ClientBuilder::new(service, config.default_namespace.as_str()).build())
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
