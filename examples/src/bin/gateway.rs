//! A gateway with an authenticator and rules of its own: a caller with the password reads one cluster, through its agent.
//!
//! `cargo run -p underpass-examples --bin gateway -- KUBECONFIG`
#![allow(clippy::print_stdout, reason = "it shows what came back")]

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use underpass_core::{
    Access, AuthenticationMethod, AuthorizeError, Authorizer, BoxedIo, ClusterDomains, ClusterName,
    Clusters, ConnectError, Nobody, Open, RequestInfo, Revocation,
};
use underpass_examples::kubernetes::{api_server, ask, serve_api_server};
use underpass_examples::word::Word;
use underpass_examples::{Server, agent, connected};
use underpass_gateway::{Front, FrontConfig, IdleTimeout, NoServiceRoots, NotFound};
use underpass_tunnel::{AgentKey, Dialer, Registry};

/// Authorizes reads in the one cluster.
struct Readers;

#[async_trait]
impl Authorizer for Readers {
    async fn authorize(&self, access: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        let reads = access.request().is_some_and(RequestInfo::changes_nothing);
        let may = reads && access.cluster().as_str() == "edge";
        may.then(Revocation::never)
            .ok_or(AuthorizeError::Denied { reason: None })
    }
}

/// Reaches a cluster through its agent.
struct Agents(Registry);

#[async_trait]
impl Clusters for Agents {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        let dialer = Dialer::to_agent(self.0.clone(), cluster.as_str(), open.target.to_string());
        let stream = dialer.header(open.identity.clone()).dial().await;
        Ok(Box::new(stream.map_err(|_| ConnectError::NoAgent)?))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let kubeconfig = std::env::args().nth(1).context("no kubeconfig is named")?;
    let key = AgentKey::from_seed([7; 32])?;
    let server = Server::start(key.public_key(), "edge").await?;
    let api_server = api_server(&kubeconfig).await?;
    agent(&server, key, move |session| {
        tokio::spawn(serve_api_server(session, Arc::clone(&api_server)));
    })?;
    connected(&server, "edge").await;

    let front = Arc::new(Front::new(FrontConfig {
        authenticator: Arc::new(Word::new("word", AuthenticationMethod::Token)),
        authorizer: Arc::new(Readers),
        impersonation: Arc::new(Nobody),
        clusters: Arc::new(Agents(server.agents)),
        domains: ClusterDomains::default(),
        fallback: Arc::new(NotFound),
        policy: Default::default(),
        audit: Default::default(),
        budgets: Default::default(),
        service_roots: Arc::new(NoServiceRoots),
        idle_timeout: IdleTimeout::default(),
    }));
    for bearer in ["guess", "sesame"] {
        println!(
            "{bearer}: {}",
            ask(&front, bearer, "/k8s/clusters/edge/version").await?
        );
    }
    Ok(())
}
