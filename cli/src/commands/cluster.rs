//! `underpass cluster`

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Map, Value, json};
use underpass_api::client::Match;
use underpass_api::{Client, ClusterSpec, ClusterStatus, ServingAgent, View, segment};
use underpass_core::REGISTERED_CREDENTIAL;
use underpass_terminal::say;

use super::{direct, join, join_account, print_table, registration};
use crate::args::{Cluster, StandIn};

pub(super) type Shown = View<ClusterSpec, ClusterStatus>;

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
            ..
        } => {
            let imported = direct::read(&kubeconfig, context.as_deref(), policy)?;
            direct::add(client, &name, &labels, imported).await?;
        }
        Cluster::Add {
            name,
            labels,
            agent,
            ..
        } => {
            let added = join::add(client, &name, agent).await?;
            if !labels.is_empty() {
                label(client, name.as_str(), &labels).await?;
            }
            added.show(client).await?;
        }
        Cluster::JoinToken(command) => join::run(client, command).await?,
        Cluster::JoinAccount(command) => join_account::run(client, command).await?,
        Cluster::Credentials(command) => registration::run(client, command).await?,
        Cluster::List => {
            let clusters: Vec<Shown> = client.list("/v1/clusters").await?;
            let rows = rows(client, &clusters).await;
            let header = [
                "CLUSTER",
                "KIND",
                "AGENTS",
                "CONNECTED",
                "SERVED BY",
                "LABELS",
            ];
            print_table(&header, &rows);
        }
        Cluster::Label { name, labels } => {
            let shown = label(client, name.as_str(), &labels).await?;
            say!("Cluster {name} has the labels {}.", labels_of(&shown));
        }
        Cluster::StandIn { name, may } => {
            let path = format!("/v1/clusters/{}", segment(name.as_str()));
            let may = may == StandIn::Allow;
            let change = json!({ "nodesMayStandIn": may });
            let _: Shown = client.patch(&path, &change, Match::Anything).await?;
            match may {
                true => say!(
                    "Agents on nodes of cluster {name} serve its API server while no other agent is connected, where their policies \
                     say `apiServer: true`."
                ),
                false => say!(
                    "Agents on nodes of cluster {name} do not serve its API server; open streams through them end."
                ),
            }
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

/// As in the audit log: ROLE/AGENT, or registered-credential/AGENT.
fn served_by(agents: &[ServingAgent]) -> String {
    let agents: Vec<_> = agents
        .iter()
        .map(|serving| match serving.by_credential {
            true => format!("{REGISTERED_CREDENTIAL}/{}", serving.agent),
            false => format!("{}/{}", serving.role, serving.agent),
        })
        .collect();
    super::list(&agents)
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
        served_by(&status.served_by),
        labels_of(cluster),
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
}
