//! Agents on nodes that are connected, and questions to them about operations.

use std::collections::BTreeMap;

use bytes::Bytes;
use underpass_api::{NodeView, OperationEvent, OperationQuestion};
use underpass_core::{ClusterName, Target};
use underpass_directory::{Agent, Snapshot};
use underpass_tunnel::{Session, chain};

use crate::questions::{Answer, AskError, ask};
use crate::tunnel::{agent_of, likeliest_first};

/// A node with an agent that is connected.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) view: NodeView,
    sessions: Vec<Session>,
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
        likeliest_first(&mut node.sessions);
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
    /// Asks the node's agent about operations, as the caller whose encoded identity this is.
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
    ) -> Result<Answer<OperationEvent>, AskError> {
        let mut failed = AskError::Gone;
        for session in &self.sessions {
            match ask(session, &Target::Operation, identity, question).await {
                // Nothing was asked yet: another session may do.
                Err(error @ (AskError::Gone | AskError::Dial(_))) => {
                    tracing::debug!(node = self.view.name, "{}", chain(&error));
                    failed = error;
                }
                asked => return asked,
            }
        }
        Err(failed)
    }

    /// Its agent's sessions, those first that are most likely to answer.
    pub(crate) fn into_sessions(self) -> Vec<Session> {
        self.sessions
    }
}
