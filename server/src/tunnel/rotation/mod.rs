//! Keys of agents that give way to others (PROTOCOL.md, "Rotating keys"): an agent registers its next key over its session
//! ([`register`]), and that takes the place of the other one once a handshake has proved it.

mod ask;
mod register;
mod told;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::counter;
use underpass_api::KeyQuestion;
use underpass_audit::AuditLog;
use underpass_core::rate::{Rate, UserLimiter};
use underpass_directory::{ChangeError, Directory, KeyStanding, Rotated, Snapshot};
use underpass_tunnel::{Backoff, CloseCode, PublicKey, Session, SessionId, chain};

pub(super) use self::ask::ask;
pub(crate) use self::ask::{AskError, have_rotated};
use self::told::{KeyEvent, Outcome};
use super::agent_of;
use crate::limits;

/// For an agent whose key was replaced.
pub(super) const REPLACED: &str =
    "another key has taken the place of this agent's: use that one, or join again with a new key";

/// The rotations of all agents' keys.
pub(super) struct Rotations {
    directory: Arc<Directory>,
    audit: AuditLog,
    /// Of clusters, and of their agents.
    pace: UserLimiter,
    /// Next keys that were proved, and are becoming current.
    replacing: Mutex<HashSet<PublicKey>>,
    /// Sessions that have not proved the key of their agent yet, and have been asked to.
    stale: Mutex<HashSet<SessionId>>,
}

impl Rotations {
    pub(super) fn new(directory: Arc<Directory>, audit: AuditLog) -> Self {
        Self {
            directory,
            audit,
            pace: UserLimiter::new(
                Rate {
                    burst: limits::NEXT_KEYS_PER_AGENT,
                    every: limits::NEXT_KEY_PER_AGENT_EVERY,
                    sources: limits::ROTATING_AGENTS,
                },
                Rate {
                    burst: limits::NEXT_KEYS_PER_CLUSTER,
                    every: limits::NEXT_KEY_PER_CLUSTER_EVERY,
                    sources: limits::ROTATING_CLUSTERS,
                },
                Rate {
                    burst: limits::NEXT_KEYS,
                    every: limits::NEXT_KEY_EVERY,
                    sources: 1,
                },
            ),
            replacing: Mutex::default(),
            stale: Mutex::default(),
        }
    }

    /// A handshake has proved this key. A next key takes the place of its agent's key then, in the background.
    pub(super) fn proved(self: &Arc<Self>, key: PublicKey, remote: Option<IpAddr>) {
        let snapshot = self.directory.snapshot();
        let standing = snapshot.standing_of_key(&key.to_string());
        if !matches!(standing, Some((_, _, KeyStanding::Next))) {
            return;
        }
        // Each link of the session proves it.
        if !lock(&self.replacing).insert(key) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.replace(key, remote).await;
            lock(&this.replacing).remove(&key);
        });
    }

    /// However long that takes: until then both keys count.
    async fn replace(&self, key: PublicKey, remote: Option<IpAddr>) {
        let mut backoff = Backoff::new(limits::REPLACE_KEY_AGAIN, limits::REPLACE_KEY_AGAIN_MOST);
        let key = key.to_string();
        let mut unsure = false;
        loop {
            let ready = self.audit.ready_to_revoke().await;
            let error = match ready {
                Err(stuck) => chain(&stuck),
                Ok(()) => {
                    let replacing = self.directory.change(|draft| draft.replace_key(&key));
                    match replacing.await {
                        Ok(changed) => {
                            let done = || unsure.then(|| self.replaced(&key)).flatten();
                            if let Some(rotated) = changed.value.or_else(done) {
                                self.tell_replaced(&rotated, remote);
                            }
                            return;
                        }
                        Err(error) => {
                            unsure |= matches!(error, ChangeError::Unknown(_));
                            chain(&error)
                        }
                    }
                }
            };
            counter!("underpass_agent_key_rotations_total", "outcome" => "unwritten").increment(1);
            let wait = backoff.failed(rand::random());
            tracing::warn!(
                key,
                "an agent's old key still counts beside its new one: {error} (trying again in {wait:.1?})"
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// A next key is being written down as its agent's only one.
    fn is_replacing(&self, next: &str) -> bool {
        let replacing = lock(&self.replacing);
        next.parse().is_ok_and(|next| replacing.contains(&next))
    }

    /// The replacement by this key, where an earlier attempt has written it and its outcome was not known.
    fn replaced(&self, key: &str) -> Option<Rotated> {
        let snapshot = self.directory.snapshot();
        let standing = snapshot.standing_of_key(key)?;
        let (agent, object, KeyStanding::Current) = standing else {
            return None;
        };
        Some(Rotated {
            agent: agent.to_owned(),
            object: object.clone(),
            old: object.replaced_keys.first()?.key.clone(),
        })
    }

    fn tell_replaced(&self, rotated: &Rotated, remote: Option<IpAddr>) {
        let Rotated { agent, object, old } = rotated;
        counter!("underpass_agent_key_rotations_total", "outcome" => "replaced").increment(1);
        let event = KeyEvent {
            agent,
            cluster: &object.cluster,
            remote,
        };
        event.write(
            &self.audit,
            Outcome::Replaced {
                key: &object.key,
                old,
            },
        );
    }

    /// The session's agent has another key than those that the session has proved. It is asked to prove that one, and ended where it
    /// does not: of processes that share a key, one rotates it.
    pub(super) fn must_prove_anew(self: &Arc<Self>, session: &Session, snapshot: &Snapshot) {
        let id = session.info().id;
        let Some(key) = agent_of(session, snapshot).map(|(_, agent)| agent.key.clone()) else {
            return;
        };
        if !lock(&self.stale).insert(id) {
            return;
        }
        let (this, session) = (Arc::clone(self), session.clone());
        tokio::spawn(async move {
            let asking = async {
                // It may have no transport now, and proves the key when it comes back.
                match ask(&session, KeyQuestion::Look { key }).await {
                    Ok(_) if counts(&session, &this.directory.snapshot()) => {}
                    Ok(_) => std::future::pending().await,
                    Err(error) => {
                        tracing::debug!(session = %id, "{}", chain(&error));
                        std::future::pending().await
                    }
                }
            };
            let proved = tokio::select! {
                () = asking => true,
                () = tokio::time::sleep(limits::REPLACED_KEY_GRACE) => false,
                _ = session.closed() => false,
            };
            lock(&this.stale).remove(&id);
            let snapshot = this.directory.snapshot();
            match counts(&session, &snapshot) {
                true => {}
                // The next key followed at once.
                false if proved => this.must_prove_anew(&session, &snapshot),
                false => session.close(CloseCode::KeyReplaced, REPLACED),
            }
        });
    }
}

/// Has the session proved a key that counts?
pub(super) fn counts(session: &Session, snapshot: &Snapshot) -> bool {
    let Some((_, agent)) = agent_of(session, snapshot) else {
        return false;
    };
    let proved = |key: &str| key.parse().is_ok_and(|key| session.has_proved(&key));
    let mut keys = agent.keys();
    keys.any(|(key, standing)| standing.counts() && proved(key))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
