//! The server's side of agents' WebSockets, as the product has it: TLS, hyper, and its upgrade.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use underpass_tunnel::transport::{tcp, websocket};
use underpass_tunnel::{Accepted, Acceptor};

/// Accepts until the listener fails; hands what comes of it to `accepted`.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    acceptor: Arc<Acceptor>,
    accepted: impl Fn(Accepted) + Clone + Send + Sync + 'static,
) -> Result<()> {
    loop {
        let (socket, remote) = listener.accept().await?;
        let (tls, acceptor, accepted) = (tls.clone(), Arc::clone(&acceptor), accepted.clone());
        // An agent that fails comes again.
        tokio::spawn(async move {
            connection(socket, remote, tls, acceptor, accepted)
                .await
                .ok()
        });
    }
}

async fn connection(
    socket: TcpStream,
    remote: SocketAddr,
    tls: TlsAcceptor,
    acceptor: Arc<Acceptor>,
    accepted: impl Fn(Accepted) + Clone + Send + Sync + 'static,
) -> Result<()> {
    tcp::tune(&socket)?;
    let io = TokioIo::new(tls.accept(socket).await?);
    let service = service_fn(move |request: Request<Incoming>| {
        let (acceptor, accepted) = (Arc::clone(&acceptor), accepted.clone());
        async move { Ok::<_, Infallible>(upgrade(request, remote, acceptor, accepted)) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(io, service)
        .with_upgrades()
        .await?;
    Ok(())
}

fn upgrade(
    request: Request<Incoming>,
    remote: SocketAddr,
    acceptor: Arc<Acceptor>,
    accepted: impl Fn(Accepted) + Send + 'static,
) -> Response<Empty<&'static [u8]>> {
    let (parts, _) = request.into_parts();
    let mut request = Request::from_parts(parts, ());
    let Ok((response, subprotocol)) = websocket::respond(&request) else {
        let mut refused = Response::new(Empty::new());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let accepting = acceptor.accept_websocket(TokioIo::new(io), subprotocol, Some(remote));
        if let Ok(session) = accepting.await {
            accepted(session);
        }
    });
    response.map(|()| Empty::new())
}
