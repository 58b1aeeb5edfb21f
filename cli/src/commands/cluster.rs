//! `underpass cluster` and `underpass agent`

use anyhow::Result;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use underpass_api::client::{ClientError, Match, Server};
use underpass_api::{
    AgentMade, AgentRequest, AgentView, Client, ClusterSpec, ClusterStatus, SERVER, ServerInfo,
    View, segment,
};
use underpass_https::https_url;
use underpass_terminal::{say, show};

use super::{direct, print_table, timestamp};
use crate::args::{Agent, Cluster};

type Shown = View<ClusterSpec, ClusterStatus>;

pub(crate) async fn run(client: &Client, command: Cluster) -> Result<()> {
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
            say!("A token for an agent of cluster {name}, which is shown only now:");
            show(&*made.token);
            for line in next_step(client).await {
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
                .delete(
                    &format!("/v1/clusters/{}", segment(name.as_str())),
                    Match::Anything,
                )
                .await?;
            say!("Cluster {name} is removed; open streams to it end.");
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
                .delete(&format!("/v1/agents/{}", segment(&id)), Match::Anything)
                .await?;
            say!("Agent token {id} is revoked; its agent is disconnected.");
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
    let labels = json!({ "labels": change });
    Ok(client.patch(&path, &labels, Match::Anything).await?)
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

/// How to start the agent.
async fn next_step(client: &Client) -> Vec<String> {
    // The token has been made, and is shown, if this fails.
    next_step_at(client.get(SERVER).await, client)
}

fn next_step_at(info: Result<ServerInfo, ClientError>, client: &Client) -> Vec<String> {
    let unknown = "Save it in a file for `underpass-agent --token-file FILE`; `underpass-server ca-pin`, on the server's \
                   machine, prints the --ca-pin.";
    let Ok(info) = info else {
        return vec![unknown.to_owned()];
    };
    // People paste it into a shell, which a hostile text could command.
    let is_pin = |pin: &str| {
        let digits = pin.strip_prefix("sha256:").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let plain = |url: &str| {
        url.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/:.-[]_".contains(&b))
    };
    // The URL by which this program reaches the server works.
    let url = client.server().map_or(info.url, Server::url);
    if !is_pin(&info.ca_pin) || !plain(&url) || https_url(&url).is_none() {
        return vec![unknown.to_owned()];
    }
    vec![
        "Save it in a file, and start the agent:".to_owned(),
        format!(
            "  underpass-agent --server {url} --ca-pin {} --token-file FILE",
            info.ca_pin
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_can_be_copied() {
        let client = Client::at_socket("/nowhere");
        let early = next_step_at(Err(ClientError::NoServer("/nowhere".into())), &client).join("\n");
        assert!(early.contains("underpass-server ca-pin"), "{early}");
        let pin = "sha256:ab";
        let info = ServerInfo {
            url: "https://u.example.org:8443".to_owned(),
            ca_pem: String::new(),
            ca_pin: pin.to_owned(),
            version: String::new(),
        };
        let wanted = format!("--server https://u.example.org:8443 --ca-pin {pin} --token-file");
        let told = next_step_at(Ok(info.clone()), &client).join("\n");
        assert!(told.contains(&wanted), "{told}");
        for (url, ca_pin) in [
            ("https://u", "sha256:ab\nAll done. Run: evil"),
            ("https://u", "sha256:ab; evil #"),
            ("https://u;evil", pin),
            ("https://u/$(evil)", pin),
        ] {
            let info = ServerInfo {
                url: url.to_owned(),
                ca_pin: ca_pin.to_owned(),
                ..info.clone()
            };
            let told = next_step_at(Ok(info), &client).join("\n");
            assert!(!told.contains("evil"), "rule 23: {told}");
        }
    }
}
