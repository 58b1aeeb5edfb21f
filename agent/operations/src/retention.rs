//! The removal of old records.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use underpass_api::OperationId;

use crate::{Shared, limits};

/// How much is kept. Runs that have not ended are kept in any case.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Records.
    pub records: usize,
    /// Time since their end.
    pub age: Duration,
    /// Bytes of output on the disk, of all records.
    pub output_bytes: u64,
    /// Bytes of the disk that are left free, beside the output limit of a run that begins.
    pub room: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            records: limits::RECORDS,
            age: limits::RECORD_AGE,
            output_bytes: limits::OUTPUT_BYTES,
            room: limits::ROOM,
        }
    }
}

impl Shared {
    /// Removes the oldest records beyond what is kept.
    pub(crate) async fn remove_old(self: &Arc<Self>) {
        let _one = self.removing.lock().await;
        let old = self.old(OffsetDateTime::now_utc());
        if old.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        let removing = tokio::task::spawn_blocking(move || {
            // While the index has them, no other run takes their names.
            old.iter().for_each(|id| this.store.remove(id));
            old
        });
        if let Ok(removed) = removing.await {
            let mut runs = self.lock();
            for id in removed {
                runs.by_id.remove(&id);
            }
        }
    }

    fn old(&self, now: OffsetDateTime) -> Vec<OperationId> {
        let runs = self.lock();
        let mut ended: Vec<_> = runs
            .by_id
            .iter()
            .filter_map(|(id, run)| {
                let now = run.now.borrow();
                let end = now.record.ended?;
                Some((end, now.readable, id.clone()))
            })
            .collect();
        drop(runs);
        // The newest first: the rest is too much.
        ended.sort_by_key(|(end, ..)| std::cmp::Reverse(*end));
        let mut bytes: u64 = 0;
        let mut old = Vec::new();
        for (number, (end, readable, id)) in ended.into_iter().enumerate() {
            bytes = bytes.saturating_add(readable);
            let kept = number < self.retention.records
                && bytes <= self.retention.output_bytes
                && now - end <= self.retention.age;
            if !kept {
                old.push(id);
            }
        }
        old
    }
}
