//! The runs that an agent knows, and each as it is now.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use underpass_api::{OperationId, OperationRecord};

use crate::run::Asked;
use crate::stored::Stored;

#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) by_id: HashMap<OperationId, Arc<Run>>,
    /// The last [`Stored::sequence`].
    pub(crate) sequence: u64,
    pub(crate) is_stopping: bool,
}

/// A run, whether it has ended or not.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) now: watch::Sender<Stored>,
    pub(crate) asked: watch::Sender<Asked>,
    /// Bytes that its output may have on the disk; none once it has ended.
    output_limit: u64,
}

impl Run {
    pub(crate) fn new(stored: Stored, output_limit: u64) -> Arc<Self> {
        Arc::new(Self {
            now: watch::Sender::new(stored),
            asked: watch::Sender::new(Asked::Nothing),
            output_limit,
        })
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.now.borrow().record.has_ended()
    }

    /// Whether processes of it may be there.
    pub(crate) fn is_there(&self) -> bool {
        self.is_running() || self.now.borrow().remains
    }

    pub(crate) fn record(&self) -> OperationRecord {
        self.now.borrow().record.clone()
    }

    /// Bytes that it may still write.
    fn reserved(&self) -> u64 {
        let now = self.now.borrow();
        match now.record.has_ended() {
            true => 0,
            false => self.output_limit.saturating_sub(now.on_disk),
        }
    }

    /// The first to ask decides.
    pub(crate) fn ask(&self, wanted: Asked) {
        self.asked.send_if_modified(|asked| {
            let is_first = *asked == Asked::Nothing;
            if is_first {
                *asked = wanted;
            }
            is_first
        });
    }
}

impl Runs {
    pub(crate) fn next(&mut self) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }

    /// Bytes that all runs may still write.
    pub(crate) fn reserved(&self) -> u64 {
        let runs = self.by_id.values().map(|run| run.reserved());
        runs.fold(0, u64::saturating_add)
    }
}
