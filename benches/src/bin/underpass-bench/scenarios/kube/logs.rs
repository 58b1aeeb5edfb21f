//! A pod's log, read as fast as it comes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use underpass_testenv::{Cluster, testing};

const POD: &str = "chatterbox";

/// Lines of its log, before the last one.
const LINES: usize = 250_000;

/// One of them, with its end.
const LINE: &str = "2026-01-01T00:00:00Z level=info msg=\"as long as such lines are\" path=/api/v1/things status=200 user=somebody took=12ms bytes=4711\n";

/// The last one.
const LAST: &str = "that is all\n";

/// How long it may take until all has been written, or read.
const DEADLINE: Duration = Duration::from_secs(120);

/// Starts the pod, and waits until its log is whole.
pub(super) async fn prepare(cluster: &Cluster, client: &Client) -> Result<()> {
    cluster.apply(&pod())?;
    let whole = async {
        // Until the pod runs there is no log to ask for.
        while client.request_text(tail()?).await.ok().as_deref() != Some(LAST) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, whole)
        .await
        .context("the pod's log is not whole")?
}

fn pod() -> Value {
    let script = format!(
        "yes '{}' | head -n {LINES}; printf '{LAST}'; exec sleep 100000",
        LINE.trim_end()
    );
    testing::pod(POD, &script)
}

fn request(query: &str) -> Result<Request<()>> {
    let path = format!("/api/v1/namespaces/default/pods/{POD}/log{query}");
    Ok(Request::get(path).body(())?)
}

fn tail() -> Result<Request<Vec<u8>>> {
    Ok(request("?tailLines=1")?.map(|()| Vec::new()))
}

/// Gbit/s of the whole log.
pub(super) async fn read(client: &Client) -> Result<f64> {
    let read = async {
        let begun = Instant::now();
        let response = client.send(request("")?.map(|()| Body::empty())).await?;
        ensure!(
            response.status().is_success(),
            "the log was answered with {}",
            response.status()
        );
        let (mut body, mut bytes) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len());
        }
        ensure!(
            bytes == LINES * LINE.len() + LAST.len(),
            "a log of {bytes} bytes"
        );
        Ok(bytes as f64 * 8.0 / 1e9 / begun.elapsed().as_secs_f64())
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .context("the log does not end")?
}
