//! A viewer's way to a shell: in a session of the user's, or else by a connection of its own.

use std::time::Duration;

use anyhow::{Context, Result};
use underpass_api::{AttachQuery, SHELL_PROTOCOL, segment};
use underpass_core::{ClusterName, NodeName, ShellId, ShellKind, Target};
use underpass_forward::{OpenError, Tunnel};
use underpass_session::{ConnectError, Event, Transports, UserSession};
use underpass_terminal::{interject, say};

use crate::args::Which;
use crate::channels::Channels;
use crate::refusal::{self, Refusal};

/// The time for the agent to answer once there is a stream.
const ANSWER: Duration = Duration::from_secs(15);

/// The time for the server to hear that the session ends.
const GOODBYE: Duration = Duration::from_secs(2);

/// A way to the server, before there is a shell to go to.
pub(super) enum Path {
    /// A session, which resumes: nothing is lost on it while it does.
    Session(Box<UserSession>),
    /// Where the server gives no session. Keys that are under way when it is lost are lost.
    Tunnel(Tunnel),
}

/// A way to one shell.
pub(super) struct Way {
    path: Path,
    place: String,
    kind: ShellKind,
    id: ShellId,
}

/// The path of an agent's shells in the API.
pub(super) fn shells(cluster: &ClusterName, node: Option<&NodeName>) -> String {
    match node {
        Some(node) => format!(
            "/v1/clusters/{cluster}/nodes/{}/shells",
            segment(node.as_str())
        ),
        None => format!("/v1/clusters/{cluster}/shells"),
    }
}

impl Path {
    /// Finds the way to the server.
    ///
    /// # Errors
    /// There is none, or it does not accept the user.
    pub(super) async fn find(
        which: &Which,
        transports: Transports,
        cluster: &ClusterName,
        node: Option<&NodeName>,
    ) -> Result<Self> {
        let config = which.session(transports).await?;
        let why = match UserSession::connect(config, tell).await {
            Ok(session) => return Ok(Self::Session(Box::new(session))),
            Err(
                error @ (ConnectError::NoUserSessions
                | ConnectError::Refused(_)
                | ConnectError::Dial(_)),
            ) => anyhow::Error::from(error),
            Err(error) => return Err(error.into()),
        };
        let server = which.server_to_forward().await?;
        say!("underpass: {why:#}; so keys that are typed while the connection is lost may be lost");
        let tunnel = Tunnel::new(server, cluster, |_| {});
        Ok(Self::Tunnel(match node {
            Some(node) => tunnel.at_node(node),
            None => tunnel,
        }))
    }

    /// The way to one of the shells at `place`, their path in the API.
    pub(super) fn to(self, place: String, kind: ShellKind, id: ShellId) -> Way {
        Way {
            path: self,
            place,
            kind,
            id,
        }
    }
}

impl Way {
    /// Attaches a viewer.
    pub(super) async fn open(&self, query: AttachQuery) -> Result<Channels> {
        match &self.path {
            Path::Session(session) => {
                let Self {
                    place, kind, id, ..
                } = self;
                let path = format!("{place}/{id}?kind={kind}&{query}");
                Channels::in_session(session, &path, SHELL_PROTOCOL).await
            }
            Path::Tunnel(tunnel) => {
                let target = Target::Shell(self.kind, self.id.clone());
                let stream = tunnel.open(&target).await?;
                let path = format!("/?{query}");
                let asking = Channels::on_stream(stream, &path, SHELL_PROTOCOL);
                let asked = tokio::time::timeout(ANSWER, asking).await;
                asked
                    .context("the agent does not answer")?
                    .context("the agent opens no view of the shell")
            }
        }
    }

    /// Ends the session, so that the server does not wait for its return.
    pub(super) async fn close(self) {
        if let Path::Session(session) = self.path {
            let _ = tokio::time::timeout(GOODBYE, session.close()).await;
        }
    }
}

/// Says how the session's connection fares. Its end is the end of its streams, of which the viewer tells.
fn tell(event: Event) {
    match event {
        Event::Lost => {
            interject("the connection is lost; connecting again. Keys that you type wait for it");
        }
        Event::Resumed => interject("connected again"),
        _ => {}
    }
}

/// Does no further attempt help?
pub(super) fn is_final(error: &anyhow::Error) -> bool {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.is_final();
    }
    match error.downcast_ref::<OpenError>() {
        Some(OpenError::Refused { code, .. }) => refusal::is_final(*code),
        Some(OpenError::Credential(_) | OpenError::Target(_)) => true,
        _ => false,
    }
}
