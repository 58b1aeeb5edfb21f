//! The running server's view of the access file.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use underpass_proxy::authenticate::{StoreError, TokenHash, TokenRecord, TokenStore};
use underpass_proxy::front::{Access as AccessRequest, AuthorizeError, Authorizer};
use underpass_proxy::{ClusterName, Revocation};
use underpass_tunnel::{Admission, Denied, Proven, PublicKey, chain};

use super::grants::{Grant, Grants};
use super::{Access, AccessError, file};
use crate::data_dir::DataDir;

/// How often the file is looked at: a change takes effect within this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// The access file as it stands, read again when it changes.
///
/// A file that became unreadable or invalid changes nothing: the last good one stays in force, and
/// the log says what is wrong.
#[derive(Debug)]
pub(crate) struct AccessStore {
    data: DataDir,
    current: ArcSwap<Access>,
    seen: Mutex<Option<Stamp>>,
    grants: Grants,
    changes: watch::Sender<()>,
}

/// What tells one version of the file from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: Option<SystemTime>,
}

impl AccessStore {
    /// Reads the file.
    pub(crate) fn open(data: DataDir) -> Result<Arc<Self>, AccessError> {
        let seen = stamp(&data);
        let access = Access::load(&data)?;
        Ok(Arc::new(Self {
            data,
            current: ArcSwap::from_pointee(access),
            seen: Mutex::new(seen),
            grants: Grants::default(),
            changes: watch::Sender::new(()),
        }))
    }

    /// Looks at the file from time to time, for as long as the server runs.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            self.refresh();
        }
    }

    /// Told after every change of the file.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Reads the file again if it has changed.
    fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.data);
        if *seen == stamp {
            return;
        }
        *seen = stamp;
        match Access::load(&self.data) {
            Ok(access) => {
                tracing::info!("the access file has changed");
                self.current.store(Arc::new(access));
                self.grants.recheck(&self.current.load());
                self.changes.send_replace(());
            }
            Err(error) => tracing::error!("keeping the last good one: {}", chain(&error)),
        }
    }

    pub(crate) fn has_cluster(&self, name: &ClusterName) -> bool {
        self.current.load().has_cluster(name)
    }

    /// The cluster that the owner of `key` may serve.
    pub(crate) fn cluster_of(&self, key: &PublicKey) -> Option<ClusterName> {
        self.current.load().cluster_of(key).cloned()
    }

    fn record(&self, hash: &TokenHash) -> Option<TokenRecord> {
        let access = self.current.load();
        let (user, token) = access.token(hash)?;
        let grant = Grant::Token {
            hash: *hash,
            user: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        };
        Some(TokenRecord {
            user: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            expires_at: token.expires.map(SystemTime::from),
            revocation: self.grants.revocation(grant, &self.current),
        })
    }
}

/// `None` where there is no file, or none that can be looked at.
fn stamp(data: &DataDir) -> Option<Stamp> {
    let metadata = std::fs::metadata(data.path(file::NAME)).ok()?;
    let modified = metadata.modified().ok();
    Some(Stamp {
        inode: metadata.ino(),
        len: metadata.len(),
        modified,
    })
}

#[async_trait]
impl TokenStore for AccessStore {
    async fn find(&self, hash: &TokenHash) -> Result<Option<TokenRecord>, StoreError> {
        if let Some(record) = self.record(hash) {
            return Ok(Some(record));
        }
        // A token may be younger than the last look: a kubeconfig works as soon as it is written.
        self.refresh();
        Ok(self.record(hash))
    }
}

#[async_trait]
impl Authorizer for AccessStore {
    async fn authorize(&self, request: &AccessRequest<'_>) -> Result<Revocation, AuthorizeError> {
        let (user, cluster) = (request.identity().user(), request.cluster());
        let may = |access: &Access| {
            access
                .user(user)
                .is_some_and(|user| user.may_reach(cluster))
        };
        // A right may be younger than the last look, as a token may.
        if !may(&self.current.load()) {
            self.refresh();
        }
        let access = self.current.load();
        if !may(&access) {
            return Err(AuthorizeError::Denied { reason: None });
        }
        let grant = Grant::Reach {
            user: user.to_owned(),
            cluster: cluster.clone(),
        };
        // A cluster that does not exist has nothing to be revoked; it is refused further on.
        match access.has_cluster(cluster) {
            true => Ok(self.grants.revocation(grant, &self.current)),
            false => Ok(Revocation::never()),
        }
    }
}

impl Admission for AccessStore {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<String, Denied>> {
        async {
            let found = self.cluster_of(&proven.key).or_else(|| {
                self.refresh();
                self.cluster_of(&proven.key)
            });
            match found {
                Some(cluster) => Ok(cluster.to_string()),
                None => Err(Denied::unknown_key()),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use underpass_proxy::authenticate::Token;

    fn store() -> (tempfile::TempDir, DataDir, Arc<AccessStore>) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let store = AccessStore::open(data.clone()).unwrap();
        (dir, data, store)
    }

    fn token_for(data: &DataDir, user: &str) -> Token {
        Access::edit(data, |access| {
            access.ensure_user(user)?;
            access.issue_token(user, None)
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_new_token_is_known_at_once() {
        let (_dir, data, store) = store();
        let token = token_for(&data, "alice");
        let record = store.find(&token.hash()).await.unwrap().unwrap();
        assert_eq!(record.user, "alice");
        let unknown = Token::generate().unwrap();
        assert!(store.find(&unknown.hash()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn rule_12_removing_a_user_revokes_what_rests_on_their_token() {
        let (_dir, data, store) = store();
        let token = token_for(&data, "alice");
        let other = token_for(&data, "bob");
        let alice = store.find(&token.hash()).await.unwrap().unwrap().revocation;
        let bob = store.find(&other.hash()).await.unwrap().unwrap().revocation;
        Access::edit(&data, |access| access.remove_user("alice")).unwrap();
        store.refresh();
        assert!(alice.is_revoked());
        assert!(!bob.is_revoked());
        assert!(store.find(&token.hash()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn rule_12_changing_what_a_user_is_revokes_what_rests_on_it() {
        let changes: [fn(&mut super::super::User); 3] = [
            |user| user.uid = Some("7".to_owned()),
            |user| user.groups.push("ops".to_owned()),
            |user| drop(user.extra.insert("scope".to_owned(), Vec::new())),
        ];
        for change in changes {
            let (_dir, data, store) = store();
            let token = token_for(&data, "alice");
            let alice = store.find(&token.hash()).await.unwrap().unwrap().revocation;
            Access::edit(&data, |access| {
                change(access.users.first_mut().unwrap());
                Ok(())
            })
            .unwrap();
            store.refresh();
            assert!(alice.is_revoked());
        }
    }

    #[tokio::test]
    async fn a_broken_file_changes_nothing() {
        let (_dir, data, store) = store();
        let token = token_for(&data, "alice");
        let alice = store.find(&token.hash()).await.unwrap().unwrap().revocation;
        for broken in ["users: 7\n", ""] {
            data.write(file::NAME, broken).unwrap();
            store.refresh();
            assert!(!alice.is_revoked());
            assert!(store.find(&token.hash()).await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn an_agent_is_known_by_its_key() {
        let (_dir, data, store) = store();
        let key = underpass_tunnel::AgentKey::from_seed([1; 32])
            .unwrap()
            .public_key();
        let proven = Proven {
            key,
            instance: [0; 16],
            max_streams: 1,
            resume_window_ms: 0,
            software: String::new(),
            resumption: None,
        };
        assert_eq!(store.admit(&proven).await, Err(Denied::unknown_key()));
        let prod: ClusterName = "prod".parse().unwrap();
        Access::edit(&data, |access| {
            access.add_agent(&prod, key);
            Ok(())
        })
        .unwrap();
        assert_eq!(store.admit(&proven).await.as_deref(), Ok("prod"));
    }
}
