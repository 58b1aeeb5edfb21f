//! The server, put together and listening.

mod assembly;
mod config;
mod start;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Endpoint;
use tokio_util::sync::CancellationToken;
use underpass_api::ServerInfo;
use underpass_audit::AuditLog;
use underpass_directory::Directory;
use underpass_gateway::Front;

pub use self::config::ServerConfig;
use self::start::start;
use crate::api::Api;
use crate::audit;
use crate::authentication::Authentication;
use crate::limits;
use crate::listen::Connections;
use crate::pki::ServerCertificate;
use crate::readiness::Readiness;
use crate::sessions::UserSessions;
use crate::supervise::{Ended, Supervisor};
use crate::tunnel::Tunnel;

/// Why a server does not start. Its text and its sources name the file, the address or the setting, and the reason.
#[derive(Debug)]
pub struct StartError(anyhow::Error);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// A server that serves. Dropping it ends it at once, without writing what is left ([`Server::stop`]).
pub struct Server {
    address: SocketAddr,
    info: ServerInfo,
    directory: Arc<Directory>,
    authentication: Arc<Authentication>,
    audit: AuditLog,
    certificate: Arc<ServerCertificate>,
    front: Arc<Front>,
    readiness: Readiness,
    no_more: CancellationToken,
    running: Running,
}

/// Connections, sessions and tasks of a server. Dropping it ends all of them: none may go on without the tasks that enforce
/// revocations (rule 12).
struct Running {
    tunnel: Tunnel,
    sessions: UserSessions,
    quic: Endpoint,
    connections: Connections,
    api: Api,
    tasks: Supervisor,
}

impl Running {
    fn end(&self) {
        self.quic.set_server_config(None);
        self.connections.end();
        self.tunnel.end();
        self.sessions.end();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the data directory, puts the server together, and serves.
    ///
    /// # Errors
    /// Something that the configuration names cannot be used: a file, an address, a setting.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        start(config, None).await.map_err(StartError)
    }

    /// The same with an audit log that is opened once the data directory is this server's: another server that does not
    /// start leaves its files alone.
    pub(crate) async fn start_audited(
        config: ServerConfig,
        audit: &audit::Options,
    ) -> Result<Self, StartError> {
        start(config, Some(audit)).await.map_err(StartError)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for kubeconfigs and agents: the first name, and the public port.
    pub fn url(&self) -> &str {
        &self.info.url
    }

    /// The CA of its certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.info.ca_pem
    }

    /// Its directory.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// How many agents of the cluster are connected.
    pub fn agents(&self, cluster: &underpass_core::ClusterName) -> usize {
        self.running.tunnel.connected(cluster)
    }

    /// Waits until a task has ended that must not: the server must be stopped then, and not drained.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&mut self) -> Ended {
        self.running.tasks.ended().await
    }

    /// Looks at the authentication file and at the files of the certificate now, and reads the audit policy again. An unusable file changes nothing, and the log
    /// says why.
    pub(crate) async fn reload(&self, audit: &audit::Options) {
        self.authentication.look_again();
        self.certificate.look_again();
        if let Err(error) = audit::reload(audit, &self.audit).await {
            tracing::error!("keeping the last good audit policy: {error:#}");
        }
    }

    /// Takes no more connections, asks agents to leave, and waits until open requests have ended, or for the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the server draining.
    pub async fn drain(&self, deadline: Duration) {
        self.readiness.serve(false);
        let running = &self.running;
        running.quic.set_server_config(None);
        self.no_more.cancel();
        self.front.drain(deadline);
        // Users' connections end first, so that they are told of a server that has closed them, and not of a stream that was lost.
        tokio::join!(
            self.finish_connections(deadline),
            running.tunnel.drain(deadline + limits::CUT_TIME),
            running.sessions.drain(deadline + limits::CUT_TIME)
        );
        running.quic.wait_idle().await;
    }

    async fn finish_connections(&self, deadline: Duration) {
        let connections = &self.running.connections;
        if tokio::time::timeout(deadline, connections.wait())
            .await
            .is_ok()
        {
            return;
        }
        tracing::warn!(left = connections.open(), "connections are cut off");
        self.front.cut();
        // Agents' connections end with their sessions, and shells' with the server.
        let _ = tokio::time::timeout(limits::CUT_TIME, connections.wait()).await;
    }

    /// Ends what is still open, connections and sessions of agents, and writes what is left: uses of tokens, events of the
    /// audit log. Afterwards another server may open the data directory.
    ///
    /// # Cancel safety
    /// Dropping the future is dropping the server.
    pub async fn stop(mut self) {
        let running = &mut self.running;
        running.end();
        running.tasks.stop().await;
        let gone = async {
            tokio::join!(running.connections.wait(), running.quic.wait_idle());
            // Requests that those connections have begun.
            running.api.finish().await;
        };
        if tokio::time::timeout(limits::END_TIME, gone).await.is_err() {
            tracing::warn!("connections, or requests to the API, do not end");
        }
        self.directory.write_uses().await;
        self.audit.flush(limits::AUDIT_FLUSH).await;
    }
}
