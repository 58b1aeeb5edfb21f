//! kube-rs, the same on every way.

use std::path::Path;

use anyhow::Result;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceExt as _};

/// Requests at once on one HTTP/2 connection: kube-apiserver's default, `--http2-max-streams-per-connection`.
const STREAMS: usize = 100;

/// A caller's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A connection for each request in flight, as kube-rs has it.
    Http1,
    /// A connection for [`STREAMS`] of them, as client-go has it (kubectl, helm, most controllers).
    Http2,
}

impl Protocol {
    pub(super) const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// As it is called behind a cell's name; kube-rs's own goes without saying.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Http1 => "",
            Self::Http2 => ", HTTP/2",
        }
    }
}

/// Clients for so many requests at once, for whom and what a kubeconfig names.
pub(super) async fn for_many(
    kubeconfig: &Path,
    protocol: Protocol,
    requests: usize,
) -> Result<Vec<Client>> {
    match protocol {
        Protocol::Http1 => Ok(vec![of(kubeconfig).await?]),
        Protocol::Http2 => {
            let config = read(kubeconfig).await?;
            let connections = 0..requests.div_ceil(STREAMS);
            connections.map(|_| http2(&config)).collect()
        }
    }
}

/// The one client that a caller needs who has one request in flight.
pub(super) async fn of(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(read(kubeconfig).await?)?)
}

async fn read(kubeconfig: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
}

/// kube-rs over one HTTP/2 connection, which it does not offer by itself. It retries after a 429, as
/// it does otherwise.
fn http2(config: &Config) -> Result<Client> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_only()
        .enable_http2()
        .build();
    let http = legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build::<_, Body>(connector)
        .map_err(BoxError::from);
    let client = ClientBuilder::new(http, config.default_namespace.clone())
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .with_layer(&config.base_uri_layer());
    Ok(match config.auth_layer()? {
        Some(auth) => client.with_layer(&auth).build(),
        None => client.build(),
    })
}
