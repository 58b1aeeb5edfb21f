//! `underpass cluster` and `underpass agent`

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Map, Value, json};
use underpass_api::client::{ClientError, Match, Server};
use underpass_api::{
    AgentMade, AgentRequest, AgentView, Client, ClusterSpec, ClusterStatus, SERVER, ServerInfo,
    View, segment,
};
use underpass_terminal::{say, show};

use super::{direct, print_table, timestamp};
use crate::args::{Agent, Cluster};
use crate::paste;

type Shown = View<ClusterSpec, ClusterStatus>;

/// Direct clusters whose reachability is asked for at once. Each question has a connection of its own. A server answers 16 requests
/// of one user at once, and refuses others.
const CHECKS_AT_ONCE: usize = 8;

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
            let rows = rows(client, &clusters).await;
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

/// In the order of the clusters.
async fn rows(client: &Client, clusters: &[Shown]) -> Vec<Vec<String>> {
    let rows = stream::iter(clusters).map(|cluster| row(client, cluster));
    rows.buffered(CHECKS_AT_ONCE).collect().await
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
    // The URL by which this program reaches the server works.
    let url = client.server().map_or(info.url, Server::url);
    let Some(url) = paste::url(&url).filter(|_| is_pin(&info.ca_pin)) else {
        return vec![unknown.to_owned()];
    };
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
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixListener;
    use tokio::sync::{Semaphore, watch};
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_list_asks_about_few_clusters_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (asked, mut seen) = watch::channel(0);
        let answering = std::sync::Arc::new(Semaphore::new(0));
        let gate = std::sync::Arc::clone(&answering);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                asked.send_modify(|asked| *asked += 1);
                let gate = std::sync::Arc::clone(&gate);
                connections.spawn(async move {
                    let service = service_fn(|_| async {
                        gate.acquire().await.unwrap().forget();
                        let reachable = r#"{"reachable": true, "version": "v1.35.0"}"#;
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(reachable))))
                    });
                    let connection = http1::Builder::new();
                    // The client closes the connection as soon as it has the answer.
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let clusters: Vec<Shown> = (0..5 * CHECKS_AT_ONCE)
            .map(|number| {
                let shown = json!({
                    "name": format!("c{number}"), "revision": 1, "created": "2026-01-01T00:00:00Z",
                    "spec": {}, "status": { "kind": direct::KIND, "agents": 0 },
                });
                serde_json::from_value(shown).unwrap()
            })
            .collect();
        let client = Client::at_socket(path);
        let mut list = std::pin::pin!(rows(&client, &clusters));
        tokio::select! {
            _ = &mut list => panic!("nothing was answered"),
            _ = seen.wait_for(|asked| *asked == CHECKS_AT_ONCE) => {}
        }
        // Long enough for all of the others, on one thread with the server.
        for _ in 0..10_000 {
            tokio::select! {
                biased;
                _ = &mut list => panic!("nothing was answered"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(*seen.borrow(), CHECKS_AT_ONCE);
        answering.add_permits(clusters.len());
        let rows = list.await;
        let names: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
        let wanted: Vec<_> = clusters
            .iter()
            .map(|cluster| cluster.name.as_str())
            .collect();
        assert_eq!(names, wanted);
        assert!(rows.iter().all(|row| row[3] == "yes (v1.35.0)"), "{rows:?}");
    }

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
            cluster_domain: None,
            tls_cluster_domain: None,
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
