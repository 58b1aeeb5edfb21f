//! Events to a service, as kube-apiserver's `--audit-webhook-config-file` sends them.

mod kubeconfig;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header, uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use kube::client::{ClientBuilder, ConfigExt};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
};
use tower::ServiceBuilder;

use self::kubeconfig::Target;
use super::Sink;
use underpass_core::{BoxError, files::Stamps};
use underpass_https::{Connector, Proxy};

/// Time for one batch.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A service that takes `EventList`s by POST. Its kubeconfig, and every file that this names, is read again when one of them
/// changes, and where the service takes nothing: certificates and tokens are renewed while the server runs.
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Webhook {
    file: PathBuf,
    /// The server's proxy.
    proxy: Option<Proxy>,
    service: Service,
    /// The last events were not taken: the credential may be an old one.
    failed: bool,
    /// Why the files could not be used, as the log has it.
    told: Option<String>,
}

/// The service, as its files were.
struct Service {
    client: kube::Client,
    path: uri::PathAndQuery,
    stamps: Stamps,
}

/// Why a webhook cannot be used, or has not taken events.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Its kubeconfig cannot be used.
    #[error("the kubeconfig of the audit webhook cannot be used")]
    Config(#[source] BoxError),
    /// Its kubeconfig, or a file that this names, cannot be read.
    #[error("cannot read {path:?} of the audit webhook's kubeconfig")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file with its token cannot be used.
    #[error("cannot use the token file {path:?} of the audit webhook's kubeconfig")]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
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
        Ok(Self {
            file: path.to_owned(),
            proxy: proxy.cloned(),
            service: Service::read(path, proxy).await?,
            failed: false,
            told: None,
        })
    }

    /// Reads the files again where that may help. Ones that cannot be used change nothing.
    async fn refresh(&mut self) {
        if !self.failed && !self.service.stamps.have_changed().await {
            return;
        }
        match Service::read(&self.file, self.proxy.as_ref()).await {
            Ok(service) => (self.service, self.told) = (service, None),
            Err(error) => {
                let path = self.file.display();
                let error = &error as &dyn std::error::Error;
                let text = format!("{error}: {:?}", error.source().map(ToString::to_string));
                // Once, and not with each batch.
                if self.told.as_ref() != Some(&text) {
                    tracing::error!(%path, error, "keeping the audit webhook's last good kubeconfig");
                }
                self.told = Some(text);
            }
        }
    }
}

impl Service {
    async fn read(file: &Path, proxy: Option<&Proxy>) -> Result<Self, WebhookError> {
        let target = Target::read(file).await?;
        let unusable = |error: BoxError| WebhookError::Config(error);
        let connector = Connector::new(target.proxy.as_ref().or(proxy));
        let connector = connector.map_err(|error| unusable(error.into()))?;
        let client = client(&target.config, connector);
        Ok(Self {
            client: client.map_err(unusable)?,
            path: target.path,
            stamps: target.stamps,
        })
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
        self.refresh().await;
        let sent = self.service.post(list(events)).await;
        // Refused, or no handshake: the next attempt reads the files again.
        self.failed = sent.is_err();
        Ok(sent?)
    }
}

/// kube's own client, over these connections.
fn client(config: &kube::Config, connector: Connector) -> Result<kube::Client, BoxError> {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread was first.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    let mut builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls(config)?)
        .https_or_http();
    if let Some(name) = config.tls_server_name.clone() {
        let name = FixedServerNameResolver::new(name.try_into()?);
        builder = builder.with_server_name_resolver(name);
    }
    let connector = builder.enable_http1().wrap_connector(connector);
    let https = Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(https);
    Ok(ClientBuilder::new(service, config.default_namespace.as_str()).build())
}

/// kube's TLS, except that a certificate of the kubeconfig's CAs is trusted itself as well.
fn tls(config: &kube::Config) -> Result<ClientConfig, BoxError> {
    let mut tls = config.rustls_client_config()?;
    if let (Some(all), false) = (&config.root_cert, config.accept_invalid_certs) {
        let trusted: Arc<[_]> = all.iter().cloned().map(CertificateDer::from).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let provider = Arc::clone(tls.crypto_provider());
        let verifier = underpass_trust::Verifier::new(Arc::new(roots), trusted, provider)?;
        tls.dangerous().set_certificate_verifier(Arc::new(verifier));
    }
    Ok(tls)
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
