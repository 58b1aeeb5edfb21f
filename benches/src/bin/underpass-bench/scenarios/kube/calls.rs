//! GETs, and watches that wait for a write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What is read, watched and written.
const PATH: &str = "/api/v1/namespaces/default/configmaps/bench";

/// The same for a watch.
const WATCH: &str =
    "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dbench";

/// How long all watches may take to begin, or to see a write.
const DEADLINE: Duration = Duration::from_secs(60);

/// The object.
pub(super) fn config_map() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "bench", "namespace": "default" },
        "data": { "write": "none yet" },
    })
}

/// Microseconds of each GET, one after the other for so long.
pub(super) async fn gets(client: &Client, time: Duration) -> Result<Vec<f64>> {
    let get = || async {
        let request = Request::get(PATH).body(Vec::new())?;
        anyhow::Ok(client.request_text(request).await?)
    };
    // The first one connects.
    get().await?;
    let (mut times, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < time {
        let asked = Instant::now();
        get().await?;
        times.push(micros(asked, Instant::now()));
    }
    Ok(times)
}

/// Microseconds from when a write was sent until each of so many watches has seen it, for all writes.
pub(super) async fn watches(
    client: &Client,
    writer: &Client,
    count: usize,
    writes: usize,
) -> Result<Vec<f64>> {
    let (seen, mut events) = mpsc::unbounded_channel();
    let mut watching = JoinSet::new();
    for _ in 0..count {
        watching.spawn(watch(client.clone(), seen.clone()));
    }
    drop(seen);
    // Each begins with the object as it is.
    all(&mut events, count)
        .await
        .context("not all watches begin")?;
    let mut delays = Vec::with_capacity(count * writes);
    for write in 0..writes {
        let patch = json!({ "data": { "write": format!("{write} at {:?}", Instant::now()) } });
        let request = Request::patch(PATH)
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(&patch)?)?;
        let sent = Instant::now();
        writer.request_text(request).await?;
        let arrivals = all(&mut events, count)
            .await
            .context("not all watches see a write")?;
        delays.extend(arrivals.into_iter().map(|at| micros(sent, at)));
    }
    Ok(delays)
}

/// Sends when each event came, until it is dropped.
async fn watch(client: Client, seen: mpsc::UnboundedSender<Instant>) -> Result<()> {
    let response = client
        .send(Request::get(WATCH).body(Body::empty())?)
        .await?;
    ensure!(
        response.status().is_success(),
        "a watch was answered with {}",
        response.status()
    );
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let bytes = frame.data_ref().map(AsRef::as_ref).unwrap_or_default();
        // Each event is a line.
        for _ in bytes.iter().filter(|&&byte| byte == b'\n') {
            seen.send(Instant::now())?;
        }
    }
    Ok(())
}

async fn all(events: &mut mpsc::UnboundedReceiver<Instant>, count: usize) -> Result<Vec<Instant>> {
    let arrivals = async {
        let mut arrivals = Vec::with_capacity(count);
        while arrivals.len() < count {
            let all_gone = "all watches have ended";
            arrivals.push(events.recv().await.context(all_gone)?);
        }
        Ok(arrivals)
    };
    tokio::time::timeout(DEADLINE, arrivals)
        .await
        .context("some are missing")?
}

fn micros(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e6
}
