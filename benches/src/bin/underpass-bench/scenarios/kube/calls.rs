//! GETs, watches that wait for a write, and what a user does who knows no measure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The object that is read, watched and written.
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
    // The first one connects.
    get(client).await?;
    let (mut times, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < time {
        let asked = Instant::now();
        get(client).await?;
        times.push(micros(asked, Instant::now()));
    }
    Ok(times)
}

async fn get(client: &Client) -> Result<String> {
    let request = Request::get(PATH).body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

/// GETs, so many at a time, until it is ended.
pub(super) struct Storm {
    begun: Instant,
    told: Arc<Told>,
    callers: JoinSet<Result<()>>,
}

/// How calls of a storm ended.
#[derive(Default)]
struct Told {
    answered: AtomicU64,
    refused: AtomicU64,
}

/// The outcome of a storm.
pub(super) struct Calmed {
    /// Answers in a second.
    pub(super) rate: f64,
    /// Percent of the calls that were refused as too many.
    pub(super) refused: f64,
}

impl Storm {
    pub(super) fn begin(client: &Client, in_flight: usize) -> Self {
        let told = Arc::<Told>::default();
        let mut callers = JoinSet::new();
        for _ in 0..in_flight {
            let (client, told) = (client.clone(), Arc::clone(&told));
            callers.spawn(async move {
                loop {
                    let counter = match get(&client).await {
                        Ok(_) => &told.answered,
                        Err(error) if is_refused(&error) => &told.refused,
                        Err(error) => return Err(error),
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            begun: Instant::now(),
            told,
            callers,
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The error that stopped one of the callers.
    pub(super) async fn end(mut self) -> Result<Calmed> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let [answered, refused] = [&self.told.answered, &self.told.refused]
            .map(|counter| counter.load(Ordering::Relaxed) as f64);
        if let Some(ended) = self.callers.try_join_next() {
            ended??;
        }
        self.callers.shutdown().await;
        Ok(Calmed {
            rate: answered / seconds,
            refused: 100.0 * refused / (answered + refused),
        })
    }
}

fn is_refused(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(kube::Error::Api(status)) if status.code == 429
    )
}

/// Watches that have begun.
pub(super) struct Watches {
    count: usize,
    watching: JoinSet<Result<()>>,
    events: mpsc::UnboundedReceiver<Instant>,
}

impl Watches {
    /// Opens so many, spread over the clients, and waits until each has seen the object as it is.
    pub(super) async fn begin(clients: &[Client], count: usize) -> Result<Self> {
        let (seen, events) = mpsc::unbounded_channel();
        let mut watching = JoinSet::new();
        for client in clients.iter().cycle().take(count) {
            watching.spawn(watch(client.clone(), seen.clone()));
        }
        let mut watches = Self {
            count,
            watching,
            events,
        };
        watches.all().await.context("not all watches begin")?;
        Ok(watches)
    }

    /// Microseconds from when a write was sent until each of them has seen it, for so many writes.
    pub(super) async fn writes(mut self, writer: &Client, writes: usize) -> Result<Vec<f64>> {
        let mut delays = Vec::with_capacity(self.count * writes);
        for write in 0..writes {
            let patch = json!({ "data": { "write": format!("{write} at {:?}", Instant::now()) } });
            let request = Request::patch(PATH)
                .header("content-type", "application/merge-patch+json")
                .body(serde_json::to_vec(&patch)?)?;
            let sent = Instant::now();
            writer.request_text(request).await?;
            let arrivals = self.all().await.context("not all watches see a write")?;
            delays.extend(arrivals.into_iter().map(|at| micros(sent, at)));
        }
        self.end().await;
        Ok(delays)
    }

    /// Closes them.
    pub(super) async fn end(mut self) {
        self.watching.shutdown().await;
    }

    /// When each of them has seen something.
    async fn all(&mut self) -> Result<Vec<Instant>> {
        let arrivals = async {
            let mut arrivals = Vec::with_capacity(self.count);
            while arrivals.len() < self.count {
                tokio::select! {
                    at = self.events.recv() => arrivals.push(at.context("all watches have ended")?),
                    Some(ended) = self.watching.join_next() => {
                        ended??;
                        bail!("a watch has ended");
                    }
                }
            }
            Ok(arrivals)
        };
        tokio::time::timeout(DEADLINE, arrivals)
            .await
            .context("some are missing")?
    }
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

fn micros(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e6
}
