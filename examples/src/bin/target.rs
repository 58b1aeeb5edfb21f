//! An agent that serves the API server of its cluster, and a target of its own beside it.
//!
//! `cargo run -p underpass-examples --bin target -- KUBECONFIG`
#![allow(clippy::print_stdout, reason = "it shows what came back")]

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_core::{Identity, Target};
use underpass_examples::kubernetes::{api_server, serve_kube_api};
use underpass_examples::{Server, agent, connected};
use underpass_tunnel::{AgentKey, Dialer, IncomingStream, Session};
use underpass_upstream::ApiServer;

/// The target's name in open headers.
const LOAD: &str = "load";

#[tokio::main]
async fn main() -> Result<()> {
    let kubeconfig = std::env::args().nth(1).context("no kubeconfig is named")?;
    let api_server = api_server(&kubeconfig).await?;
    let key = AgentKey::from_seed([7; 32])?;
    let server = Server::start(key.public_key(), "edge").await?;
    agent(&server, key, move |session| {
        tokio::spawn(serve(session, Arc::clone(&api_server)));
    })?;
    connected(&server, "edge").await;

    let mut load = Dialer::to_agent(server.agents.clone(), "edge", LOAD)
        .dial()
        .await?;
    let mut text = String::new();
    load.read_to_string(&mut text).await?;
    println!("load: {text}");

    // As whom the agent is to ask is in the stream's header; the request is HTTP/1.1 on the stream.
    let root = Identity::new(
        "root".to_owned(),
        None,
        vec!["admins".to_owned()],
        Default::default(),
    )?;
    let kube =
        Dialer::to_agent(server.agents, "edge", Target::KubeApi.to_string()).header(root.encode()?);
    let mut stream = kube.dial().await?;
    stream
        .write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("{answer}");
    Ok(())
}

async fn serve(session: Session, api_server: Arc<ApiServer>) {
    while let Ok(incoming) = session.accept().await {
        if incoming.target() == LOAD {
            tokio::spawn(tell_load(incoming));
        } else {
            tokio::spawn(serve_kube_api(incoming, Arc::clone(&api_server)));
        }
    }
}

async fn tell_load(incoming: IncomingStream) -> Result<()> {
    let mut stream = incoming.accept().await?;
    let load = tokio::fs::read_to_string("/proc/loadavg").await?;
    stream.write_all(load.trim().as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
