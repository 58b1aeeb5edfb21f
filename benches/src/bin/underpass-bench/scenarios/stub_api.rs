//! An API server that answers at once, or never.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use underpass_benches::Certificate;

/// A path with this in it is never answered.
const HANGS: &str = "/hangs";

/// Listens until it is dropped.
pub(super) struct Api {
    address: SocketAddr,
    certificate: Certificate,
    listening: JoinHandle<()>,
}

impl Api {
    pub(super) async fn start() -> Result<Self> {
        let certificate = Certificate::new();
        let tls = TlsAcceptor::from(Arc::new(certificate.server()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let listening = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(io) = tls.accept(socket).await else {
                        return;
                    };
                    // A client that leaves early is no error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(io), service_fn(answer))
                        .await;
                });
            }
        });
        Ok(Self {
            address,
            certificate,
            listening,
        })
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let ca = folder.join("api.pem");
        fs::write(&ca, self.certificate.pem())?;
        let server = format!("https://localhost:{}", self.address.port());
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "api",
            "clusters": [{ "name": "api", "cluster": { "server": server, "certificate-authority": ca } }],
            "users": [{ "name": "api", "user": { "token": "stub" } }],
            "contexts": [{ "name": "api", "context": { "cluster": "api", "user": "api" } }],
        });
        let path = folder.join("kubeconfig");
        fs::write(&path, kubeconfig.to_string())?;
        Ok(path)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path().contains(HANGS) {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Full::from("{}")))
}
