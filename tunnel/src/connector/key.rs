//! The connector's key, and another one in its place.

use std::sync::{Arc, PoisonError};

use underpass_proto::key::{AgentKey, PublicKey};
use underpass_proto::session::LinkRefused;

use super::{ConfigError, ConnectError, Connector};
use crate::session::{MainAsk, Session};
use crate::tls::Trust;

impl Connector {
    /// Takes another trust and another key from the next handshake on: a file that they come from has changed. The session
    /// goes on, also with the other key, where the server knows both for keys of one agent.
    ///
    /// # Errors
    /// The trust cannot be used; nothing has changed then.
    pub fn renew(&self, trust: &Trust, key: AgentKey) -> Result<(), ConfigError> {
        self.dialer.trust(trust)?;
        self.renew_key(key);
        Ok(())
    }

    /// The same, with the trust as it is.
    pub fn renew_key(&self, key: AgentKey) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    /// The public half of the key that the next handshake proves.
    pub fn public_key(&self) -> PublicKey {
        self.key().public_key()
    }

    /// Proves the key as it is now, in a handshake for `session` on a transport of its own. The session's streams move there without
    /// a break, and the server knows from then on that the session's agent holds this key ([`Session::has_proved`]).
    ///
    /// # Errors
    /// Where nothing comes of it; the session is as it was. One that has no transport proves the key when
    /// [`run`](Self::run) or [`reconnect`](Self::reconnect) brings it one.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn prove(&self, session: &Session) -> Result<(), ConnectError> {
        let alone = || ConnectError::Resume(LinkRefused::Alone);
        if session.transport().is_none() {
            return Err(alone());
        }
        let transport = self.dialer.dial_beside(self.dialer.transports()).await?;
        match session.shared().ask_for_main() {
            MainAsk::That(ask) => self.add(session, transport, &ask).await,
            MainAsk::Either(_) => Err(alone()),
        }
    }

    pub(super) fn key(&self) -> Arc<AgentKey> {
        let key = self.key.lock();
        Arc::clone(&key.unwrap_or_else(PoisonError::into_inner))
    }
}
