//! `underpass agent`.

mod rotate;

use anyhow::{Result, bail};
use time::OffsetDateTime;
use underpass_api::client::Match;
use underpass_api::{AgentView, Client, JoinTokenView, segment};
use underpass_core::ClusterName;
use underpass_terminal::say;

use super::{join, print_table, timestamp};
use crate::args::{Agent, AgentsToRotate};
use crate::paste;

pub(super) async fn run(client: &Client, command: Agent) -> Result<()> {
    match command {
        Agent::List { cluster } => list(client, cluster.as_ref()).await,
        Agent::Rotate(AgentsToRotate { id, all }) => match (id, all) {
            (Some(id), _) => rotate::one(client, &id).await,
            (None, Some(cluster)) => rotate::all(client, &cluster).await,
            (None, None) => bail!("name an agent, or --all CLUSTER"),
        },
        Agent::Revoke { id } => revoke(client, &id).await,
    }
}

/// Of this cluster, or of all.
async fn agents(client: &Client, cluster: Option<&ClusterName>) -> Result<Vec<AgentView>> {
    let path = match cluster {
        Some(cluster) => format!("/v1/agents?cluster={cluster}"),
        None => "/v1/agents".to_owned(),
    };
    Ok(client.list(&path).await?)
}

async fn list(client: &Client, cluster: Option<&ClusterName>) -> Result<()> {
    let mut rows = Vec::new();
    for agent in agents(client, cluster).await? {
        rows.push(vec![
            agent.id,
            agent.cluster.to_string(),
            agent.role.to_string(),
            agent
                .join_token
                .or_else(|| agent.account.map(|account| account.to_string()))
                .unwrap_or_else(|| "-".to_owned()),
            agent.connected.to_string(),
            timestamp(agent.created)?,
            key_since(agent.key_since, agent.next_key.is_some())?,
            agent
                .node
                .map_or_else(|| "-".to_owned(), |node| node.to_string()),
        ]);
    }
    let header = [
        "ID",
        "CLUSTER",
        "ROLE",
        "JOINED BY",
        "CONNECTED",
        "CREATED",
        "KEY SINCE",
        "NODE",
    ];
    print_table(&header, &rows);
    Ok(())
}

/// Older servers do not say it.
fn key_since(since: Option<OffsetDateTime>, rotates: bool) -> Result<String> {
    let since = since.map_or_else(|| Ok("-".to_owned()), timestamp)?;
    Ok(match rotates {
        true => format!("{since} (rotating)"),
        false => since,
    })
}

async fn revoke(client: &Client, id: &str) -> Result<()> {
    let path = format!("/v1/agents/{}", segment(id));
    let agent: AgentView = client.get(&path).await?;
    client.delete(&path, Match::Anything).await?;
    say!(
        "Agent {id} of cluster {} is revoked, and disconnected.",
        agent.cluster
    );
    if let Some(account) = &agent.account {
        say!(
            "Its pod joins again by itself, unless it is deleted or the account is: `underpass cluster join-account delete {} {account}` first, then revoke the agent once more.",
            agent.cluster
        );
    }
    if let Some(token) = open_token(client, &agent).await {
        say!(
            "It joins again by itself: its join token has {} uses left. Delete that first, and revoke the agent once more: `underpass cluster join-token delete {} {}`, then `underpass agent revoke {}`.",
            token.uses_left,
            token.cluster,
            paste::word(&token.id).unwrap_or("ID"),
            paste::word(&agent.id).unwrap_or("ID")
        );
    }
    Ok(())
}

/// The join token that the agent has joined with, where that one lets more agents in.
async fn open_token(client: &Client, agent: &AgentView) -> Option<JoinTokenView> {
    let id = agent.join_token.as_deref()?;
    let path = format!("{}/{}", join::path(&agent.cluster), segment(id));
    let token: JoinTokenView = client.get(&path).await.ok()?;
    (token.uses_left > 0 && token.expires > OffsetDateTime::now_utc()).then_some(token)
}
