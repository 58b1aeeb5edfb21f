//! Targets behind an agent, as `Clusters` gives them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, DuplexStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::io::StreamReader;
use underpass_core::{
    BoxedIo, ClusterName, Clusters, ConnectError, Decline, Identity, NodeName, Open,
};

use crate::world::soon;

/// The agent of every cluster. Some targets' names say how it answers; the other streams are in the test's hands.
#[derive(Default)]
pub(crate) struct Agent {
    opened: Mutex<Vec<(String, String, String)>>,
    ends: Mutex<Vec<End>>,
    /// A permit for each stream to a target called `late` that may be accepted.
    pub(crate) late: Semaphore0,
    /// There is another one.
    pub(crate) has_another: AtomicBool,
}

/// A semaphore without permits.
pub(crate) struct Semaphore0(pub(crate) Semaphore);

impl Default for Semaphore0 {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// The other end of a stream that was accepted.
pub(crate) struct End {
    /// To the client. An error is a reset; dropping it is one as well.
    pub(crate) send: Option<mpsc::Sender<io::Result<Bytes>>>,
    received: DuplexStream,
    finished: Arc<AtomicBool>,
}

impl End {
    pub(crate) async fn write(&self, bytes: impl Into<Bytes>) {
        let sender = self.send.as_ref().unwrap();
        sender.send(Ok(bytes.into())).await.unwrap();
    }

    /// Ends its half cleanly.
    pub(crate) fn finish(&mut self) {
        self.send = None;
    }

    /// Resets the stream.
    pub(crate) async fn reset(&mut self) {
        self.fail(io::ErrorKind::ConnectionReset).await;
    }

    /// Its agent dies, or is away for long, and there is another one.
    pub(crate) async fn die(&mut self) {
        self.fail(io::ErrorKind::ConnectionAborted).await;
    }

    async fn fail(&mut self, kind: io::ErrorKind) {
        let sender = self.send.take().unwrap();
        sender.send(Err(kind.into())).await.unwrap();
    }

    pub(crate) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon(self.received.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// The head of an HTTP/1.1 request.
    pub(crate) async fn head(&mut self) -> String {
        crate::upgrades::read_head(&mut self.received).await
    }

    /// The rest of what the client sends, and whether it ended cleanly.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        soon(self.received.read_to_end(&mut bytes)).await.unwrap();
        (bytes, self.finished.load(Ordering::SeqCst))
    }
}

/// Notes a clean end.
struct Noting(DuplexStream, Arc<AtomicBool>);

impl AsyncWrite for Noting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.store(true, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Agent {
    /// `CLUSTER TARGET USER`, or `CLUSTER/NODE TARGET USER`, of each stream that was asked for.
    pub(crate) fn opened(&self) -> Vec<String> {
        let opened = self.opened.lock().unwrap();
        let text = |(cluster, target, user): &(String, String, String)| {
            format!("{cluster} {target} {user}")
        };
        opened.iter().map(text).collect()
    }

    /// The next stream that is accepted.
    pub(crate) async fn next_end(&self) -> End {
        crate::world::until(|| !self.ends.lock().unwrap().is_empty()).await;
        self.end()
    }

    /// The latest stream that was accepted and not taken yet.
    pub(crate) fn end(&self) -> End {
        self.ends.lock().unwrap().pop().expect("a stream")
    }

    fn accept(&self) -> BoxedIo {
        let (send, mut from_target) = mpsc::channel(16);
        let answers = futures_util::stream::poll_fn(move |cx| from_target.poll_recv(cx));
        let (write, received) = tokio::io::duplex(64 * 1024);
        let finished = Arc::<AtomicBool>::default();
        self.ends.lock().unwrap().push(End {
            send: Some(send),
            received,
            finished: Arc::clone(&finished),
        });
        Box::new(tokio::io::join(
            StreamReader::new(answers),
            Noting(write, finished),
        ))
    }
}

#[async_trait]
impl Clusters for Agent {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        self.open(cluster.as_str(), open).await
    }

    fn has_another_way(&self, _: &ClusterName) -> bool {
        self.has_another.load(Ordering::Relaxed)
    }

    async fn connect_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        match node.as_str() {
            "away" => Err(ConnectError::NodeAway(node.clone())),
            "unknown" => Err(ConnectError::UnknownNode(node.clone())),
            _ => self.open(&format!("{cluster}/{node}"), open).await,
        }
    }
}

impl Agent {
    /// `place` is `CLUSTER` or `CLUSTER/NODE`.
    async fn open(&self, place: &str, open: &Open) -> Result<BoxedIo, ConnectError> {
        let identity = Identity::decode(&open.identity).unwrap();
        let target = open.target.to_string();
        let user = identity.user().to_owned();
        let opened = (place.to_owned(), target.clone(), user);
        self.opened.lock().unwrap().push(opened);
        let declined = |decline| {
            let reason = format!("no rule allows {target}\u{1b}[2J");
            Err(ConnectError::Declined { decline, reason })
        };
        match (place, target.as_str()) {
            ("no-agent", _) => Err(ConnectError::NoAgent),
            ("missing", _) => Err(ConnectError::UnknownCluster),
            ("direct", _) => Err(ConnectError::NoTarget(open.target.clone())),
            ("lost", _) => Err(ConnectError::Lost("10.0.0.7 reset".into())),
            (_, "tcp:forbidden:1" | "tcp:forbidden.shop.svc:80") => declined(Decline::Forbidden),
            (_, "tcp:unreachable:1" | "tcp:unreachable.shop.svc:80") => {
                declined(Decline::Unreachable)
            }
            (_, "tcp:overloaded:1" | "tcp:overloaded.shop.svc:80") => declined(Decline::Overloaded),
            (_, "tcp:silent:1") => Err(ConnectError::NoAnswer("10.0.0.7 is silent".into())),
            (_, "tcp:late:1") => {
                self.late.0.acquire().await.unwrap().forget();
                Ok(self.accept())
            }
            (_, "tcp:echo:1") => {
                let (front, target) = tokio::io::duplex(64 * 1024);
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(target);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
                });
                Ok(Box::new(front))
            }
            _ => Ok(self.accept()),
        }
    }
}
