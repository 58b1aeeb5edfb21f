//! Agents on nodes: those that are connected, and questions to them about operations.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::task::yield_now;
use underpass_api::{NodeView, OperationEvent, OperationQuestion};
use underpass_core::{ClusterName, Target};
use underpass_directory::{Agent, Snapshot};
use underpass_tunnel::{Dialer, DialerError, ResetCode, Session, Stream, StreamError, chain};

use crate::limits;
use crate::tunnel::agent_of;

/// A node with an agent that is connected.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) view: NodeView,
    sessions: Vec<Session>,
}

/// Why a node gives no answer. The text is for the caller, and the source for the log.
#[derive(Debug, Error)]
pub(crate) enum NodeError {
    #[error("the node's agent is not connected any more")]
    Gone,
    #[error("the node's agent refuses: {reason}")]
    Refused { code: ResetCode, reason: String },
    #[error("there is no stream to the node's agent: try again later")]
    Dial(#[source] DialerError),
    #[error("the node's agent went away, or did not answer in time; it may have the question")]
    Lost(#[source] StreamError),
    #[error("the node's agent went away while it was asked; it may have the question")]
    Unasked(#[source] std::io::Error),
    #[error("the node's agent does not answer in a way that this server understands")]
    Unreadable,
}

/// An answer, as it comes.
#[derive(Debug)]
pub(crate) struct Answer {
    stream: Stream,
    /// Bytes that were read, from the next line on or in its midst.
    read: Bytes,
    /// The beginning of the next line, which was read before them.
    begun: Vec<u8>,
}

/// The nodes of a cluster whose agents have these sessions, by name.
pub(crate) fn connected(
    sessions: Vec<Session>,
    snapshot: &Snapshot,
    cluster: &ClusterName,
) -> Vec<Node> {
    let mut nodes = BTreeMap::<String, Node>::new();
    for session in sessions {
        let info = session.info();
        if info.agent != cluster.as_str() || !session.is_open() {
            continue;
        }
        let Some((id, agent)) = agent_of(&session, snapshot) else {
            continue;
        };
        let node = nodes.entry(id.to_owned()).or_insert_with(|| Node {
            view: view(id, agent, &session),
            sessions: Vec::new(),
        });
        node.view.since = node.view.since.min(session.info().since.into());
        node.sessions.push(session);
    }
    let mut nodes: Vec<_> = nodes.into_values().collect();
    for node in &mut nodes {
        // An agent that died has a session for a while, whose peer says nothing.
        let is_doubtful = |session: &Session| (!session.is_reachable(), session.is_suspect());
        node.sessions.sort_by_key(is_doubtful);
    }
    nodes.sort_by(|one, other| one.view.name.cmp(&other.view.name));
    nodes
}

fn view(id: &str, agent: &Agent, session: &Session) -> NodeView {
    let info = session.info();
    let transport = session.transport().unwrap_or(info.transport);
    NodeView {
        name: agent
            .node
            .as_ref()
            .map_or_else(|| id.to_owned(), ToString::to_string),
        agent: id.to_owned(),
        software: info.software.clone(),
        transport: transport.to_string(),
        since: info.since.into(),
        labels: agent.labels.clone(),
    }
}

impl Node {
    /// Asks the node's agent, as the caller whose encoded identity this is.
    ///
    /// # Errors
    /// The agent did not take the question.
    ///
    /// # Cancel safety
    /// The question may have been taken.
    pub(crate) async fn ask(
        &self,
        identity: &Bytes,
        question: &OperationQuestion,
    ) -> Result<Answer, NodeError> {
        let mut line = serde_json::to_vec(question).map_err(|_| NodeError::Unreadable)?;
        line.push(b'\n');
        let mut failed = NodeError::Gone;
        for session in &self.sessions {
            let dialer = Dialer::new(session.clone(), Target::Operation.to_string());
            match open(&dialer.header(identity.clone())).await {
                Ok(stream) => return Answer::to(stream, &line).await,
                Err(refused @ NodeError::Refused { .. }) => return Err(refused),
                // Nothing was asked yet: another session may do.
                Err(error) => {
                    tracing::debug!(node = self.view.name, "{}", chain(&error));
                    failed = error;
                }
            }
        }
        Err(failed)
    }
}

/// A stream that the agent has accepted.
async fn open(dialer: &Dialer) -> Result<Stream, NodeError> {
    let mut stream = dialer.dial().await.map_err(NodeError::Dial)?;
    stream.accepted().await?;
    Ok(stream)
}

impl Answer {
    async fn to(mut stream: Stream, question: &[u8]) -> Result<Self, NodeError> {
        let asked = async {
            stream.write_all(question).await?;
            stream.flush().await
        };
        asked.await.map_err(NodeError::Unasked)?;
        Ok(Self {
            stream,
            read: Bytes::new(),
            begun: Vec::new(),
        })
    }

    /// The next event; `None` where the agent has no more to say.
    ///
    /// # Errors
    /// The agent is gone, or says something else.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<OperationEvent>, NodeError> {
        loop {
            let end = self.read.iter().position(|byte| *byte == b'\n');
            let length = end.unwrap_or(self.read.len());
            if self.begun.len().saturating_add(length) > limits::NODE_LINE {
                return Err(NodeError::Unreadable);
            }
            if let Some(end) = end {
                let line = self.read.split_to(end.saturating_add(1));
                return match self.begun.is_empty() {
                    true => event(&line),
                    false => {
                        self.begun.extend_from_slice(&line);
                        event(&std::mem::take(&mut self.begun))
                    }
                };
            }
            self.begun.extend_from_slice(&self.read);
            self.read.clear();
            // An agent that sends faster than its lines are read would keep other tasks, and the time of this one, waiting.
            yield_now().await;
            match self.stream.read_bytes().await? {
                Some(bytes) => self.read = bytes,
                None if self.begun.is_empty() => return Ok(None),
                None => return Err(NodeError::Unreadable),
            }
        }
    }
}

fn event(line: &[u8]) -> Result<Option<OperationEvent>, NodeError> {
    let event = serde_json::from_slice(line);
    event.map(Some).map_err(|_| NodeError::Unreadable)
}

impl From<StreamError> for NodeError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Refused { code, reason } => Self::Refused { code, reason },
            error => Self::Lost(error),
        }
    }
}
