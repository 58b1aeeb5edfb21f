//! Keeps the connection to the server: until another one takes its place, make before break, or a signal asks to stop.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use underpass_core::process::{self, Signals};
use underpass_tunnel::{ConnectError, Session, Status, chain};

use crate::cli::Cli;
use crate::cluster;
use crate::connection::{self, Connection};
use crate::join::Joining;
use crate::policy::Policies;
use crate::rotation::{Asked, Rotating, Wake};
use crate::serve::Sessions;

/// One connection in service.
pub(crate) struct Keeping<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) sessions: &'a Sessions,
    pub(crate) policies: &'a Policies,
    pub(crate) joining: Option<&'a Joining>,
    pub(crate) connection: &'a Connection,
}

/// The connection that takes another one's place.
pub(crate) struct Next {
    pub(crate) connection: Connection,
    /// Its session, where it was made before the other connection is left.
    pub(crate) session: Option<Session>,
}

impl Keeping<'_> {
    /// Serves over this connection, on which `session` has been made or none yet, until a signal asks to stop. Gives another
    /// connection where the files of this one have changed, or where the server knows the agent's key only now. Rotates the key
    /// meanwhile.
    pub(crate) async fn until_asked(
        &self,
        session: Option<Session>,
        signals: &mut Signals,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Option<Next> {
        let &Self {
            cli,
            sessions,
            policies,
            joining,
            connection,
        } = self;
        let wake = Wake::default();
        let (unknown, is_unknown) = watch::channel(false);
        let serve = |session| sessions.serve(session);
        let connected = connection
            .connector
            .run_from(session, serve, |status| self.hear(status, &wake, &unknown));
        let rotating = Rotating {
            cli,
            connection,
            sessions,
            asked,
            wake: &wake,
        };
        let mut connected = std::pin::pin!(connected);
        let mut rotated = std::pin::pin!(rotating.run());
        let mut joined = std::pin::pin!(join_when_unknown(cli, joining, is_unknown));
        loop {
            let mut asked = tokio::select! {
                never = &mut connected => match never {},
                never = &mut rotated => match never {},
                connection = &mut joined => return Some(Next { connection, session: None }),
                asked = signals.next() => asked,
            };
            let replaced = loop {
                let process::Asked::Reload(signal) = asked else {
                    return None;
                };
                tracing::info!(signal, "reading the files again");
                policies.look();
                // A key that cannot join holds that up for ever: another signal begins it anew, with the files as they are then.
                tokio::select! {
                    never = &mut connected => match never {},
                    never = &mut rotated => match never {},
                    replaced = self.replace() => break replaced,
                    again = signals.next() => asked = again,
                }
            };
            if replaced.is_some() {
                return replaced;
            }
        }
    }

    /// Reads the files again, and connects with them where they have changed: this connection serves until then, and on where that
    /// does not succeed.
    async fn replace(&self) -> Option<Next> {
        let connection = reload(self.cli, self.sessions, self.connection).await?;
        tracing::info!("the agent's key, or what is known of it, has changed: connecting anew");
        match self.connect(&connection).await {
            Ok(session) => Some(Next {
                connection,
                session: Some(session),
            }),
            Err(error) => {
                tracing::error!(
                    "keeping the connection to the server as it was, since none can be made with the files as they are now: {}",
                    chain(&error)
                );
                None
            }
        }
    }

    /// Connects once, and joins before where the server does not know the key.
    async fn connect(&self, connection: &Connection) -> Result<Session, ConnectError> {
        let connector = &connection.connector;
        match (connector.connect().await, self.joining) {
            (Err(error), Some(joining)) if error.is_unknown_key() => {
                tracing::warn!("the server does not know the agent's key: joining");
                joining.join_again(self.cli).await;
                connector.connect().await
            }
            (connected, _) => connected,
        }
    }

    /// Something has happened to the connection.
    fn hear(&self, status: Status<'_>, wake: &Wake, unknown: &watch::Sender<bool>) {
        let has_other_key = self.connection.look(self.cli, &status);
        match &status {
            Status::Failed(error, _) if error.is_unknown_key() || error.is_replaced_key() => {
                wake.refused.notify_one();
                if has_other_key {
                    return tracing::info!(
                        "the server does not take the agent's key: trying its other one"
                    );
                }
                // Joining says what comes of it.
                if self.joining.is_some() && error.is_unknown_key() {
                    unknown.send_replace(true);
                    return;
                }
            }
            Status::Connected(_) | Status::Resumed(_) => {
                unknown.send_replace(false);
                wake.proved.notify_one();
            }
            Status::Moved(..) => wake.proved.notify_one(),
            _ => {}
        }
        connection::report(status);
    }
}

/// Joins once the server does not know the key, and gives a connection with which it does.
async fn join_when_unknown(
    cli: &Cli,
    joining: Option<&Joining>,
    mut is_unknown: watch::Receiver<bool>,
) -> Connection {
    let Some(joining) = joining else {
        return std::future::pending().await;
    };
    loop {
        // The connection that says so lives as long as this.
        let _ = is_unknown
            .wait_for(|is_unknown| *is_unknown)
            .await
            .map(drop);
        tracing::warn!("the server does not know the agent's key: joining");
        let known = async {
            // Its directory was put back, or an operator has registered the key.
            let _ = is_unknown
                .wait_for(|is_unknown| !is_unknown)
                .await
                .map(drop);
        };
        tokio::select! {
            () = joining.join_again(cli) => {}
            () = known => continue,
        }
        match Connection::read(cli) {
            Ok(connection) => return connection,
            Err(error) => tracing::error!("keeping the connection as it was: {error:#}"),
        }
    }
}

/// Reads the files of the API server and of the connection again. An unusable file changes nothing. Gives the connection where
/// its files have changed.
async fn reload(cli: &Cli, sessions: &Sessions, connection: &Connection) -> Option<Connection> {
    match cluster::next_api_server_of(cli).await {
        Ok(api_server) => sessions.use_api_server(api_server.map(Arc::new)),
        Err(error) => tracing::error!("keeping the API server as it was: {error:#}"),
    }
    match Connection::read(cli) {
        Ok(next) => next.differs_from(connection).then_some(next),
        Err(error) => {
            tracing::error!("keeping the connection to the server as it was: {error:#}");
            None
        }
    }
}
