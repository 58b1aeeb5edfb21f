//! `/v1/clusters/{name}/nodes` and the operations of a node: also the words of a tunnel's stream to an agent's `operation` target
//! (PROTOCOL.md, "Operations"), which are lines of JSON.

use std::collections::BTreeMap;
use std::{fmt, str::FromStr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use underpass_core::Labels;

use crate::ProgramExit;

/// A run of an operation: its name in records, given by its caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(String);

/// Not the id of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an id has 1 to {most} letters, digits, '-' and '_', and begins with a letter or a digit",
    most = OperationId::BYTES
)]
pub struct BadOperationId;

impl OperationId {
    /// The longest one, in bytes. A UUID has 36.
    pub const BYTES: usize = 64;

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OperationId {
    type Err = BadOperationId;

    /// It is a file's name at the agent: no dots, no slashes.
    fn from_str(text: &str) -> Result<Self, BadOperationId> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        match begins && text.len() <= Self::BYTES && text.bytes().all(legal) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadOperationId),
        }
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for OperationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for OperationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// An operation to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OperationRequest {
    /// The run's id. The same id asked for again is the same run, and starts nothing.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: OperationId,
    /// The operation's name in the policy of the node's agent.
    pub operation: String,
    /// Values of its parameters. They are no secrets: records, audit logs and the node's process list show them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, String>,
    /// Whether the answer is the record alone, once the operation runs. `/v1` never waits for more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub detach: bool,
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// The command runs.
    Running,
    /// It exited with the status 0.
    Succeeded,
    /// It exited with another status, by a signal, or could not be started.
    Failed,
    /// The agent ended in its midst. It is never run again by itself.
    Interrupted,
    /// It was killed when its time was over.
    TimedOut,
    /// It was killed because a caller asked for that.
    Cancelled,
}

impl OperationState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bytes of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputBytes {
    /// Bytes that are kept.
    pub kept: u64,
    /// Bytes beyond the operation's limit, which are not kept.
    pub dropped: u64,
    /// Bytes that the agent's disk had no room for, or that it failed to write.
    pub lost: u64,
}

/// The record of a run, which the agent keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OperationRecord {
    /// The run's id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: OperationId,
    /// The operation's name.
    pub operation: String,
    /// The values of its parameters, as they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, String>,
    /// The name of the caller.
    pub user: String,
    /// The caller's uid, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// When the command was started.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub started: Option<OffsetDateTime>,
    /// When it ended, or when the agent found that it was interrupted.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub ended: Option<OffsetDateTime>,
    /// Its state.
    pub state: OperationState,
    /// How the command ended, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ProgramExit>,
    /// The reason of a state that needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its output.
    #[serde(default)]
    pub output: OutputBytes,
}

impl OperationRecord {
    /// Has it ended?
    pub fn has_ended(&self) -> bool {
        self.state != OperationState::Running
    }
}

/// One of a command's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputPiece {
    /// Its stream.
    pub stream: OutputStream,
    /// The place of its first byte in the kept output, of both streams together.
    pub offset: u64,
    /// Its bytes, in base64.
    #[serde(with = "in_base64")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub data: Vec<u8>,
}

pub(crate) mod in_base64 {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(data: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(data))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(de::Error::custom)
    }
}

/// A line of the answer about a run: its record first, its output, and its record again when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum OperationEvent {
    /// The record as it is now.
    Record(OperationRecord),
    /// Output.
    Output(OutputPiece),
    /// The agent cannot do what was asked, or cannot go on.
    Refused(OperationProblem),
}

/// A question to an agent, as a line of a stream to its `operation` target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum OperationQuestion {
    /// Run an operation, or attach to a run of this id.
    Run(OperationRequest),
    /// Every record.
    List {},
    /// One record.
    Read {
        /// The run.
        id: OperationId,
    },
    /// The output of a run.
    Output {
        /// The run.
        id: OperationId,
        /// The first byte of interest.
        #[serde(default)]
        from: u64,
        /// Whether to wait for output that is to come.
        #[serde(default)]
        follow: bool,
    },
    /// Kill a run.
    Cancel {
        /// The run.
        id: OperationId,
    },
}

/// Why an agent does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[error("{detail}")]
pub struct OperationProblem {
    /// The reason, for programs.
    pub reason: OperationRefusal,
    /// The same for people.
    pub detail: String,
    /// The parameter with the mistake, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationRefusal {
    /// The question cannot be read.
    Malformed,
    /// The node's policy has no such operation.
    UnknownOperation,
    /// The node's policy has it for others.
    Forbidden,
    /// An argument is missing, unknown, or not as its parameter wants it.
    WrongArguments,
    /// The id is that of another run.
    Conflict,
    /// The operation runs already, and the policy allows one run at a time.
    Busy,
    /// The node runs as many operations as it may.
    Overloaded,
    /// The node cannot run it as its policy says: no such command, user or directory, or no right to switch to the user.
    Unusable,
    /// The node's disk is full, or fails: nothing was run.
    Storage,
    /// There is no such record.
    NotFound,
    /// The run has ended already.
    Ended,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

/// A part of a run's output, and the run as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputPage {
    /// The record.
    pub record: OperationRecord,
    /// Output from the byte that was asked for on.
    pub pieces: Vec<OutputPiece>,
    /// The byte to ask for next.
    pub next: u64,
    /// Whether the run has ended, and this is the last of its output.
    pub is_last: bool,
}

/// Every record that an agent was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationList {
    /// The newest first.
    pub items: Vec<OperationRecord>,
}

/// Every node whose agent is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeList {
    /// By name.
    pub items: Vec<NodeView>,
}

/// A node whose agent is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// The node's name; the agent's id where the agent has joined without a name.
    pub name: String,
    /// The agent's id.
    pub agent: String,
    /// Name and version of the agent's software.
    pub software: String,
    /// The protocol that carries its session.
    pub transport: String,
    /// Since when it is connected: the beginning of its oldest session.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// The labels that the agent has joined with.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub labels: Labels,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_17_an_id_is_no_path() {
        for good in ["a", "7f9c-1_b", "f47ac10b-58cc-4372-a567-0e02b2c3d479"] {
            assert_eq!(good.parse::<OperationId>().unwrap().as_str(), good);
        }
        let long = "a".repeat(OperationId::BYTES + 1);
        for bad in [
            "", ".", "..", "a.b", "a/b", "-a", "_a", "a b", "ä", "a\n", &long,
        ] {
            assert_eq!(bad.parse::<OperationId>(), Err(BadOperationId), "{bad:?}");
        }
    }

    #[test]
    fn lines_are_as_the_protocol_has_them() {
        let line = r#"{"run":{"id":"1","operation":"backup","arguments":{"file":"a"}}}"#;
        let question: OperationQuestion = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&question).unwrap(), line);
        for (question, line) in [
            (OperationQuestion::List {}, r#"{"list":{}}"#),
            (
                OperationQuestion::Cancel {
                    id: "1".parse().unwrap(),
                },
                r#"{"cancel":{"id":"1"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&question).unwrap(), line);
            assert_eq!(
                serde_json::from_str::<OperationQuestion>(line).unwrap(),
                question
            );
        }
        for bad in [
            r#"{"run":{"id":"../x","operation":"a"}}"#,
            r#"{"run":{"id":"1","operation":"a","shell":"sh"}}"#,
            r#"{"output":{"id":"1","form":1}}"#,
            r#"{"list":{},"cancel":{"id":"1"}}"#,
        ] {
            assert!(
                serde_json::from_str::<OperationQuestion>(bad).is_err(),
                "{bad}"
            );
        }
        let piece = OperationEvent::Output(OutputPiece {
            stream: OutputStream::Stderr,
            offset: 3,
            data: vec![0, 255],
        });
        let line = r#"{"output":{"stream":"stderr","offset":3,"data":"AP8="}}"#;
        assert_eq!(serde_json::to_string(&piece).unwrap(), line);
        assert_eq!(serde_json::from_str::<OperationEvent>(line).unwrap(), piece);
        let newer = r#"{"reason":"tired","detail":"no"}"#;
        let newer: OperationProblem = serde_json::from_str(newer).unwrap();
        assert_eq!(newer.reason, OperationRefusal::Other);
    }
}
