//! Calls that may be made again by another way, where the agent that has taken them is away.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;
use underpass_core::ClusterName;
use underpass_tunnel::{Registry, Session};

use super::is_there;
use crate::limits;
use crate::stand_in::StandIns;

/// The ways into a cluster through agents.
pub(super) struct Ways {
    pub(super) cluster: ClusterName,
    pub(super) agents: Registry,
    /// `None` where agents on nodes may not stand in, as for services.
    pub(super) nodes: Option<(Registry, Arc<StandIns>)>,
}

impl Ways {
    fn has_another(&self, than: &Session) -> bool {
        let cluster = self.cluster.as_str();
        let is_another = |session: &Session| !session.is_same(than) && is_there(session);
        let by_node = |(nodes, stand_ins): &(Registry, Arc<StandIns>)| {
            nodes.pick_where(cluster, |node| is_another(node) && stand_ins.serves(node))
        };
        self.agents.pick_where(cluster, is_another).is_some()
            || self.nodes.as_ref().and_then(by_node).is_some()
    }

    /// Waits until the peer of `session` has been away for [`limits::CALL_ELSEWHERE`], and there is another way.
    async fn better_than(self, session: Session) {
        loop {
            session.away_for(limits::CALL_ELSEWHERE).await;
            while !is_there(&session) {
                if self.has_another(&session) {
                    return;
                }
                sleep(limits::AGENT_AWAY_LOOK).await;
            }
        }
    }
}

/// A stream with a call that may be made again. It fails before the first byte of the answer where there is a better way.
pub(super) struct Repeatable<S> {
    /// `None` once it has failed: dropping it resets it, so that an agent that comes back drops the call.
    stream: Option<S>,
    /// `None` once something of the answer has come.
    better: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Repeatable<S> {
    /// A stream in this session.
    pub(super) fn new(stream: S, session: Session, ways: Ways) -> Self {
        Self {
            stream: Some(stream),
            better: Some(Box::pin(ways.better_than(session))),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(away)
    }
}

fn away() -> io::Error {
    let why = "the agent is away, and there is another way into the cluster";
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

impl<S: AsyncRead + Unpin> AsyncRead for Repeatable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = self.stream()?.poll_read(cx, buf);
        if polled.is_ready() {
            self.better = None;
        } else if let Some(better) = &mut self.better
            && better.as_mut().poll(cx).is_ready()
        {
            self.stream = None;
            return Poll::Ready(Err(away()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Repeatable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
