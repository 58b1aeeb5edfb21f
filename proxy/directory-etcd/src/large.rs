//! Changes that are more than etcd takes in one transaction: of a cluster with thousands of agents, or of the uses of many tokens.
//!
//! The writes are put beside the objects first, in parts that nothing reads. One transaction makes them count: it names the change
//! in the state, provided that all parts are there. From then on a reading puts the parts' writes over the objects. The next writer moves
//! them there, in as many transactions as it takes, each of which compares the state, and then removes the parts. A process
//! that stops at any of these steps leaves a directory with the whole change or without it; moving the same writes twice changes nothing.

use prost::Message as _;
use underpass_directory::{CommitError, ObjectKind, Revision, Write};

use crate::client::Patience;
use crate::error::EtcdError;
use crate::limits;
use crate::state::State;
use crate::store::EtcdStore;
use crate::wire::{
    Compare, DELETE_RANGE, DeleteRangeRequest, Done, PUT, PutRequest, TXN, TxnRequest, TxnResponse,
    delete_all, end_of, put,
};

/// Writes of one change, as a value.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Part {
    #[prost(message, repeated, tag = "1")]
    writes: Vec<PartWrite>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartWrite {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "3")]
    value: Option<Vec<u8>>,
}

impl Part {
    fn of(writes: &[Write]) -> Self {
        let write = |write: &Write| PartWrite {
            kind: write.key.0.as_str().to_owned(),
            name: write.key.1.clone(),
            value: write.value.clone(),
        };
        let writes = writes.iter().map(write).collect();
        Self { writes }
    }

    /// `None` where one is of a kind that this version does not know.
    pub(crate) fn into_writes(self) -> Option<Vec<Write>> {
        let write = |PartWrite { kind, name, value }| {
            let kind = ObjectKind::from_name(&kind)?;
            let key = (kind, name);
            Some(Write { key, value })
        };
        self.writes.into_iter().map(write).collect()
    }
}

/// A write's bytes in a request, at most.
pub(crate) fn cost(write: &Write) -> usize {
    let value = write.value.as_ref().map_or(0, Vec::len);
    let key = write.key.0.as_str().len() + write.key.1.len() + limits::PREFIX_BYTES;
    value + key + limits::WRITE_OVERHEAD
}

/// Cuts writes into pieces of so many writes at most, and of the bytes of one transaction.
fn pieces(writes: &[Write], most: usize) -> Result<Vec<&[Write]>, EtcdError> {
    let mut pieces = Vec::new();
    let mut rest = writes;
    while !rest.is_empty() {
        let mut bytes = 0_usize;
        let fitting = rest.iter().take(most).take_while(|write| {
            bytes = bytes.saturating_add(cost(write));
            bytes <= limits::TXN_BYTES
        });
        let (piece, more) = rest.split_at(fitting.count());
        if piece.is_empty() {
            let bytes = rest.first().map_or(0, cost);
            return Err(EtcdError::TooLarge { bytes });
        }
        pieces.push(piece);
        rest = more;
    }
    Ok(pieces)
}

impl EtcdStore {
    /// Makes a change in parts.
    pub(crate) async fn write_large(
        &self,
        from: &State,
        commit: String,
        writes: &[Write],
    ) -> Result<Revision, CommitError> {
        let parts = pieces(writes, usize::MAX)?;
        if parts.len() > limits::PARTS {
            let bytes = writes.iter().map(cost).sum();
            return Err(EtcdError::TooLarge { bytes }.into());
        }
        let mut there = Vec::with_capacity(parts.len());
        for (number, piece) in parts.iter().enumerate() {
            let key = self.keys.part(&commit, number);
            there.push(Compare::exists(&key));
            let value = Part::of(piece).encode_to_vec();
            let put = PutRequest { key, value };
            let putting = self.client.ask(PUT, &put, Patience::for_page());
            if let Err(error) = putting.await.map(|_: Done| ()) {
                self.forget(&commit).await;
                return Err(EtcdError::from(error).into());
            }
        }
        let next = from.next(commit.clone(), parts.len());
        let counted = self.count(from, &next, there, Vec::new()).await;
        // After any other error it may count.
        if matches!(counted, Err(CommitError::Conflict)) {
            self.forget(&commit).await;
        }
        counted
    }

    /// Removes the parts of a change that does not count. Parts that stay are removed with the parts of the next one that does.
    async fn forget(&self, commit: &str) {
        let prefix = self.keys.parts_of(commit);
        let range_end = end_of(&prefix);
        let delete = DeleteRangeRequest {
            key: prefix,
            range_end,
        };
        let asking = self
            .client
            .ask::<_, Done>(DELETE_RANGE, &delete, Patience::for_check());
        if asking.await.is_err() {
            tracing::debug!("parts of a change that does not count stay in etcd for now");
        }
    }

    /// Moves the parts of the last change among the objects. Gives the state that the directory has then, which is another one
    /// where another process has gone on meanwhile.
    pub(crate) async fn fold(&self, state: State) -> Result<State, EtcdError> {
        let Some(writes) = self.parts(&state).await? else {
            return self.state_now().await;
        };
        for piece in pieces(&writes, limits::TXN_WRITES)? {
            let operations = piece.iter().cloned();
            let operations = operations.map(|write| self.operation(write, state.revision()));
            if !self.move_on(&state, operations.collect()).await? {
                return self.state_now().await;
            }
        }
        let folded = state.folded();
        let end = vec![
            put(self.keys.state.clone(), folded.write()),
            delete_all(&self.keys.parts),
        ];
        match self.move_on(&state, end).await? {
            true => {
                self.learn(&folded);
                Ok(folded)
            }
            false => self.state_now().await,
        }
    }

    /// Makes these changes while the directory is in this state; false where it is not, or was not the second time.
    async fn move_on(
        &self,
        state: &State,
        success: Vec<crate::wire::RequestOp>,
    ) -> Result<bool, EtcdError> {
        let txn = TxnRequest {
            compare: vec![Compare::is(&self.keys.state, &state.write())],
            success,
            failure: Vec::new(),
        };
        let asking = self.client.ask(TXN, &txn, Patience::for_call());
        let answer: TxnResponse = asking.await?;
        Ok(answer.succeeded)
    }

    async fn state_now(&self) -> Result<State, EtcdError> {
        let state = self.head(Patience::for_call()).await?.state;
        // Of the same change: nothing that this process does not know.
        if state.commit == self.known().commit {
            self.learn(&state);
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, bytes: usize) -> Write {
        Write {
            key: (ObjectKind::Group, name.to_owned()),
            value: Some(vec![b'x'; bytes]),
        }
    }

    #[test]
    fn pieces_hold_everything_in_order_and_within_the_bounds() {
        let writes: Vec<_> = (0..1000)
            .map(|number| write(&format!("g{number}"), number * 40))
            .collect();
        for most in [1, 120, usize::MAX] {
            let pieces = pieces(&writes, most).unwrap();
            assert_eq!(pieces.concat(), writes);
            for piece in pieces {
                assert!(!piece.is_empty() && piece.len() <= most);
                let bytes: usize = piece.iter().map(cost).sum();
                assert!(bytes <= limits::TXN_BYTES, "{bytes}");
            }
        }
    }

    #[test]
    fn a_part_is_read_as_it_was_written() {
        let mut writes = vec![write("a/b", 3), write("", 0)];
        writes.push(Write {
            key: (ObjectKind::TokenUse, "gone".to_owned()),
            value: None,
        });
        let bytes = Part::of(&writes).encode_to_vec();
        let read = Part::decode(&*bytes).unwrap().into_writes();
        assert_eq!(read, Some(writes));
    }

    #[test]
    fn an_object_that_no_request_holds_is_refused() {
        let writes = [write("a", 1), write("b", limits::TXN_BYTES)];
        let error = pieces(&writes, 10).unwrap_err();
        assert!(matches!(error, EtcdError::TooLarge { .. }));
    }
}
