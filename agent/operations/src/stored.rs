//! A run's record, and what this agent alone knows of it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_api::{OperationRecord, OperationState};

/// The content of a record's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    #[serde(flatten)]
    pub(crate) record: OperationRecord,
    /// The number of its end among those of all runs, which needs no clock: 0 until it has ended.
    #[serde(default)]
    pub(crate) sequence: u64,
    /// Bytes of its output's files.
    #[serde(default)]
    pub(crate) on_disk: u64,
    /// Whether processes of it may still be there, although it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) remains: bool,
}

impl Stored {
    pub(crate) fn new(record: OperationRecord) -> Self {
        Self {
            record,
            sequence: 0,
            on_disk: 0,
            remains: false,
        }
    }

    /// Nobody saw its end.
    pub(crate) fn interrupt(&mut self) {
        self.record.state = OperationState::Interrupted;
        self.record.ended = Some(OffsetDateTime::now_utc());
        self.add_reason(
            "the agent died in its midst: whether the command has done its work is not known",
        );
    }

    /// Its output was removed.
    pub(crate) fn forget_output(&mut self) {
        self.on_disk = 0;
        let output = &mut self.record.output;
        output.dropped = output.dropped.saturating_add(output.kept);
        if std::mem::take(&mut output.kept) > 0 {
            self.add_reason("its output is not kept any more");
        }
    }

    /// No more than so many bytes of its output are on the disk.
    pub(crate) fn cut_output(&mut self, there: u64) {
        let output = &mut self.record.output;
        let lost = output.kept.saturating_sub(there);
        if lost > 0 {
            output.kept = there;
            output.lost = output.lost.saturating_add(lost);
            self.add_reason("the end of its output is missing on the node's disk");
        }
    }

    fn add_reason(&mut self, reason: &str) {
        let earlier = self.record.reason.take();
        self.record.reason = Some(match earlier {
            Some(earlier) => format!("{earlier}; {reason}"),
            None => reason.to_owned(),
        });
    }
}
