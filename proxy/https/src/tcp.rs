//! The TCP connections below a client's TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use underpass_core::limits;
use underpass_dial::Resolve;

/// Connects to a URL's host by the first of its addresses that answers. hyper's own connector races the families of
/// addresses only, so that the first silent address of one family would take half of the time.
#[derive(Clone, Debug)]
pub(super) struct Tcp(Arc<dyn Resolve>);

impl Tcp {
    pub(super) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self(resolver)
    }
}

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let host = url.host().unwrap_or_default();
            let port = url.port_u16().unwrap_or(443);
            let connecting = underpass_dial::connect(&*resolver, host, port);
            let connected = tokio::time::timeout(limits::PROVIDER_CONNECT_TIME, connecting).await;
            Ok(TokioIo::new(connected??))
        })
    }
}
