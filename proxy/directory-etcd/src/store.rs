//! The store.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use underpass_core::BoxError;
use underpass_directory::{CommitError, Contents, Revision, Store, StoreError, Write};

use crate::client::{Client, Patience};
use crate::config::EtcdConfig;
use crate::error::{CallError, EtcdError};
use crate::keys::{Keys, damaged, write_record};
use crate::large;
use crate::limits;
use crate::mark::Mark;
use crate::state::{State, random};
use crate::wire::{
    Compare, KeyValue, RANGE, RangeRequest, RangeResponse, RequestOp, TXN, TxnRequest, TxnResponse,
    delete, delete_all, end_of, get, put,
};

/// The answer to a prefix without a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Make a new one, unless one was there before.
    Create,
    /// It is an error.
    Refuse,
}

/// A directory on etcd. Clones of its servers' processes share it by etcd alone.
pub struct EtcdStore {
    pub(crate) client: Client,
    pub(crate) keys: Keys,
    installation: String,
    is_new: bool,
    /// The last state that was read or written here.
    known: Mutex<State>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("EtcdStore");
        debug.field("prefix", self.keys.prefix());
        debug
            .field("installation", &self.installation)
            .finish_non_exhaustive()
    }
}

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        Self(Box::new(error))
    }
}

impl From<EtcdError> for CommitError {
    fn from(error: EtcdError) -> Self {
        Self::Store(error.into())
    }
}

/// The two keys that say what the others mean, as they were at one revision of etcd's.
pub(crate) struct Head {
    pub(crate) state: State,
    /// etcd's own.
    pub(crate) revision: i64,
}

impl EtcdStore {
    /// Finds the directory below the prefix.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn open(config: EtcdConfig, missing: Missing) -> Result<Self, EtcdError> {
        config.check()?;
        let keys = Keys::below(config.prefix.clone());
        let client = Client::new(config);
        let found = read_head(&client, &keys, Patience::for_call()).await?;
        let is_new = found.is_none();
        let (mark, head) = match found {
            Some(found) => found,
            None => create(&client, &keys, missing).await?,
        };
        let store = Self {
            client,
            keys,
            installation: mark.installation,
            is_new,
            known: Mutex::new(head.state.clone()),
        };
        if head.state.parts == 0 {
            store.forget_parts(&head.state).await?;
        }
        Ok(store)
    }

    /// The installation whose directory it is.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// Whether this has made the directory.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub(crate) fn known(&self) -> State {
        let known = self.known.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on from a state that was read or written, unless one is known that follows it.
    pub(crate) fn learn(&self, state: &State) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_folded = state.commit == known.commit && state.parts == 0;
        if state.revision() > known.revision() || is_folded {
            *known = state.clone();
        }
    }

    /// Reads where the directory is. It has to be the one that it was, and not older.
    pub(crate) async fn head(&self, patience: Patience) -> Result<Head, EtcdError> {
        let known = self.known();
        let found = read_head(&self.client, &self.keys, patience).await?;
        let (mark, head) = found.ok_or_else(|| self.gone())?;
        self.is_the_same(&mark)?;
        head.state.follows(&known)?;
        Ok(head)
    }

    fn is_the_same(&self, mark: &Mark) -> Result<(), EtcdError> {
        match mark.installation == self.installation {
            true => Ok(()),
            false => Err(EtcdError::AnotherInstallation {
                prefix: self.keys.prefix().to_string(),
                found: mark.installation.clone(),
                expected: self.installation.clone(),
            }),
        }
    }

    pub(crate) fn gone(&self) -> EtcdError {
        EtcdError::Gone {
            prefix: self.keys.prefix().to_string(),
            expected: self.installation.clone(),
        }
    }

    /// Removes what interrupted changes have left, while the directory is in this state.
    async fn forget_parts(&self, state: &State) -> Result<(), EtcdError> {
        let first = RangeRequest {
            key: self.keys.parts.clone(),
            range_end: end_of(&self.keys.parts),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let asking = self.client.ask(RANGE, &first, Patience::for_call());
        let found: RangeResponse = asking.await?;
        if found.kvs.is_empty() {
            return Ok(());
        }
        let txn = TxnRequest {
            compare: vec![Compare::is(&self.keys.state, &state.write())],
            success: vec![delete_all(&self.keys.parts)],
            failure: Vec::new(),
        };
        let asking = self.client.ask(TXN, &txn, Patience::for_call());
        asking.await.map(|_: TxnResponse| ()).map_err(Into::into)
    }

    async fn write(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let mut from = self.known();
        if from.revision() == at && from.parts > 0 {
            from = self.fold(from).await?;
        }
        if from.revision() != at {
            return Err(CommitError::Conflict);
        }
        self.is_whole(&from)?;
        let commit = random();
        match fits(&writes) {
            true => {
                let next = from.next(commit, 0);
                let revision = next.revision();
                let operations = writes.into_iter();
                let operations = operations.map(|write| self.operation(write, revision));
                let operations = operations.collect();
                self.count(&from, &next, Vec::new(), operations).await
            }
            false => self.write_large(&from, commit, &writes).await,
        }
    }

    /// Of a state whose parts should be among the objects: it would be lost with the next change.
    fn is_whole(&self, state: &State) -> Result<(), EtcdError> {
        match state.parts {
            0 => Ok(()),
            _ => Err(damaged(&self.keys.parts_of(&state.commit))),
        }
    }

    /// The operation that makes a write.
    pub(crate) fn operation(&self, write: Write, revision: Revision) -> RequestOp {
        let key = self.keys.object(&write.key);
        match write.value {
            Some(value) => put(key, write_record(revision, &value)),
            None => delete(key),
        }
    }

    /// The transaction by which a change counts: from one state to the next. It is tried again until there is an answer: of two
    /// attempts at the most one can succeed, and the other one finds out.
    pub(crate) async fn count(
        &self,
        from: &State,
        next: &State,
        mut compare: Vec<Compare>,
        mut success: Vec<RequestOp>,
    ) -> Result<Revision, CommitError> {
        compare.push(Compare::is(&self.keys.state, &from.write()));
        success.push(put(self.keys.state.clone(), next.write()));
        let txn = TxnRequest {
            compare,
            success,
            failure: vec![get(&self.keys.state)],
        };
        let patience = Patience::for_call();
        // An attempt was made, and nothing is known of it.
        let mut lost = None;
        loop {
            let answer: Result<TxnResponse, _> =
                self.client.attempt(TXN, txn.clone(), patience).await;
            let error = match answer {
                Ok(answer) => return self.counted(from, next, &answer, lost),
                Err(CallError::Refused(_, error)) => {
                    return Err(lost.map_or_else(|| error.into(), unknown));
                }
                Err(CallError::Lost(error)) => {
                    lost = Some(error);
                    None
                }
                Err(CallError::NotAsked(error)) => Some(error),
            };
            if !patience.pause().await {
                return Err(match (lost, error) {
                    (Some(lost), _) => unknown(lost),
                    (None, Some(error)) => error.into(),
                    (None, None) => CommitError::Conflict,
                });
            }
        }
    }

    /// Reads the answer to [`count`](Self::count).
    fn counted(
        &self,
        from: &State,
        next: &State,
        answer: &TxnResponse,
        lost: Option<EtcdError>,
    ) -> Result<Revision, CommitError> {
        if answer.succeeded {
            self.learn(next);
            return Ok(next.revision());
        }
        let found = answer.read(0).ok_or_else(|| self.gone())?;
        let found = State::read(&self.keys.state, &found.value)?;
        if found.commit == next.commit {
            // By an attempt before, or folded already by another process.
            self.learn(&found);
            return Ok(next.revision());
        }
        match lost {
            // Others have gone on from a state that this attempt may have led to.
            Some(lost) if found.revision() > next.revision() => Err(unknown(lost)),
            _ => {
                let follows = found.follows(&from.folded());
                follows.map_err(CommitError::from)?;
                Err(CommitError::Conflict)
            }
        }
    }

    /// A transaction that can never count and would write: etcd refuses it where it would refuse a change.
    async fn probe(&self) -> Result<State, EtcdError> {
        let txn = TxnRequest {
            compare: vec![Compare::never(&self.keys.state)],
            success: vec![put(self.keys.probe.clone(), Vec::new())],
            failure: vec![get(&self.keys.mark), get(&self.keys.state)],
        };
        let asking = self.client.ask(TXN, &txn, Patience::for_check());
        let answer: TxnResponse = asking.await?;
        let config = self.client.config();
        let (mark, state) = read_both(&self.keys, config, answer.read(0), answer.read(1))?
            .ok_or_else(|| self.gone())?;
        self.is_the_same(&mark)?;
        state.follows(&self.known())?;
        Ok(state)
    }
}

fn unknown(error: EtcdError) -> CommitError {
    CommitError::Unknown(BoxError::from(error))
}

/// Whether the writes fit into one transaction.
fn fits(writes: &[Write]) -> bool {
    let bytes: usize = writes.iter().map(large::cost).sum();
    writes.len() <= limits::TXN_WRITES && bytes <= limits::TXN_BYTES
}

/// The mark and the state; `None` where neither is there.
async fn read_head(
    client: &Client,
    keys: &Keys,
    patience: Patience,
) -> Result<Option<(Mark, Head)>, EtcdError> {
    let txn = TxnRequest {
        compare: Vec::new(),
        success: vec![get(&keys.mark), get(&keys.state)],
        failure: Vec::new(),
    };
    let answer: TxnResponse = client.ask(TXN, &txn, patience).await?;
    let both = read_both(keys, client.config(), answer.read(0), answer.read(1))?;
    let revision = answer.revision();
    Ok(both.map(|(mark, state)| (mark, Head { state, revision })))
}

fn read_both(
    keys: &Keys,
    config: &EtcdConfig,
    mark: Option<&KeyValue>,
    state: Option<&KeyValue>,
) -> Result<Option<(Mark, State)>, EtcdError> {
    match (mark, state) {
        (None, None) => Ok(None),
        (Some(mark), Some(state)) => {
            let mark = Mark::read(&keys.mark, &mark.value, config)?;
            Ok(Some((mark, State::read(&keys.state, &state.value)?)))
        }
        (None, Some(_)) => Err(EtcdError::NotOurs {
            prefix: keys.prefix().to_string(),
            key: String::from_utf8_lossy(&keys.state).into_owned(),
        }),
        (Some(mark), None) => {
            Mark::read(&keys.mark, &mark.value, config)?;
            Err(damaged(&keys.state))
        }
    }
}

/// Makes a new directory, below a prefix that holds nothing. Of several servers that do so at once, one does.
async fn create(client: &Client, keys: &Keys, missing: Missing) -> Result<(Mark, Head), EtcdError> {
    let prefix = keys.prefix().to_string();
    let first = RangeRequest {
        key: keys.prefix().as_bytes().to_vec(),
        range_end: end_of(keys.prefix().as_bytes()),
        limit: 1,
        keys_only: true,
        ..RangeRequest::default()
    };
    let found: RangeResponse = client.ask(RANGE, &first, Patience::for_call()).await?;
    let (mark_key, state_key) = (&keys.mark, &keys.state);
    // Another server may have been faster: then these two are there.
    let other = found.kvs.into_iter().map(|found| found.key);
    let mut other = other.filter(|key| !key.starts_with(mark_key));
    if let Some(key) = other.next() {
        let key = String::from_utf8_lossy(&key).into_owned();
        return Err(EtcdError::NotOurs { prefix, key });
    }
    if let Some(expected) = client.config().installation.clone() {
        return Err(EtcdError::Gone { prefix, expected });
    }
    if missing == Missing::Refuse {
        return Err(EtcdError::NoDirectory { prefix });
    }
    let (mark, state) = (Mark::new(random()), State::first());
    let txn = TxnRequest {
        compare: vec![Compare::is_absent(mark_key), Compare::is_absent(state_key)],
        success: vec![
            put(mark_key.clone(), mark.write()),
            put(state_key.clone(), state.write()),
        ],
        failure: Vec::new(),
    };
    let _: TxnResponse = client.ask(TXN, &txn, Patience::for_call()).await?;
    // By this attempt, by one that got no answer, or by another server.
    let found = read_head(client, keys, Patience::for_call()).await?;
    found.ok_or(EtcdError::NoDirectory { prefix })
}

#[async_trait]
impl Store for EtcdStore {
    async fn load(&self) -> Result<Contents, StoreError> {
        Ok(self.read_all().await?)
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        self.write(at, writes).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let state = self.probe().await?;
        let known = self.known();
        if state.parts > 0 && state.commit == known.commit {
            let now = self.fold(state).await?;
            if now.commit == known.commit {
                self.is_whole(&now)?;
            }
        }
        Ok(())
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        Ok(self.wait_beyond(after).await?)
    }
}
