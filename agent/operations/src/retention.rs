//! The removal of old records.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use underpass_api::OperationId;

use crate::limits;
use crate::shared::Shared;
use crate::stored::Stored;

/// How much is kept. Runs that have not ended are kept in any case, and so is the run that has ended last.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Records. An id is forgotten by this alone: no clock decides about it.
    pub records: usize,
    /// Time since its end for which the output of a run is kept.
    pub age: Duration,
    /// Bytes of output on the disk, of all records.
    pub output_bytes: u64,
    /// Bytes of the disk that are left free, beside the output limits of runs.
    pub room: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            records: limits::RECORDS,
            age: limits::OUTPUT_AGE,
            output_bytes: limits::OUTPUT_BYTES,
            room: limits::ROOM,
        }
    }
}

/// Runs of which something is too old.
#[derive(Debug, Default)]
struct Old {
    records: Vec<OperationId>,
    outputs: Vec<OperationId>,
}

impl Shared {
    /// Removes the oldest records, and the oldest output, beyond what is kept.
    pub(crate) async fn remove_old(self: &Arc<Self>) {
        let _one = self.removing.lock().await;
        let old = self.old(OffsetDateTime::now_utc());
        let this = Arc::clone(self);
        let removing = tokio::task::spawn_blocking(move || {
            // While the index has them, no other run takes their names.
            old.records.iter().for_each(|id| this.store.remove(id));
            let outputs = old.outputs.iter();
            outputs.for_each(|id| this.store.remove_output(id));
            old
        });
        let Ok(removed) = removing.await else {
            return;
        };
        let mut runs = self.lock();
        for id in removed.records {
            runs.by_id.remove(&id);
        }
        for id in removed.outputs {
            if let Some(run) = runs.by_id.get(&id) {
                run.now.send_modify(Stored::forget_output);
            }
        }
    }

    fn old(&self, now: OffsetDateTime) -> Old {
        let runs = self.lock();
        let mut ended: Vec<_> = runs
            .by_id
            .iter()
            .filter_map(|(id, run)| {
                let stored = run.now.borrow();
                let end = stored.record.ended.filter(|_| !stored.remains)?;
                Some((stored.sequence, end, stored.on_disk, id.clone()))
            })
            .collect();
        drop(runs);
        // The newest first: the rest is too much.
        ended.sort_by_key(|(sequence, ..)| std::cmp::Reverse(*sequence));
        let mut bytes: u64 = 0;
        let mut old = Old::default();
        for (number, (_, end, on_disk, id)) in ended.into_iter().enumerate() {
            bytes = bytes.saturating_add(on_disk);
            let is_too_much = bytes > self.retention.output_bytes || now - end > self.retention.age;
            match number {
                // Its caller has yet to see it.
                0 => {}
                _ if number >= self.retention.records => old.records.push(id),
                _ if on_disk > 0 && is_too_much => old.outputs.push(id),
                _ => {}
            }
        }
        old
    }
}
