//! Sessions prove a key: those that take streams, and those that drain.

use std::convert::Infallible;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use underpass_tunnel::{PublicKey, Session, chain};

use super::{NotRotated, Rotating};
use crate::key::OwnKey;
use crate::limits;

impl Rotating<'_> {
    /// While the agent drains: the server can ask for a key that another process of the agent has rotated to over no session then, and
    /// ends those that do not prove it.
    pub(crate) async fn follow(self) -> Infallible {
        if !self.cli.key.is_own() {
            return std::future::pending().await;
        }
        loop {
            sleep(limits::FOLLOW_KEY).await;
            if let Err(error) = self.follow_once().await {
                tracing::debug!("{}", chain(&error));
            }
        }
    }

    async fn follow_once(&self) -> Result<(), NotRotated> {
        let key = self.reread().await?.key;
        let public = key.public();
        let mut sessions = self.sessions.live();
        sessions.retain(|session| !session.has_proved(&public));
        if !sessions.is_empty() {
            self.uses(&key)?;
            self.prove_over_draining(sessions, &public).await;
        }
        Ok(())
    }

    /// Has each session prove this key. Streams move, and none breaks.
    pub(super) async fn prove(&mut self, key: &OwnKey) -> Result<PublicKey, NotRotated> {
        let (public, before) = (key.public(), self.key_before(key));
        self.uses(key)?;
        let (open, drain): (Vec<_>, Vec<_>) =
            self.sessions.live().into_iter().partition(Session::is_open);
        let proving = async {
            for session in open {
                let proved = timeout(limits::PROVE_TIME, self.prove_over(&session, &public)).await;
                proved.map_err(|_| NotRotated::Unproved)??;
            }
            Ok(())
        };
        let (proved, ()) = tokio::join!(proving, self.prove_over_draining(drain, &public));
        if let Err(NotRotated::Unknown(_)) = proved
            && let Some(before) = before
        {
            self.uses(&before)?;
        }
        proved?;
        tracing::info!(key = %public, "this process has proved the agent's new key");
        self.settle().await
    }

    /// The agent's key where the server refuses this one: the one in use, or else the one beside which this one stands. The file's may
    /// be another agent's by now.
    pub(super) fn key_before(&self, key: &OwnKey) -> Option<OwnKey> {
        let in_use = self.connection.own_key().filter(|used| used != key);
        let beside = || {
            let record = self.cli.key.record();
            let record = record.filter(|record| record.own(&key.public()).is_some())?;
            Some(record.key).filter(|first| first != key)
        };
        in_use.or_else(beside)
    }

    /// Until the session has proved it, or has ended; the error is of a server that refuses the key.
    async fn prove_over(&self, session: &Session, key: &PublicKey) -> Result<(), NotRotated> {
        let proving = async {
            while !session.has_proved(key) {
                match self.connection.connector.prove(session).await {
                    Ok(()) => break,
                    Err(error) if error.is_unknown_key() || error.is_replaced_key() => {
                        return Err(NotRotated::Unknown(error));
                    }
                    // Without a transport, it proves the key when it gets the next one.
                    Err(error) => tracing::debug!("the next key is not proved: {}", chain(&error)),
                }
                sleep(limits::PROVE_AGAIN).await;
            }
            Ok(())
        };
        tokio::select! {
            proved = proving => proved,
            _ = session.closed() => Ok(()),
        }
    }

    /// Their streams go on for as long as they may drain. The server of such a session may have gone, or be another one: that holds up no
    /// rotation.
    pub(super) async fn prove_over_draining(&self, mut sessions: Vec<Session>, key: &PublicKey) {
        sessions.retain(|session| session.transport().is_some());
        let proofs = sessions.iter().map(async |session| {
            let proving = timeout(limits::PROVE_TIME, self.prove_over(session, key));
            let proved = tokio::select! {
                proved = proving => proved,
                // No connector brings it another transport.
                () = session.detached() => return,
            };
            let error = match proved {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => NotRotated::Unproved,
            };
            tracing::debug!(session = %session.info().id, "a session that drains: {}", chain(&error));
        });
        join_all(proofs).await;
    }
}
