//! The story of a run, for callers: its record, its output, its end.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use underpass_api::{OperationEvent, OperationRecord, OutputPiece};

use crate::error::RecordError;
use crate::output::Reader;
use crate::store::Store;
use crate::stored::Stored;

/// Tells of a run: its record, its output from some byte on, and its record again. A slow reader costs a file that is open, and a
/// reader that goes away costs the run nothing.
#[derive(Debug)]
pub struct Follower {
    store: Arc<Store>,
    now: watch::Receiver<Stored>,
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
        now: watch::Receiver<Stored>,
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
            let record = self.now.borrow_and_update().record.clone();
            if record.output.kept > self.from {
                let (same, piece) = self.piece(&record, reader.take()).await.map_err(|source| {
                    let id = record.id.clone();
                    RecordError::Output { id, source }
                })?;
                if let Some(piece) = piece {
                    let length = u64::try_from(piece.data.len()).unwrap_or(u64::MAX);
                    self.from = self.from.saturating_add(length);
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

    async fn piece(
        &self,
        record: &OperationRecord,
        reader: Option<Reader>,
    ) -> io::Result<(Reader, Option<OutputPiece>)> {
        let readers = Arc::clone(self.store.readers());
        let permit = readers.acquire_owned().await.map_err(io::Error::other)?;
        let store = Arc::clone(&self.store);
        let (id, from, kept) = (record.id.clone(), self.from, record.output.kept);
        let reading = tokio::task::spawn_blocking(move || {
            // Also where the caller goes away: the thread is there until the disk answers.
            let _permit = permit;
            let reader = match reader {
                Some(reader) => reader,
                None => store.read_output(&id)?,
            };
            let piece = reader.at(from, kept)?;
            Ok((reader, piece))
        });
        reading
            .await
            .unwrap_or_else(|gone| Err(io::Error::other(gone)))
    }
}
