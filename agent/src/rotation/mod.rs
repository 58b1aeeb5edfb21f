//! Rotating the agent's own key (PROTOCOL.md, "Rotating keys"): make before break.
//!
//! ```text
//!   file or Secret      server              connector
//!   key                 key                 key          at rest
//!   key, next           key                 key          the next key is kept before the server hears of it
//!   key, next           key, next           key          registered: both count
//!   key, next           key, next           next         the next handshakes prove the next key
//!   key, next           next                next         proved: it alone counts
//!   next                next                next         at rest
//! ```
//! A process that ends anywhere finds its way from the first column alone: it tries the key, and where the server refuses that the next
//! one ([`Connection::look`]), and does the steps that are left.

mod prove;
mod questions;
mod register;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::time::Duration;

use metrics::counter;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use underpass_api::{KeyAnswer, KeyQuestion, NextKeyRefusal};
use underpass_tunnel::{Backoff, ConnectError, PublicKey, Session, chain};

pub(crate) use self::questions::{Asked, Questions};
use self::register::{NotRegistered, register};
use crate::cli::Cli;
use crate::connection::Connection;
use crate::key::{self, KeyRecord, OwnKey};
use crate::limits;
use crate::serve::Sessions;

/// Why the key is not rotated. It stays, and counts.
#[derive(Debug, Error)]
enum NotRotated {
    #[error("the agent has a static token, which is not rotated")]
    Static,
    #[error("the agent is not connected")]
    NotConnected,
    #[error("the agent's keys cannot be read or written: {0:#}")]
    Files(anyhow::Error),
    #[error("the server does not register the next key")]
    Register(#[source] NotRegistered),
    #[error(
        "the server does not know the next key: it was registered by another holder of the key, or its directory was put back"
    )]
    Unknown(#[source] ConnectError),
    #[error(
        "the next key is registered, and there was no connection yet that could prove it: that follows"
    )]
    Unproved,
    #[error(
        "another key has taken the place of this agent's, and the agent does not have it: give the agent a new key, and join again; \
         if no other process had a copy of this key, a thief has, so revoke the agent"
    )]
    Lost,
}

/// Wakes the rotation.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    /// A handshake has proved a key.
    pub(crate) proved: Notify,
    /// The server has refused the keys that the agent had in memory.
    pub(crate) refused: Notify,
}

/// Rotates the key of one connection.
pub(crate) struct Rotating<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) connection: &'a Connection,
    pub(crate) sessions: &'a Sessions,
    pub(crate) asked: &'a mut mpsc::Receiver<Asked>,
    pub(crate) wake: &'a Wake,
}

/// When the key that the agent has is old enough.
struct Due {
    key: PublicKey,
    at: Option<Instant>,
}

/// When to try again after a failure.
struct Again {
    at: Instant,
    /// Or once there is a session.
    for_a_session: bool,
}

impl Rotating<'_> {
    /// Rotates the key when it is old enough, and when the server asks for it.
    ///
    /// # Cancel safety
    /// A rotation that has begun is carried on by the next call.
    pub(crate) async fn run(mut self) -> Infallible {
        let mut backoff = Backoff::new(limits::ROTATE_AGAIN, limits::ROTATE_AGAIN_MOST);
        let (mut due, mut again) = (None::<Due>, None::<Again>);
        loop {
            let at = self.due(&mut due);
            let at = at.map(|at| again.as_ref().map_or(at, |again| again.at.max(at)));
            let done = tokio::select! {
                Some(asked) = self.asked.recv() => {
                    let done = self.answer(asked.question).await;
                    let answer = match &done {
                        Ok(key) => KeyAnswer::Uses { key: key.to_string() },
                        Err(error) => KeyAnswer::Failed { detail: chain(error) },
                    };
                    // The stream may be gone.
                    let _ = asked.answer.send(answer);
                    done
                }
                () = until(at) => self.rotate().await,
                () = self.wake.proved.notified() => {
                    again = again.filter(|again| !again.for_a_session);
                    match self.settle().await {
                        // Another wait goes on.
                        Ok(_) => continue,
                        failed => failed,
                    }
                }
                () = self.wake.refused.notified() => match self.refresh().await {
                    Ok(_) => continue,
                    failed => failed,
                },
            };
            again = match done {
                Ok(_) => {
                    backoff.reset();
                    None
                }
                Err(error) => Some(error.again(&mut backoff)),
            };
        }
    }

    /// When to rotate: a rotation that has begun goes on at once.
    fn due(&self, due: &mut Option<Due>) -> Option<Instant> {
        let record = self.cli.key.record()?;
        let key = record.key.public();
        if due.as_ref().is_none_or(|due| due.key != key) {
            let left = self
                .cli
                .key
                .key_lifetime
                .left(&record, OffsetDateTime::now_utc());
            let spread = |left: Duration| {
                let most = limits::ROTATE_SPREAD.min(left / 10);
                left + most.mul_f64(rand::random::<f64>())
            };
            let at = left.map(|left| Instant::now() + spread(left));
            *due = Some(Due { key, at });
        }
        match record.next {
            Some(_) => Some(Instant::now()),
            None => due.as_ref().and_then(|due| due.at),
        }
    }

    async fn answer(&mut self, question: KeyQuestion) -> Result<PublicKey, NotRotated> {
        match question {
            KeyQuestion::Rotate {} => self.rotate().await,
            KeyQuestion::Look { key } => self.adopt(&key).await,
        }
    }

    /// Gives the key that the agent uses then.
    async fn rotate(&mut self) -> Result<PublicKey, NotRotated> {
        if !self.cli.key.is_own() {
            return Err(NotRotated::Static);
        }
        let mut live = self.sessions.live().into_iter();
        let session = live.find(Session::is_open);
        let session = session.ok_or(NotRotated::NotConnected)?;
        let known = self.cli.key.record();
        let record = self.reread().await?;
        let is_known = known.is_some_and(|known| known.key == record.key);
        if !is_known || !self.connection.uses_one_of(&record) {
            // Another process has rotated it, or somebody has put another key there.
            return self.prove(&record.key).await;
        }
        self.rotate_from(record.key.public(), &session).await
    }

    /// The same from this key on, which was in the file or Secret a moment ago. By now another process may have rotated it, or an operator
    /// may have put another key there.
    async fn rotate_from(
        &mut self,
        read: PublicKey,
        session: &Session,
    ) -> Result<PublicKey, NotRotated> {
        let begun = key::begin(self.cli, read).await;
        let record = begun.map_err(NotRotated::Files)?;
        if record.key.public() != read {
            return self.prove(&record.key).await;
        }
        let Some(next) = record.next.clone() else {
            return Ok(record.key.public());
        };
        match register(session, &record.key, &next).await {
            // Where the next key has become the only one, and the agent has not heard of it, the handshake tells.
            Ok(_)
            | Err(NotRegistered::Refused {
                reason: NextKeyRefusal::NotCurrent,
                ..
            }) => {}
            Err(error) => return Err(NotRotated::Register(error)),
        }
        self.prove(&next).await
    }

    /// The server says that this public key is the agent's now, and a session has not proved it: another process has the same file, or
    /// the same Secret.
    async fn adopt(&mut self, told: &str) -> Result<PublicKey, NotRotated> {
        if !self.cli.key.is_own() {
            return Err(NotRotated::Static);
        }
        let record = self.reread().await?;
        let sessions = self.sessions.live();
        let proved = |key: &PublicKey| sessions.iter().all(|session| session.has_proved(key));
        let keys = record.keys().filter(|key| !proved(&key.public()));
        for key in keys.cloned().collect::<Vec<_>>() {
            match self.prove(&key).await {
                Err(NotRotated::Unknown(error)) => tracing::debug!("{}", chain(&error)),
                done => return done,
            }
        }
        // It may have been proved since the server has asked, and another one after it.
        match told.parse().is_ok_and(|told| proved(&told)) {
            true => Ok(self.connection.connector.public_key()),
            false => Err(NotRotated::Lost),
        }
    }

    /// The server has refused the key. Its file was read again already; a Secret was not.
    async fn refresh(&mut self) -> Result<PublicKey, NotRotated> {
        let record = self.reread().await?;
        if !self.connection.uses_one_of(&record) {
            self.uses(&record.key)?;
        }
        Ok(self.connection.connector.public_key())
    }

    async fn reread(&self) -> Result<KeyRecord, NotRotated> {
        key::reread(self.cli).await.map_err(NotRotated::Files)
    }

    fn uses(&self, key: &OwnKey) -> Result<(), NotRotated> {
        let used = self.connection.use_key(key);
        used.map_err(NotRotated::Files)
    }

    /// Puts a next key into its place that the server has seen: it knows no other one then.
    async fn settle(&mut self) -> Result<PublicKey, NotRotated> {
        let used = self.connection.connector.public_key();
        let next = self.cli.key.record().and_then(|record| record.next);
        let proved = |next: &OwnKey| {
            let sessions = self.sessions.live();
            sessions
                .iter()
                .any(|session| session.has_proved(&next.public()))
        };
        let Some(next) = next.filter(proved) else {
            return Ok(used);
        };
        self.uses(&next)?;
        key::finish(self.cli, next.public())
            .await
            .map_err(NotRotated::Files)?;
        counter!("underpass_agent_key_rotations_total", "outcome" => "done").increment(1);
        tracing::info!(key = %next.public(), "the agent's key was rotated: the old one counts for nothing");
        Ok(next.public())
    }
}

impl NotRotated {
    /// When to try again, which the log says.
    fn again(&self, backoff: &mut Backoff) -> Again {
        if let Self::NotConnected | Self::Static = self {
            return Again {
                at: Instant::now() + limits::ROTATE_AGAIN,
                for_a_session: true,
            };
        }
        counter!("underpass_agent_key_rotations_total", "outcome" => "failed").increment(1);
        let wait = self.least_wait().max(backoff.failed(rand::random()));
        self.report(wait);
        Again {
            at: Instant::now() + wait,
            for_a_session: false,
        }
    }

    /// A server that does not know of rotations is hardly upgraded in the next minute.
    fn least_wait(&self) -> Duration {
        match self {
            Self::Register(NotRegistered::OldServer) | Self::Lost => limits::ROTATE_AGAIN_MOST,
            _ => Duration::ZERO,
        }
    }

    fn report(&self, wait: Duration) {
        let said = chain(self);
        match self {
            Self::Lost => tracing::error!("{said}"),
            Self::Unproved
            | Self::Register(NotRegistered::OldServer | NotRegistered::Stream(_)) => {
                tracing::info!(
                    "the agent's key is not rotated yet: {said} (trying again in {wait:.1?})"
                );
            }
            _ => tracing::warn!(
                "the agent's key is not rotated: {said} (trying again in {wait:.1?})"
            ),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
