//! Services behind an agent, as `Clusters` gives them: each stream that is opened is in the test's hands.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::{
    io::DuplexStream,
    sync::{Mutex as AsyncMutex, mpsc},
};
use underpass_core::{BoxedIo, ClusterName, Clusters, ConnectError, Open};

use crate::{
    connect::agent::Agent,
    world::{World, soon},
};

/// The root of the service `web` in the namespace `shop` of cluster `c`, at this server.
pub(crate) const WEB: &str = "/v1/clusters/c/services/http:shop:web:80";

/// A front, and an agent whose streams' ends are in the test's hands.
pub(crate) async fn world() -> (Arc<Agent>, World) {
    let agent = Arc::<Agent>::default();
    let world = World::over(Arc::clone(&agent) as _).await;
    (agent, world)
}

/// A head of HTTP/1.1 as alice, with further lines (each ends in CRLF).
pub(crate) fn head(world: &World, method: &str, path: &str, lines: &str) -> String {
    let token = &world.alice;
    format!(
        "{method} {path} HTTP/1.1\r\nHost: front:8443\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
    )
}

/// A GET as alice of this path of `web`, which `answer` is the answer to.
pub(crate) async fn answered(
    agent: &Agent,
    world: &World,
    path: &str,
    lines: &str,
    answer: &str,
) -> (String, String) {
    let lines = format!("{lines}Connection: close\r\n");
    answered_at(agent, world, &format!("{WEB}{path}"), &lines, answer).await
}

/// A GET as alice of this path, which `answer` is the answer to.
pub(crate) async fn answered_at(
    agent: &Agent,
    world: &World,
    path: &str,
    lines: &str,
    answer: &str,
) -> (String, String) {
    let request = head(world, "GET", path, lines);
    let serving = async {
        let mut end = agent.next_end().await;
        let asked = end.head().await;
        end.write(answer.to_owned()).await;
        end.finish();
        asked
    };
    let (answer, asked) = tokio::join!(world.raw(&request), serving);
    (asked, answer)
}

/// The agent of services that speak for themselves.
pub(crate) struct Site {
    opened: Mutex<Vec<String>>,
    streams: mpsc::UnboundedSender<DuplexStream>,
    next: AsyncMutex<mpsc::UnboundedReceiver<DuplexStream>>,
}

impl Site {
    pub(crate) fn new() -> Arc<Self> {
        let (streams, next) = mpsc::unbounded_channel();
        Arc::new(Self {
            opened: Mutex::default(),
            streams,
            next: AsyncMutex::new(next),
        })
    }

    /// The service's end of the next stream.
    pub(crate) async fn next(&self) -> DuplexStream {
        let mut next = self.next.lock().await;
        soon(next.recv()).await.unwrap()
    }

    /// The targets of all streams.
    pub(crate) fn opened(&self) -> Vec<String> {
        self.opened.lock().unwrap().clone()
    }
}

#[async_trait]
impl Clusters for Site {
    async fn connect(&self, _: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        self.opened.lock().unwrap().push(open.target.to_string());
        let (front, service) = tokio::io::duplex(64 * 1024);
        self.streams.send(service).unwrap();
        Ok(Box::new(front))
    }
}
