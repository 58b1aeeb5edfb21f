//! The story of a run, for callers: its record, its output, its end.

use tokio::sync::watch;
use underpass_api::{OperationEvent, OperationRecord};

use crate::error::RecordError;
use crate::output::Reader;
use crate::store::Store;
use std::sync::Arc;

/// A run as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) record: OperationRecord,
    /// How far the file of its output can be read.
    pub(crate) readable: u64,
}

/// Tells of a run: its record, its output from some byte on, and its record again. A slow reader costs a file that is open, and a
/// reader that goes away costs the run nothing.
#[derive(Debug)]
pub struct Follower {
    store: Arc<Store>,
    now: watch::Receiver<Snapshot>,
    from: u64,
    waits: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Begin,
    /// The file is opened once there is something in it.
    Output(Option<Reader>),
    Over,
}

impl Follower {
    pub(crate) fn new(
        store: Arc<Store>,
        now: watch::Receiver<Snapshot>,
        from: u64,
        waits: bool,
    ) -> Self {
        Self {
            store,
            now,
            from,
            waits,
            state: State::Begin,
        }
    }

    /// The record as it is now.
    pub fn record(&self) -> OperationRecord {
        self.now.borrow().record.clone()
    }

    /// The next event; `None` behind the last one, which is a record.
    ///
    /// # Errors
    /// The output cannot be read.
    ///
    /// # Cancel safety
    /// Not cancel safe: a piece of output may be lost.
    pub async fn next(&mut self) -> Result<Option<OperationEvent>, RecordError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Begin => {
                self.state = State::Output(None);
                Ok(Some(OperationEvent::Record(self.record())))
            }
            State::Output(reader) => self.output(reader).await.map(Some),
            State::Over => Ok(None),
        }
    }

    async fn output(&mut self, mut reader: Option<Reader>) -> Result<OperationEvent, RecordError> {
        loop {
            let Snapshot { record, readable } = self.now.borrow_and_update().clone();
            if readable > 0 {
                let (store, from) = (Arc::clone(&self.store), self.from);
                let (id, opened) = (record.id.clone(), reader.take());
                let read = tokio::task::spawn_blocking(move || {
                    let mut reader = match opened {
                        Some(reader) => reader,
                        None => Reader::open(&store.output(&id))?,
                    };
                    let piece = reader.next(from, readable)?;
                    Ok((reader, piece))
                });
                let read = read
                    .await
                    .unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
                let (same, piece) = read.map_err(|source| RecordError::Output {
                    id: record.id.clone(),
                    source,
                })?;
                if let Some(piece) = piece {
                    self.state = State::Output(Some(same));
                    return Ok(OperationEvent::Output(piece));
                }
                reader = Some(same);
            }
            let is_over = record.has_ended() || !self.waits;
            // The agent forgets a run only once it has ended.
            if is_over || self.now.changed().await.is_err() {
                return Ok(OperationEvent::Record(record));
            }
        }
    }
}
