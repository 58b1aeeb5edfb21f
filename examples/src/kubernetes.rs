//! Shared parts of the examples with Kubernetes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use underpass_core::{ConnectionInfo, Protocol, Target};
use underpass_gateway::Front;
use underpass_tunnel::{IncomingStream, ResetCode, Session};
use underpass_upstream::{ApiServer, ApiServerOptions};

/// At the agent: the API server of a kubeconfig.
///
/// # Errors
/// Where the kubeconfig cannot be used.
pub async fn api_server(kubeconfig: &str) -> Result<Arc<ApiServer>> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let server = ApiServer::new(config, ApiServerOptions::default()).await?;
    Ok(Arc::new(server))
}

/// At the agent: hands a session's streams to the API server, and refuses all others.
pub async fn serve_api_server(session: Session, api_server: Arc<ApiServer>) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(serve_kube_api(incoming, Arc::clone(&api_server)));
    }
}

/// One stream, if the API server is its target.
pub async fn serve_kube_api(incoming: IncomingStream, api_server: Arc<ApiServer>) {
    if incoming.target().parse() != Ok(Target::KubeApi) {
        incoming.refuse(ResetCode::UnknownTarget, "nothing else is here");
        return;
    }
    let identity = incoming.header().clone();
    // The request is there already.
    if let Ok(stream) = incoming.accept_coalesced().await {
        // Errors are answered on the stream.
        let _ = api_server.serve_stream(stream, &identity).await;
    }
}

/// A user's request to a front, over a connection in memory. In earnest a listener accepts TLS.
///
/// # Errors
/// Where there is no answer.
pub async fn ask(front: &Arc<Front>, bearer: &str, path: &str) -> Result<String> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let info = ConnectionInfo {
        peer: IpAddr::from(Ipv4Addr::LOCALHOST).into(),
        protocol: Protocol::Http1,
        server_name: None,
        certificates: Vec::new(),
        unusable_certificate: None,
    };
    let front = Arc::clone(front);
    tokio::spawn(async move { front.serve_connection(server, info).await });
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", "gateway")
        .header("authorization", format!("Bearer {bearer}"))
        .body(Empty::<Bytes>::new())?;
    let answer = requests.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}
