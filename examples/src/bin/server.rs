//! A whole server with an authenticator and a directory of its own, and its agent, in one process.
//!
//! `cargo run -p underpass-examples --bin server -- KUBECONFIG`
#![allow(clippy::print_stdout, reason = "it shows what came back")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_api::client::{Client, Credential, Server as Url};
use underpass_authenticate::Step;
use underpass_core::{AuthenticationMethod, ClusterName};
use underpass_directory::MemoryStore;
use underpass_examples::directory::fill;
use underpass_examples::kubernetes::{api_server, serve_api_server};
use underpass_examples::word::Word;
use underpass_https::Roots;
use underpass_server::{Server, ServerConfig};
use underpass_tunnel::{AgentKey, Connector, ConnectorConfig};

#[tokio::main]
async fn main() -> Result<()> {
    let kubeconfig = std::env::args().nth(1).context("no kubeconfig is named")?;
    let data = tempfile::tempdir()?;
    let mut config = ServerConfig::new(data.path());
    config.listen = (Ipv4Addr::LOCALHOST, 0).into();
    // In earnest a store keeps what it is given.
    config.store = Some(Arc::new(MemoryStore::default()));
    let word = Arc::new(Word::new("word", AuthenticationMethod::Jwt));
    config.authenticators = vec![Step::new("word", word, Duration::from_secs(5))];
    let server = Server::start(config).await?;

    let key = AgentKey::from_seed([7; 32])?;
    let edge = ClusterName::new("edge")?;
    let public = key.public_key().to_string();
    server
        .directory()
        .change(|draft| fill(draft, &edge, &public))
        .await?;
    let api_server = api_server(&kubeconfig).await?;
    let ca = server.ca_pem().as_bytes().to_vec();
    let connector = ConnectorConfig::new("localhost", server.address().port(), ca, key);
    let connector = Connector::new(connector)?;
    let serve = move |session| {
        tokio::spawn(serve_api_server(session, Arc::clone(&api_server)));
    };
    tokio::spawn(async move { connector.run(serve, |_| {}).await });
    while server.agents(&edge) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let roots = Roots::from_pem(server.ca_pem().as_bytes())?;
    for word in ["guess", "sesame"] {
        let credential = Credential::Bearer(word.to_owned().into());
        let client = Client::at(Url::new(server.url(), &roots, None, &credential)?);
        match client.get::<Value>("/k8s/clusters/edge/version").await {
            Ok(version) => println!("{word}: {:?}", version.get("gitVersion")),
            Err(error) => println!("{word}: {error}"),
        }
    }
    server.stop().await;
    Ok(())
}
