//! `underpass agent rotate`: one agent, or all of a cluster.

use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, stream};
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep, sleep_until};
use underpass_api::client::ClientError;
use underpass_api::{AgentView, Client, KeyRotated, segment};
use underpass_core::ClusterName;
use underpass_terminal::{say, show};

/// Agents that rotate at once: each takes a second, and one that hangs some fifteen.
const AT_ONCE: usize = 16;

/// Between two that begin. The server takes five next keys of a cluster a second, of which some are of agents whose keys are old enough.
const PACE: Duration = Duration::from_millis(250);

/// Attempts, where the server has the caller wait for a turn: it gives one a second.
const ATTEMPTS: u32 = 60;

pub(super) async fn one(client: &Client, id: &str) -> Result<()> {
    let KeyRotated { agent, key } = rotate(client, id).await?;
    say!("Agent {agent} uses the key {key} from now on; the old one counts for nothing.");
    Ok(())
}

pub(super) async fn all(client: &Client, cluster: &ClusterName) -> Result<()> {
    let agents = super::agents(client, Some(cluster)).await?;
    if agents.is_empty() {
        // There may be no such cluster.
        let _: IgnoredAny = client.get(&format!("/v1/clusters/{cluster}")).await?;
    }
    let (mut rotated, mut failed, mut skipped) = (0, 0, 0);
    let mut outcomes = std::pin::pin!(outcomes(client, &agents));
    while let Some((agent, outcome)) = outcomes.next().await {
        match outcome {
            Outcome::Rotated(_) => rotated += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
        show(line(agent, &outcome));
    }
    say!("Cluster {cluster}: {rotated} rotated, {failed} failed, {skipped} skipped.");
    match failed {
        0 => Ok(()),
        _ => bail!(
            "{failed} of {} agents have not rotated their keys",
            agents.len()
        ),
    }
}

/// The outcome of one agent.
enum Outcome {
    /// It uses this key.
    Rotated(String),
    Failed(anyhow::Error),
    /// It was not asked to.
    Skipped(&'static str),
}

/// In the order of the agents.
fn outcomes<'a>(
    client: &'a Client,
    agents: &'a [AgentView],
) -> impl futures_util::Stream<Item = (&'a AgentView, Outcome)> {
    let mut turn = Instant::now();
    let outcomes = stream::iter(agents).map(move |agent| {
        let reason = reason_to_skip(agent);
        let at = turn;
        if reason.is_none() {
            turn += PACE;
        }
        async move {
            let outcome = match reason {
                Some(reason) => Outcome::Skipped(reason),
                None => {
                    sleep_until(at).await;
                    rotate_in_turn(client, &agent.id).await
                }
            };
            (agent, outcome)
        }
    });
    outcomes.buffered(AT_ONCE)
}

fn reason_to_skip(agent: &AgentView) -> Option<&'static str> {
    if agent.join_token.is_none() && agent.account.is_none() {
        Some("it has a static token, and such keys are not rotated")
    } else if agent.connected == 0 {
        Some("it is not connected, and rotates its key by itself when that is old enough")
    } else {
        None
    }
}

async fn rotate_in_turn(client: &Client, id: &str) -> Outcome {
    let mut attempts = 1;
    loop {
        let error = match rotate(client, id).await {
            Ok(rotated) => return Outcome::Rotated(rotated.key),
            Err(error) => error,
        };
        let wait = error.problem().and_then(|told| told.retry_after_seconds);
        let Some(seconds) = wait.filter(|_| attempts < ATTEMPTS) else {
            return Outcome::Failed(error.into());
        };
        attempts += 1;
        sleep(Duration::from_secs(seconds.clamp(1, 10))).await;
    }
}

async fn rotate(client: &Client, id: &str) -> Result<KeyRotated, ClientError> {
    let path = format!("/v1/agents/{}/rotate", segment(id));
    client.post(&path, &()).await
}

fn line(agent: &AgentView, outcome: &Outcome) -> String {
    let node = agent.node.as_ref();
    let node = node.map_or_else(String::new, |node| format!(" (node {node})"));
    let agent = format!("Agent {}{node}", agent.id);
    match outcome {
        Outcome::Rotated(key) => {
            format!("{agent} uses the key {key} from now on; the old one counts for nothing.")
        }
        Outcome::Failed(error) => format!("{agent} has not rotated its key: {error:#}"),
        Outcome::Skipped(reason) => format!("{agent} is skipped: {reason}."),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::net::UnixListener;
    use tokio::task::JoinSet;

    use super::*;

    /// A server with these agents. The first attempt of `busy` has to wait, and `broken` fails.
    struct Stub {
        client: Client,
        asked: Arc<Mutex<Vec<String>>>,
        _serving: JoinSet<()>,
        _folder: tempfile::TempDir,
    }

    fn problem(status: u16, detail: &str, retry_after: Option<u64>) -> (u16, Value) {
        let problem = json!({
            "status": status, "title": "x", "detail": detail, "retryAfterSeconds": retry_after,
        });
        (status, problem)
    }

    fn answer(asked: &[String]) -> (u16, Value) {
        let now = asked.last().unwrap().as_str();
        let times = asked.iter().filter(|before| *before == now).count();
        match now {
            "/v1/agents?cluster=edge" => {
                let agent = |id: &str, joined: bool, connected: u32| {
                    json!({
                        "id": id, "revision": 1, "created": "2026-01-01T00:00:00Z", "cluster": "edge", "key": "k",
                        "joinToken": joined.then_some("j"), "connected": connected,
                    })
                };
                let items = [
                    agent("broken", true, 1),
                    agent("away", true, 0),
                    agent("busy", true, 2),
                    agent("fixed", false, 1),
                    agent("good", true, 1),
                ];
                (200, json!({ "items": items, "revision": 1 }))
            }
            "/v1/agents?cluster=empty" => (200, json!({ "items": [], "revision": 1 })),
            "/v1/clusters/empty" => problem(404, "no cluster", None),
            "/v1/agents/busy/rotate" if times == 1 => problem(429, "too fast", Some(1)),
            "/v1/agents/broken/rotate" => problem(409, "its disk is full", None),
            _ => {
                let id = now.split('/').nth(3).unwrap();
                (200, json!({ "agent": id, "key": format!("key-of-{id}") }))
            }
        }
    }

    impl Stub {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("api.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let asked = Arc::<Mutex<Vec<String>>>::default();
            let seen = Arc::clone(&asked);
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let seen = Arc::clone(&seen);
                    connections.spawn(async move {
                        let service = service_fn(|request: Request<Incoming>| {
                            let mut seen = seen.lock().unwrap();
                            seen.push(request.uri().to_string());
                            let (status, body) = answer(&seen);
                            let body = Full::new(Bytes::from(body.to_string()));
                            let mut response = Response::new(body);
                            *response.status_mut() = status.try_into().unwrap();
                            async { Ok::<_, Infallible>(response) }
                        });
                        let connection = http1::Builder::new();
                        // The client closes the connection as soon as it has the answer.
                        let _ = connection
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                }
            });
            Self {
                client: Client::at_socket(path),
                asked,
                _serving: serving,
                _folder: folder,
            }
        }
    }

    #[tokio::test]
    async fn one_that_fails_or_has_to_wait_stops_none_of_the_others() {
        let edge = ClusterName::new("edge").unwrap();
        let stub = Stub::start();
        let agents = super::super::agents(&stub.client, Some(&edge))
            .await
            .unwrap();
        let lines = outcomes(&stub.client, &agents).map(|(agent, outcome)| line(agent, &outcome));
        let lines: Vec<_> = lines.collect().await;
        let wanted = [
            "Agent broken has not rotated its key: its disk is full",
            "Agent away is skipped: it is not connected",
            "Agent busy uses the key key-of-busy",
            "Agent fixed is skipped: it has a static token",
            "Agent good uses the key key-of-good",
        ];
        for (line, wanted) in lines.iter().zip(wanted) {
            assert!(line.starts_with(wanted), "{line}");
        }
        assert_eq!(lines.len(), wanted.len());
        let asked = std::mem::take(&mut *stub.asked.lock().unwrap());
        let asked = asked.iter().filter(|path| path.ends_with("/rotate"));
        assert_eq!(asked.count(), 4, "and one of them twice");
        let failed = all(&stub.client, &edge).await.unwrap_err();
        assert_eq!(
            failed.to_string(),
            "1 of 5 agents have not rotated their keys"
        );
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_is_an_error() {
        let stub = Stub::start();
        let empty = ClusterName::new("empty").unwrap();
        let error = all(&stub.client, &empty).await.unwrap_err();
        assert_eq!(error.to_string(), "no cluster");
    }
}
