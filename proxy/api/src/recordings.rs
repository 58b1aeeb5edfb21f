//! Recordings of shells: as people see them, and as agents send them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{ShellId, ShellKind};

use crate::operations::in_base64;
use crate::{ShellEnd, ShellProblem, TerminalSize};

/// How a shell is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShellRecording {
    /// Whether the shell waits where its recording does not go on, and ends [`wait_seconds`](Self::wait_seconds) later.
    pub required: bool,
    /// Whether input is recorded as well.
    #[serde(default)]
    pub input: bool,
    /// How long such a shell waits.
    #[serde(default)]
    pub wait_seconds: u64,
}

/// A place in what is recorded of a shell: so many bytes of output, and of input, come before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingPlace {
    /// Bytes of output.
    #[serde(default)]
    pub output: u64,
    /// Bytes of input.
    #[serde(default)]
    pub input: u64,
}

impl RecordingPlace {
    /// Is it behind nothing?
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// A line of the recorder's, behind its question: how much it has written down, and whether the shell has to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecorderWord {
    /// Everything before this place is written down.
    #[serde(flatten)]
    pub had: RecordingPlace,
    /// Why the shell has to end at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<RecordingFault>,
}

/// Why a shell has to end that has to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RecordingFault {
    /// There is no room for more of it: on the disk, or beside other recordings.
    Full,
    /// The recording has the size that one may have.
    TooLarge,
    /// The shell was opened before recordings were required.
    NotRequired,
    /// The recording cannot be written, or a fault that this version does not know.
    #[serde(other)]
    Unwritable,
}

/// A line of an agent's answer to [`ShellQuestion::Record`](crate::ShellQuestion::Record). Times are milliseconds since the shell's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordingEvent {
    /// The recording goes on at this place, which is the one that was asked for, or the first one that is kept behind it. This comes first.
    Begun {
        /// The place.
        at: RecordingPlace,
        /// The time.
        ms: u64,
    },
    /// The next bytes of output.
    Output {
        /// When the agent had them.
        ms: u64,
        /// The bytes, in base64.
        #[serde(with = "in_base64")]
        data: Vec<u8>,
    },
    /// The next bytes of input.
    Input {
        /// When the shell's terminal took them.
        ms: u64,
        /// The bytes, in base64.
        #[serde(with = "in_base64")]
        data: Vec<u8>,
    },
    /// The terminal has this size from here on.
    Resized {
        /// Since when.
        ms: u64,
        /// The size.
        size: TerminalSize,
    },
    /// The shell has ended, and everything was sent.
    Ended {
        /// When.
        ms: u64,
        /// How.
        end: ShellEnd,
    },
    /// There is no such shell.
    Refused(ShellProblem),
}

/// A recording, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RecordingView {
    /// The id of its shell.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: ShellId,
    /// The kind of its shell.
    pub kind: ShellKind,
    /// The name of the shell's user.
    pub user: String,
    /// The shell's place: `cluster:NAME`, or `node:CLUSTER/NAME`.
    pub place: String,
    /// When the shell was opened, by its agent's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// When the recording began, by the server's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub begun: OffsetDateTime,
    /// Milliseconds from there to the last event.
    pub milliseconds: u64,
    /// The file's size.
    pub bytes: u64,
    /// Whether input is recorded as well.
    pub input: bool,
    /// Bytes of output and of input that were not recorded.
    #[serde(default)]
    pub missing: u64,
    /// The end of the shell, where its recording has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ShellEnd>,
    /// The SHA-256 of the file when it was finished, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether the file is as it was then.
    pub state: RecordingState,
}

/// The state of a recording's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RecordingState {
    /// It is being written.
    Recording,
    /// It has the hash that it had when it was finished.
    Intact,
    /// It has another one, or is gone.
    Changed,
    /// It was not looked at for this answer, since others were: ask for fewer.
    Unchecked,
    /// A state that this version does not know.
    #[serde(other)]
    Other,
}

impl RecordingState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Intact => "intact",
            Self::Changed => "CHANGED",
            Self::Unchecked => "unchecked",
            Self::Other => "unknown",
        }
    }
}

/// Recordings of a cluster's shells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RecordingList {
    /// Those that began last come first, by the server's clock.
    pub items: Vec<RecordingView>,
    /// The value of `after` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_the_protocol_has_them() {
        for text in [
            r#"{"begun":{"at":{"output":1,"input":0},"ms":5}}"#,
            r#"{"output":{"ms":5,"data":"/wA="}}"#,
            r#"{"input":{"ms":5,"data":"bHM="}}"#,
            r#"{"resized":{"ms":5,"size":{"Width":80,"Height":24}}}"#,
            r#"{"ended":{"ms":5,"end":{"exit":{"status":3},"cause":"its program ended","byItself":true}}}"#,
        ] {
            let event: RecordingEvent = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
        serde_json::from_str::<RecordingEvent>(r#"{"output":{"ms":5,"data":"?"}}"#).unwrap_err();
        for text in [
            r#"{"output":1,"input":2}"#,
            r#"{"output":1,"input":0,"end":"too-large"}"#,
        ] {
            let word: RecorderWord = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&word).unwrap(), text);
        }
        let newer: RecorderWord = serde_json::from_str(r#"{"end":"of-another-kind"}"#).unwrap();
        assert_eq!(newer.end, Some(RecordingFault::Unwritable));
    }
}
