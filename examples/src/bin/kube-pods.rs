//! kube-rs lists the pods of a cluster through a tunnel: its client dials streams instead of TCP.
//!
//! `cargo run -p underpass-examples --bin kube-pods -- KUBECONFIG`
//!
//! The agent copies bytes to the API server, which the server need not be able to reach; TLS goes from
//! kube-rs to the API server, so that nothing between them sees what is said.
#![allow(clippy::print_stdout, reason = "it shows the pods")]

use anyhow::{Context, Result};
use futures_util::FutureExt;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use tower::{BoxError, ServiceBuilder};
use underpass_examples::{Server, agent, connected, join_tcp};
use underpass_tunnel::{AgentKey, Dialer, Session};

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("no kubeconfig is named")?;
    let kubeconfig = Kubeconfig::read_from(path)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let host = config.cluster_url.host().context("no host in its URL")?;
    let port = config.cluster_url.port_u16().unwrap_or(443);
    let api_server = format!("{host}:{port}");

    let key = AgentKey::from_seed([7; 32])?;
    let server = Server::start(key.public_key(), "edge").await?;
    agent(&server, key, move |session| {
        tokio::spawn(serve(session, api_server.clone()));
    })?;
    connected(&server, "edge").await;

    let client = client(&config, Dialer::to_agent(server.agents, "edge", "kube"))?;
    let pods: Api<Pod> = Api::all(client);
    for pod in pods.list(&ListParams::default()).await? {
        let namespace = pod.namespace().unwrap_or_default();
        println!("{namespace}/{}", pod.name_any());
    }
    Ok(())
}

/// kube-rs as ever, but for the connector.
fn client(config: &Config, dialer: Dialer) -> Result<Client> {
    let https = config.rustls_https_connector_with_connector(dialer)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace.clone()))
}

async fn serve(session: Session, api_server: String) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(join_tcp(incoming, api_server.clone()).map(drop));
    }
}
