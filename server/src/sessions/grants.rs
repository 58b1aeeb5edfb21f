//! The keys of users' sessions, which users register with their credentials (PROTOCOL.md, "User sessions").
//!
//! A key grants a session and nothing else: each request on its streams is authenticated by itself. In memory alone: a server that
//! was started again knows no session either, and users register anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use underpass_core::{ConnectionInfo, Identity, Revocation, UnusableCertificate};
use underpass_gateway::Holder;
use underpass_tunnel::PublicKey;

use crate::limits;

/// All keys that are registered.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    by_key: Mutex<HashMap<PublicKey, Grant>>,
}

#[derive(Debug)]
struct Grant {
    holder: Holder,
    user: Arc<str>,
    shown: Arc<Shown>,
    /// The life of the credential that was registered last.
    decision: watch::Sender<Revocation>,
    sessions: usize,
    /// The last time.
    registered: Instant,
}

impl Grant {
    /// May a session begin, or go on?
    fn counts(&self) -> bool {
        let used = self.sessions > 0 || self.registered.elapsed() < limits::SESSION_KEY_UNUSED;
        used && !self.decision.borrow().is_revoked()
    }
}

/// The certificate that the user's TLS connection showed when it registered the key. Streams have no TLS of their own.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) unusable_certificate: Option<UnusableCertificate>,
}

impl From<&ConnectionInfo> for Shown {
    /// A proxy's certificate is not its clients'.
    fn from(info: &ConnectionInfo) -> Self {
        if info.peer.asks_for_others() {
            return Self::default();
        }
        Self {
            certificates: info.certificates.clone(),
            unusable_certificate: info.unusable_certificate,
        }
    }
}

/// Why a key is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NotGranted {
    #[error("the key is registered for another user: make a new one")]
    AnothersKey,
    #[error(
        "you have {} sessions with this server, and cannot have more: end one of them",
        limits::SESSIONS_OF_USER
    )]
    TooManyOfUser,
    #[error(
        "this server has {} users' sessions, and takes no more now",
        limits::SESSIONS_OF_USERS
    )]
    TooMany,
}

impl Grants {
    /// Registers a key for its user, or has it rest on another credential of the same user. True: it is new.
    pub(crate) fn register(
        &self,
        key: PublicKey,
        identity: &Identity,
        decision: Revocation,
        shown: Shown,
    ) -> Result<bool, NotGranted> {
        let holder = Holder::from(identity);
        let mut grants = self.lock();
        if let Some(grant) = grants.get_mut(&key) {
            if grant.holder != holder {
                return Err(NotGranted::AnothersKey);
            }
            grant.shown = Arc::new(shown);
            grant.decision.send_replace(decision);
            grant.registered = Instant::now();
            return Ok(false);
        }
        grants.retain(|_, grant| grant.sessions > 0 || grant.counts());
        let of_user = grants.values().filter(|grant| grant.holder == holder);
        if of_user.count() >= limits::SESSIONS_OF_USER {
            return Err(NotGranted::TooManyOfUser);
        }
        if grants.len() >= limits::SESSIONS_OF_USERS {
            return Err(NotGranted::TooMany);
        }
        let grant = Grant {
            holder,
            user: identity.user().into(),
            shown: Arc::new(shown),
            decision: watch::Sender::new(decision),
            sessions: 0,
            registered: Instant::now(),
        };
        grants.insert(key, grant);
        Ok(true)
    }

    /// The user whose key this is, where it counts.
    pub(crate) fn user(&self, key: &PublicKey) -> Option<Arc<str>> {
        let grants = self.lock();
        let grant = grants.get(key).filter(|grant| grant.counts());
        grant.map(|grant| Arc::clone(&grant.user))
    }

    /// The same as connections are counted.
    pub(crate) fn holder(&self, key: &PublicKey) -> Option<Holder> {
        let grants = self.lock();
        let grant = grants.get(key).filter(|grant| grant.counts());
        grant.map(|grant| grant.holder.clone())
    }

    /// Counts a session of the key's, where it counts.
    pub(crate) fn begin(self: &Arc<Self>, key: PublicKey) -> Option<Granted> {
        let mut grants = self.lock();
        let grant = grants.get_mut(&key).filter(|grant| grant.counts())?;
        grant.sessions += 1;
        Some(Granted {
            grants: Arc::clone(self),
            key,
            decision: grant.decision.subscribe(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Grant>> {
        // Nothing panics while it is held.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's hold on its key.
#[derive(Debug)]
pub(crate) struct Granted {
    grants: Arc<Grants>,
    key: PublicKey,
    decision: watch::Receiver<Revocation>,
}

impl Granted {
    /// The certificate that the connection showed which registered the key last.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        let grants = self.grants.lock();
        let grant = grants.get(&self.key);
        grant
            .map(|grant| Arc::clone(&grant.shown))
            .unwrap_or_default()
    }

    /// Waits until the credential that was registered last counts no more.
    pub(crate) async fn revoked(&mut self) {
        loop {
            let decision = self.decision.borrow_and_update().clone();
            tokio::select! {
                biased;
                changed = self.decision.changed() => if changed.is_err() { return },
                () = decision.revoked() => return,
            }
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let mut grants = self.grants.lock();
        let Some(grant) = grants.get_mut(&self.key) else {
            return;
        };
        grant.sessions = grant.sessions.saturating_sub(1);
        if grant.sessions == 0 {
            // Its user makes room at once, and registers again where another session is to follow.
            grants.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use underpass_tunnel::AgentKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        AgentKey::from_seed([seed; 32]).unwrap().public_key()
    }

    fn identity(user: &str) -> Identity {
        Identity::new(user.to_owned(), None, vec![], Default::default()).unwrap()
    }

    fn register(grants: &Grants, seed: u8, user: &str) -> Result<bool, NotGranted> {
        let (user, decision) = (identity(user), Revocation::never());
        grants.register(key(seed), &user, decision, Shown::default())
    }

    #[tokio::test]
    async fn rule_23_a_user_has_so_many_keys_and_no_others() {
        let grants = Arc::new(Grants::default());
        let bound = u8::try_from(limits::SESSIONS_OF_USER).unwrap();
        for seed in 0..bound {
            assert_eq!(register(&grants, seed, "mallory"), Ok(true));
        }
        assert_eq!(register(&grants, 0, "mallory"), Ok(false));
        let refused = register(&grants, 100, "mallory");
        assert_eq!(refused, Err(NotGranted::TooManyOfUser));
        assert_eq!(register(&grants, 100, "alice"), Ok(true));
        assert_eq!(register(&grants, 0, "alice"), Err(NotGranted::AnothersKey));
        assert_eq!(grants.user(&key(0)).as_deref(), Some("mallory"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_without_a_session_is_forgotten() {
        let grants = Arc::new(Grants::default());
        register(&grants, 1, "alice").unwrap();
        register(&grants, 2, "alice").unwrap();
        let session = grants.begin(key(1)).unwrap();
        tokio::time::advance(limits::SESSION_KEY_UNUSED).await;
        assert!(grants.user(&key(1)).is_some(), "it has a session");
        assert_eq!(grants.user(&key(2)), None);
        let successor = grants.begin(key(1)).unwrap();
        drop(session);
        assert!(grants.user(&key(1)).is_some(), "it has another one");
        drop(successor);
        assert!(grants.begin(key(1)).is_none());
        register(&grants, 3, "alice").unwrap();
        assert_eq!(grants.lock().len(), 1, "others make room");
    }

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_session_ends_with_the_credential_that_was_registered_last() {
        let grants = Arc::new(Grants::default());
        let tokens = [(); 2].map(|()| CancellationToken::new());
        let [one, two] = tokens.clone().map(Revocation::when);
        let alice = identity("alice");
        grants
            .register(key(1), &alice, one, Shown::default())
            .unwrap();
        let mut session = grants.begin(key(1)).unwrap();
        let waiting = tokio::spawn(async move { session.revoked().await });
        grants
            .register(key(1), &alice, two, Shown::default())
            .unwrap();
        tokio::task::yield_now().await;
        tokens[0].cancel();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(
            !waiting.is_finished(),
            "another credential has taken its place"
        );
        assert!(grants.user(&key(1)).is_some());
        tokens[1].cancel();
        waiting.await.unwrap();
        assert_eq!(grants.user(&key(1)), None);
    }

    #[test]
    fn rule_4_a_proxys_certificate_is_not_its_clients_in_a_session() {
        let certificates = vec![CertificateDer::from(vec![1])];
        let proxies = ["10.0.0.0/8"].iter().map(|text| text.parse().unwrap());
        let proxies = proxies.collect();
        for (peer, shown) in [("10.0.0.1", 0), ("192.0.2.1", 1)] {
            let info = ConnectionInfo {
                peer: underpass_core::Peer::new(peer.parse().unwrap(), &proxies),
                protocol: underpass_core::Protocol::Http1,
                server_name: None,
                certificates: certificates.clone(),
                unusable_certificate: None,
            };
            assert_eq!(Shown::from(&info).certificates.len(), shown, "{peer}");
        }
    }
}
