//! An API server that answers at once, or never.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use underpass_benches::Certificate;

/// A path with this in it is never answered.
const HANGS: &str = "/hangs";

/// Listens until it is dropped.
pub(super) struct Api {
    pub(super) address: SocketAddr,
    pub(super) certificate: Certificate,
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
