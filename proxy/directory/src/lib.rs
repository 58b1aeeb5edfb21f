//! The installation's directory: clusters and their agents, users, groups, tokens, and bindings.
//!
//! The [`Directory`] holds all of it in memory, as a [`Snapshot`] that every decision is made from, so that no request waits
//! for a store. A change is a [`Draft`]: it is checked as a whole, written by the [`Store`] as a whole, and then in force;
//! decisions that it no longer makes are revoked, which ends the streams that rest on them (rule 12).
//!
//! A store needs to do three things: give everything, write some objects if no other writer was faster, and say when another
//! writer has written. The server has one in a file of its own; a store that several servers share, such as etcd, fits behind
//! the same trait: one key with the revision, which each transaction compares and sets.

mod agent_key;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod creation;
mod direct;
mod draft;
mod earlier_keys;
mod effective_roles;
mod error;
mod grants;
mod join_account;
mod join_token;
mod names;
mod object;
mod room;
pub mod seal;
mod snapshot;
mod standing;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::watch;

pub use self::{
    agent_key::{KeyStanding, NextKey, ReplacedKey, Rotated, Rotation, RotationError, Waiting},
    creation::CreationId,
    direct::{
        Credential, CredentialError, Direct, Endpoint, EndpointError, OpenCredentialError,
        RegisteredToken, RegisteredTokenError, Registrant, Registration, SealedCredential,
    },
    draft::{Checked, Draft, Expect},
    earlier_keys::{EarlierKeys, EarlierKeysError},
    effective_roles::EffectiveRoles,
    error::{ChangeError, OpenError},
    join_account::{PodJoinError, PodJoined, PodJoining},
    join_token::{JoinError, JoinToken, Joined, Joining},
    object::{
        AccessToken, Agent, Binding, Cluster, Group, JoinedPod, Login, Object, ObjectKind, Owner,
        TokenUse, User,
    },
    snapshot::{Entry, Snapshot, Table, Tabled, Tables, Unreadable},
    standing::Named,
    store::{CommitError, Contents, Key, MemoryStore, Record, Store, StoreError, Write},
};
use self::{
    draft::Finished,
    grants::{Grant, Grants},
};
use underpass_authenticate::{self, TokenHash, TokenRecord, TokenStore};
use underpass_core::{Access, AuthorizeError, Authorizer};
pub use underpass_core::{
    AgentRole, ClusterPolicy, Labels, LabelsError, Name, NameError, Permission, Revision, Role,
    Selector, Subject, SubjectKind, UnknownRole,
};
use underpass_core::{Revocation, limits};

/// How often a change is tried again when another writer was faster.
const ATTEMPTS: usize = 16;

/// Wait before a store that does not work is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a store that works is asked whether it could write: a few times within the time in which a load balancer takes a
/// server out.
const CHECK: Duration = Duration::from_secs(5);

/// The directory in force. The only one who writes to its store in this process.
#[allow(missing_debug_implementations, reason = "a trait object")]
pub struct Directory {
    store: Arc<dyn Store>,
    current: ArcSwap<Snapshot>,
    /// Held from reading the current state until the change is in force.
    writing: Arc<tokio::sync::Mutex<()>>,
    grants: Grants,
    changes: watch::Sender<Revision>,
    uses: Mutex<HashMap<String, OffsetDateTime>>,
    told: names::Told,
    /// Whether the store could write, when it was last asked to or about it.
    writable: watch::Sender<bool>,
    /// A change failed, and the store could not be read since: it may hold a change that is not in force.
    stale: AtomicBool,
}

/// A change that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// The closure's value.
    pub value: T,
    /// The directory's state with it.
    pub revision: Revision,
}

impl Directory {
    /// Reads the store.
    ///
    /// # Errors
    /// It cannot be read, or understood.
    pub async fn open(store: Arc<dyn Store>) -> Result<Arc<Self>, OpenError> {
        let snapshot = Snapshot::read(store.load().await?)?;
        Ok(Arc::new(Self {
            changes: watch::Sender::new(snapshot.revision()),
            current: ArcSwap::from_pointee(snapshot),
            store,
            writing: Arc::default(),
            grants: Grants::default(),
            uses: Mutex::default(),
            told: names::Told::default(),
            writable: watch::Sender::new(true),
            stale: AtomicBool::new(false),
        }))
    }

    /// The directory as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Told after every change.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.changes.subscribe()
    }

    /// Makes a change, and waits until it is written and in force. `make` is called again where another writer has changed the
    /// directory meanwhile.
    ///
    /// # Errors
    /// Those of `make`, and [`ChangeError`] where the store cannot or must not be written.
    ///
    /// # Cancel safety
    /// Once the store has been asked to write, the change goes on without its caller.
    pub async fn change<T, E: From<ChangeError>>(
        self: &Arc<Self>,
        mut make: impl FnMut(&mut Draft) -> Result<T, E>,
    ) -> Result<Changed<T>, E> {
        for _ in 0..ATTEMPTS {
            let writing = Arc::clone(&self.writing).lock_owned().await;
            let mut draft = Draft::new(self.snapshot(), OffsetDateTime::now_utc());
            let value = make(&mut draft)?;
            let Some(finished) = draft.finish()? else {
                let revision = self.current.load().revision();
                return Ok(Changed { value, revision });
            };
            let this = Arc::clone(self);
            let written = tokio::spawn(async move {
                let written = this.write(finished).await;
                drop(writing);
                written
            });
            match written.await {
                Ok(Ok(Some(revision))) => return Ok(Changed { value, revision }),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(gone) => return Err(ChangeError::Unknown(Box::new(gone)).into()),
            }
        }
        Err(ChangeError::Busy.into())
    }

    /// Gives the new revision, or none where another writer was faster: then their change is in force.
    async fn write(&self, finished: Finished) -> Result<Option<Revision>, ChangeError> {
        let Finished {
            at,
            tables,
            writes,
            revokes,
        } = finished;
        let committed = match revokes {
            true => self.store.commit_revocation(at, writes).await,
            false => self.store.commit(at, writes).await,
        };
        match committed {
            // The draft has given its objects the next revision, and so does the store.
            Ok(revision) if revision == at.next() => {
                self.put_in_force(Snapshot::new(revision, tables));
                Ok(Some(revision))
            }
            Ok(revision) => {
                self.reload().await?;
                Ok(Some(revision))
            }
            Err(CommitError::Conflict) => {
                self.reload().await?;
                Ok(None)
            }
            // Nothing has changed: a reading would make revocations wait for each change that finds a full disk.
            Err(error @ CommitError::Store(_)) => {
                self.failed(&error);
                Err(error.into())
            }
            Err(error) => {
                self.failed(&error);
                // The store may tell now whether it has written. Where it does not, `keep_store` reads it later.
                let stale = self.reload().await.is_err();
                self.stale.store(stale, Ordering::Release);
                Err(error.into())
            }
        }
    }

    /// Whether the store could write, when it was last asked to or about it.
    pub fn is_writable(&self) -> bool {
        *self.writable.borrow()
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        if self.writable.send_replace(false) {
            tracing::error!(error, "the directory cannot be written");
        }
    }

    /// Asks the store from time to time whether it could write, for as long as the process runs. A store that could not is
    /// asked more often, and read again once it can, where a change had an unknown outcome.
    pub async fn keep_store(self: Arc<Self>) {
        let mut writable = self.writable.subscribe();
        loop {
            self.look_at_store().await;
            let works = *writable.borrow_and_update();
            let pause = if works { CHECK } else { PAUSE };
            // A change that fails is looked at soon, too.
            let _ = tokio::time::timeout(pause, writable.wait_for(|now| *now != works)).await;
        }
    }

    async fn look_at_store(&self) {
        let _writing = self.writing.lock().await;
        match self.check_store().await {
            Ok(()) => {
                if !self.writable.send_replace(true) {
                    tracing::info!("the directory can be written again");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn check_store(&self) -> Result<(), ChangeError> {
        self.store.check().await?;
        if self.stale.load(Ordering::Acquire) {
            self.reload().await?;
            self.stale.store(false, Ordering::Release);
        }
        Ok(())
    }

    async fn reload(&self) -> Result<(), ChangeError> {
        let snapshot = Snapshot::read(self.store.load().await?)?;
        self.put_in_force(snapshot);
        Ok(())
    }

    fn put_in_force(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.current.store(Arc::new(snapshot));
        self.grants.recheck(&self.current.load());
        self.changes.send_replace(revision);
    }

    /// Puts changes of others in force, for as long as the process runs. Where they cannot be read, the directory stays as it was, and counts as
    /// one that cannot be written until they are: a revocation may be among them (rule 12).
    pub async fn follow(self: Arc<Self>) {
        loop {
            let revision = self.current.load().revision();
            let error = match self.store.changed(revision).await {
                Ok(()) => match self.catch_up(revision).await {
                    Ok(()) => continue,
                    Err(error) => {
                        self.stale.store(true, Ordering::Release);
                        error
                    }
                },
                Err(error) => error.into(),
            };
            // `keep_store` asks it again, and says when it works.
            self.failed(&error);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads the store, unless a change of this process, which it tells of as well, has replaced this revision already.
    async fn catch_up(&self, revision: Revision) -> Result<(), ChangeError> {
        let _writing = self.writing.lock().await;
        if self.current.load().revision() != revision {
            return Ok(());
        }
        self.reload().await
    }

    /// Writes down when tokens were last used, and forgets those that have expired, now and then, for as long as the
    /// process runs.
    pub async fn keep_tokens(self: Arc<Self>) {
        let mut interval = tokio::time::interval(limits::TOKEN_USE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.write_uses().await;
            self.forget_expired().await;
        }
    }

    /// Forgets the tokens of logins by authenticators of which `is_gone` is true: they vouch for the holders no longer (rule
    /// 12).
    ///
    /// # Errors
    /// They cannot be forgotten now.
    pub async fn forget_logins(
        self: &Arc<Self>,
        is_gone: impl Fn(&str) -> bool,
    ) -> Result<(), ChangeError> {
        let is_gone = |token: &AccessToken| match &token.owner {
            Owner::User(_) => false,
            Owner::Login(login) => is_gone(login.authenticator()),
        };
        self.change(|draft| {
            draft.sweep(is_gone);
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Forgets tokens, join tokens among them, that expired some time ago. They count for nothing already.
    pub async fn forget_expired(self: &Arc<Self>) {
        let before = OffsetDateTime::now_utc() - limits::EXPIRED_TOKEN_KEPT;
        let is_old = |token: &AccessToken| token.expires.is_some_and(|end| end < before);
        let is_old_join_token = |token: &JoinToken| token.is_expired(before);
        let snapshot = self.snapshot();
        let mut tokens = snapshot.all::<AccessToken>().values();
        let mut join_tokens = snapshot.all::<JoinToken>().values();
        if !tokens.any(|token| is_old(&token.object))
            && !join_tokens.any(|token| is_old_join_token(&token.object))
        {
            return;
        }
        let forgotten = self
            .change(|draft| {
                draft.forget_tokens(is_old);
                draft.sweep(is_old_join_token);
                Ok::<_, ChangeError>(())
            })
            .await;
        if let Err(error) = forgotten {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "expired tokens are not forgotten"
            );
        }
    }

    /// Writes down when tokens were last used: one change for all of them, however often they were.
    pub async fn write_uses(self: &Arc<Self>) {
        let used = std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let written = self
            .change(|draft| {
                for (id, last) in &used {
                    // A token that was removed meanwhile has no use.
                    let _ = draft.put(id, TokenUse { last: *last }, Expect::Anything);
                }
                Ok::<_, ChangeError>(())
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "when tokens were last used is not written down"
            );
        }
    }

    fn used(&self, snapshot: &Snapshot, id: &str) {
        let now = OffsetDateTime::now_utc();
        let noted = snapshot.get::<TokenUse>(id).map(|noted| noted.object.last);
        if noted.is_some_and(|noted| now - noted < limits::TOKEN_USE_INTERVAL) {
            return;
        }
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = uses.get_mut(id) {
            *last = now;
        } else {
            uses.insert(id.to_owned(), now);
        }
    }

    /// The token's record, with its owner as clusters see them; `None` where the token counts for nothing.
    fn record(&self, hash: &TokenHash) -> Option<TokenRecord> {
        let snapshot = self.current.load();
        let (id, token) = snapshot.token(hash)?;
        let facts = self.facts(&snapshot, id, token)?;
        self.used(&snapshot, id);
        Some(TokenRecord {
            id: id.to_owned(),
            user: facts.user.clone(),
            authority: facts.authority.clone(),
            uid: facts.uid.clone(),
            groups: facts.groups.clone(),
            extra: facts.extra.clone(),
            expires_at: token.expires.map(SystemTime::from),
            scope: token.scope.clone(),
            revocation: self.grants.revocation(
                Grant::Token {
                    id: id.to_owned(),
                    facts,
                },
                &self.current,
            ),
        })
    }
}

#[async_trait]
impl TokenStore for Directory {
    async fn find(
        &self,
        hash: &TokenHash,
    ) -> Result<Option<TokenRecord>, underpass_authenticate::StoreError> {
        Ok(self.record(hash))
    }
}

#[async_trait]
impl Authorizer for Directory {
    async fn authorize(&self, access: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        let (identity, cluster) = (access.identity(), access.cluster());
        let Some(permission) = Permission::needed_by(access) else {
            return Err(AuthorizeError::Denied { reason: None });
        };
        let snapshot = self.current.load();
        let named = Named::from(identity);
        let Some(right) = snapshot.right(named, cluster, permission) else {
            let roles = snapshot.roles(named, cluster);
            let roles: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            // A caller without a role learns nothing, not even that there is such a cluster.
            let reason = (!roles.is_empty()).then(|| {
                let roles = roles.join(", ");
                format!(
                    "the role here is {roles}, which does not include {}",
                    permission.as_str()
                )
            });
            return Err(AuthorizeError::Denied { reason });
        };
        // A cluster that does not exist has nothing to be revoked; it is refused further on.
        match snapshot.has_cluster(cluster) {
            true => Ok(self.grants.revocation(Grant::Right(right), &self.current)),
            false => Ok(Revocation::never()),
        }
    }
}

/// How JSON holds a token's hash.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use underpass_authenticate::TokenHash;

    pub(super) fn serialize<S: Serializer>(
        hash: &TokenHash,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TokenHash, D::Error> {
        TokenHash::from_hex(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
