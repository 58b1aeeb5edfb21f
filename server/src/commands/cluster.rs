//! `underpass-server cluster` and `underpass-server agent`

use std::path::Path;

use anyhow::Result;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::{direct, print_table, timestamp};
use crate::cli::{Agent, Cluster};
use crate::client::Client;
use crate::commands::serve::URL;
use crate::data_dir::DataDir;
use crate::pki::Ca;
use underpass_api::{
    AgentMade, AgentRequest, AgentView, ClusterSpec, ClusterStatus, View, segment,
};
use underpass_terminal::{say, show};

type Shown = View<ClusterSpec, ClusterStatus>;

pub(crate) async fn run(client: &Client, data: &Path, command: Cluster) -> Result<()> {
    match command {
        Cluster::Add {
            name,
            labels,
            kubeconfig: Some(kubeconfig),
            context,
            policy,
        } => {
            let imported = direct::read(&kubeconfig, context.as_deref(), policy)?;
            direct::add(client, &name, &labels, imported).await?;
        }
        Cluster::Add { name, labels, .. } => {
            let wanted = AgentRequest {
                cluster: name.clone(),
                make_cluster: true,
            };
            let made: AgentMade = client.post("/v1/agents", &wanted).await?;
            if !labels.is_empty() {
                label(client, name.as_str(), &labels).await?;
            }
            say!("A token for an agent of cluster {name}; it is shown this once:");
            show(&*made.token);
            for line in next_step(client, data).lines() {
                say!("{line}");
            }
        }
        Cluster::List => {
            let clusters: Vec<Shown> = client.list("/v1/clusters").await?;
            let rows: Vec<_> = clusters
                .iter()
                .map(|cluster| row(client, cluster))
                .collect();
            let rows = join_all(rows).await;
            print_table(
                &["CLUSTER", "KIND", "AGENT TOKENS", "CONNECTED", "LABELS"],
                &rows,
            );
        }
        Cluster::Label { name, labels } => {
            let shown = label(client, name.as_str(), &labels).await?;
            say!("Cluster {name} has the labels {}.", labels_of(&shown));
        }
        Cluster::Remove { name } => {
            client
                .delete(&format!("/v1/clusters/{}", segment(name.as_str())))
                .await?;
            say!("Cluster {name} is forgotten; what was open to it has ended.");
        }
    }
    Ok(())
}

pub(crate) async fn run_agent(client: &Client, command: Agent) -> Result<()> {
    match command {
        Agent::List { cluster } => {
            let path = match &cluster {
                Some(cluster) => format!("/v1/agents?cluster={cluster}"),
                None => "/v1/agents".to_owned(),
            };
            let agents: Vec<AgentView> = client.list(&path).await?;
            let mut rows = Vec::new();
            for agent in agents {
                rows.push(vec![
                    agent.id,
                    agent.cluster.to_string(),
                    timestamp(agent.created)?,
                ]);
            }
            print_table(&["ID", "CLUSTER", "CREATED"], &rows);
        }
        Agent::Revoke { id } => {
            client
                .delete(&format!("/v1/agents/{}", segment(&id)))
                .await?;
            say!("Agent token {id} is revoked; whoever uses it is cut off.");
        }
    }
    Ok(())
}

/// `key=value` sets, `key-` removes.
pub(super) async fn label(client: &Client, name: &str, labels: &[String]) -> Result<Shown> {
    let mut change = Map::new();
    for label in labels {
        match (label.split_once('='), label.strip_suffix('-')) {
            (Some((key, value)), _) => change.insert(key.to_owned(), value.into()),
            (None, Some(key)) => change.insert(key.to_owned(), Value::Null),
            (None, None) => anyhow::bail!("{label:?} is neither KEY=VALUE nor KEY-"),
        };
    }
    let path = format!("/v1/clusters/{}", segment(name));
    client.patch(&path, &json!({ "labels": change })).await
}

fn labels_of(cluster: &Shown) -> String {
    let labels = cluster.spec.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    super::list(&labels)
}

async fn row(client: &Client, cluster: &Shown) -> Vec<String> {
    let status = &cluster.status;
    let (agents, connected) = if status.kind == direct::KIND {
        let reachable = direct::reachability(client, &cluster.name).await;
        ("-".to_owned(), reachable)
    } else {
        let connected = status.connected.map(|connected| connected.to_string());
        (status.agents.to_string(), connected)
    };
    vec![
        cluster.name.clone(),
        status.kind.clone(),
        agents,
        connected.unwrap_or_else(|| "-".to_owned()),
        labels_of(cluster),
    ]
}

/// How to start the agent, as far as it is known here.
fn next_step(client: &Client, data: &Path) -> String {
    // Whatever is wrong with these, the token has been made.
    let here = match client {
        Client::Https(remote) => Some((remote.url.to_string(), None)),
        _ => DataDir::open(data).ok().and_then(|data| {
            let url = data.read(URL).ok().flatten()?;
            Some((url, Some(Ca::pin(&data).ok()?)))
        }),
    };
    match here {
        Some((url, Some(pin))) => format!(
            "With that in a file, start the agent:\n  \
             underpass-agent --server {} --ca-pin {pin} --token-file FILE",
            url.trim()
        ),
        Some((url, None)) => format!(
            "With that in a file, start the agent (`underpass-server ca-pin`, at the server, prints PIN):\n  \
             underpass-agent --server {} --ca-pin PIN --token-file FILE",
            url.trim_end_matches('/')
        ),
        None => {
            "Once `underpass-server serve` has been started, `underpass-server ca-pin` prints what \
              else the agent needs."
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_can_be_copied() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let client = Client::Socket(data.clone());
        let early = next_step(&client, dir.path());
        assert!(early.contains("underpass-server ca-pin"), "{early}");
        Ca::load_or_create(&data).unwrap();
        data.write(URL, "https://u.example.org:8443\n").unwrap();
        let pin = Ca::pin(&data).unwrap();
        let wanted = format!("--server https://u.example.org:8443 --ca-pin {pin} --token-file");
        let told = next_step(&client, dir.path());
        assert!(told.contains(&wanted), "{told}");
    }
}
