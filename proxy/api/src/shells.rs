//! `/v1/clusters/{name}/shells` and `/v1/clusters/{name}/nodes/{node}/shells`: also the words of a tunnel's streams to an agent's `shell`
//! targets (PROTOCOL.md, "Shells").

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{Permission, ShellId, ShellKind};

use crate::{ProgramExit, RecordingPlace, ShellRecording};

/// The subprotocol of existing terminal front ends (KEP-4006): binary messages, whose first byte is a channel.
pub const CHANNEL_PROTOCOL: &str = "v5.channel.k8s.io";

/// The same with [`ShellChannel::Events`]: a client that asks for it is told of more than output, and can come back at a byte.
pub const SHELL_PROTOCOL: &str = "v1.shell.underpass.dev";

/// The first byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ShellChannel {
    /// Input.
    Stdin = 0,
    /// Output.
    Stdout = 1,
    /// Output to stderr, of a command in a pod that has no terminal. A shell has none of it.
    Stderr = 2,
    /// The end, as a Kubernetes Status.
    Error = 3,
    /// The size of the viewer's terminal: `{"Width":80,"Height":24}`.
    Resize = 4,
    /// A [`ShellEvent`] of the agent's, or a [`ViewerRequest`], of [`SHELL_PROTOCOL`] alone.
    Events = 128,
    /// The channel in the next byte has ended.
    Close = 255,
}

impl ShellChannel {
    /// The channel of this number, where there is one.
    pub fn read(number: u8) -> Option<Self> {
        let all = [
            Self::Stdin,
            Self::Stdout,
            Self::Stderr,
            Self::Error,
            Self::Resize,
            Self::Events,
            Self::Close,
        ];
        all.into_iter().find(|channel| *channel as u8 == number)
    }

    /// A message on this channel.
    pub fn message(self, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(payload.len().saturating_add(1));
        message.push(self as u8);
        message.extend_from_slice(payload);
        message
    }
}

/// The size of a terminal, on [`ShellChannel::Resize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Its columns.
    #[serde(rename = "Width")]
    pub columns: u16,
    /// Its rows.
    #[serde(rename = "Height")]
    pub rows: u16,
}

/// A shell to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShellRequest {
    /// Its kind.
    #[serde(default)]
    pub kind: ShellKind,
    /// Columns of its terminal; 0 where they are not known.
    #[serde(default)]
    pub columns: u16,
    /// Rows of its terminal; 0 where they are not known.
    #[serde(default)]
    pub rows: u16,
    /// The kind of its terminal: the variable `TERM`.
    #[serde(default = "usual_term")]
    pub term: String,
    /// A program and its arguments, in the place of those that the agent's policy names, which has to allow it. Empty for the policy's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// The words of a shell's command, which the audit log has whole.
const COMMAND_WORDS: usize = 32;

/// Their bytes together.
const COMMAND_BYTES: usize = 2048;

/// Not the command of a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the command of a shell has {COMMAND_WORDS} words at the most, {COMMAND_BYTES} bytes together, a program first, and no NUL: \
     put a longer one into a script"
)]
pub struct BadShellCommand;

impl ShellRequest {
    /// May these be the words of a command? None are.
    ///
    /// # Errors
    /// They are too many, or too long, or no words.
    pub fn check_command(words: &[String]) -> Result<(), BadShellCommand> {
        let bytes = words.iter().map(String::len);
        let is_good = words.len() <= COMMAND_WORDS
            && bytes.fold(0, usize::saturating_add) <= COMMAND_BYTES
            && words.first().is_none_or(|program| !program.is_empty())
            && !words.iter().any(|word| word.contains('\0'));
        is_good.then_some(()).ok_or(BadShellCommand)
    }
}

/// The kind of terminal that web front ends have.
fn usual_term() -> String {
    "xterm-256color".to_owned()
}

/// A shell, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShellView {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: ShellId,
    /// Its kind.
    pub kind: ShellKind,
    /// The name of its user.
    pub user: String,
    /// When it was opened.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Columns of its terminal.
    pub columns: u16,
    /// Rows of its terminal.
    pub rows: u16,
    /// Bytes that its program has written.
    pub output: u64,
    /// Viewers that are attached.
    pub viewers: u64,
    /// Protections that it lacks, as its agent's policy allows, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// How it is recorded, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<ShellRecording>,
    /// Its end, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ShellEnd>,
}

/// The shells of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShellList {
    /// The newest first.
    pub items: Vec<ShellView>,
}

/// The end of a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShellEnd {
    /// How its program ended; nothing where the system did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ProgramExit>,
    /// Why, in words.
    pub cause: String,
    /// Whether its program ended by itself.
    pub by_itself: bool,
}

/// A question to an agent, as the first line of a stream to a `shell` target. The target says of which kind the shells are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ShellQuestion {
    /// Open a shell. The stream stays open behind the answer for as long as the shell lives: see [`ShellAnswer`].
    Open {
        /// The shell.
        shell: ShellRequest,
        /// The permissions of a shell of the kind `kubectl` at the API server: those that its caller has here.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        api: Vec<Permission>,
        /// How it is recorded from its beginning, where it is: the recorder asks by [`ShellQuestion::Record`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recording: Option<ShellRecording>,
    },
    /// Send what a shell's program writes, from a place on, as [`RecordingEvent`](crate::RecordingEvent)s. The recorder says on the same stream
    /// how far it has written them down: each a line with a [`RecorderWord`](crate::RecorderWord).
    Record {
        /// The shell.
        id: ShellId,
        /// The place.
        had: RecordingPlace,
    },
    /// Keep the stream open for as long as a shell lives, as behind the answer to [`ShellQuestion::Open`].
    Keep {
        /// The shell.
        id: ShellId,
        /// As in [`ShellQuestion::Open`]: from now on the shell may ask for no more than this, and gets nothing that it did not have.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        api: Vec<Permission>,
    },
    /// The caller's shells.
    List {},
    /// One of them.
    Read {
        /// The shell.
        id: ShellId,
    },
    /// End one of them.
    End {
        /// The shell.
        id: ShellId,
    },
}

/// A line of an answer. Behind the first one to [`ShellQuestion::Open`] and [`ShellQuestion::Keep`] there is one more, once the shell has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShellAnswer {
    /// A shell.
    Shell(ShellView),
    /// The agent does not do what was asked.
    Refused(ShellProblem),
}

/// Why an agent does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{detail}")]
pub struct ShellProblem {
    /// The reason, for programs.
    pub reason: ShellRefusal,
    /// The same for people.
    pub detail: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ShellRefusal {
    /// The question cannot be read.
    Malformed,
    /// The agent's policy does not allow the shell.
    Forbidden,
    /// The caller has no such shell.
    NotFound,
    /// There are as many shells as the agent's policy allows.
    TooMany,
    /// A protection that the agent's policy asks for is missing.
    Unprotected,
    /// The shell cannot be started: its program or its directory is missing, or the node lacks something.
    Unusable,
    /// The agent is stopping.
    Stopping,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

/// An event of a shell, on [`ShellChannel::Events`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShellEvent {
    /// The viewer is attached. This comes first.
    #[serde(rename_all = "camelCase")]
    Attached {
        /// The number of the next byte of output.
        at: u64,
        /// The size of the shell's terminal.
        size: TerminalSize,
        /// How many bytes of the output that follows show the screen as it is: they have no numbers.
        redraw: u64,
        /// Whether this viewer writes.
        writes: bool,
    },
    /// The terminal has another size from here on.
    Resized(TerminalSize),
    /// Another viewer writes from now on.
    TakenOver {},
    /// This viewer took nothing for too long. It is the last event; the shell goes on.
    Dismissed {},
    /// The shell has ended. A Status follows.
    Ended(ShellEnd),
}

/// A request of a viewer, on [`ShellChannel::Events`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ViewerRequest {
    /// Write to the shell from now on.
    TakeOver {},
}

/// How a viewer attaches: the query of the request for its WebSocket, as in `columns=80&rows=24&had=1024&writes=take-over`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachQuery {
    /// The size of the viewer's terminal.
    pub size: Option<TerminalSize>,
    /// Bytes of output that the viewer has had already.
    pub had: Option<u64>,
    /// Whether it writes.
    pub writes: ViewerWrites,
}

/// Whether a viewer that attaches writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewerWrites {
    /// `free`: where no other viewer does.
    #[default]
    Free,
    /// `take-over`: in any case. The viewer that wrote before is told, and writes no more.
    TakeOver,
    /// `never`: it only watches.
    Never,
}

/// Not an [`AttachQuery`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a viewer's query has columns and rows, had, and writes (free, take-over or never), each once: {0:?} is none of these"
)]
pub struct BadAttachQuery(String);

impl fmt::Display for AttachQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writes = match self.writes {
            ViewerWrites::Free => "free",
            ViewerWrites::TakeOver => "take-over",
            ViewerWrites::Never => "never",
        };
        write!(f, "writes={writes}")?;
        if let Some(TerminalSize { columns, rows }) = self.size {
            write!(f, "&columns={columns}&rows={rows}")?;
        }
        match self.had {
            Some(had) => write!(f, "&had={had}"),
            None => Ok(()),
        }
    }
}

impl FromStr for AttachQuery {
    type Err = BadAttachQuery;

    fn from_str(text: &str) -> Result<Self, BadAttachQuery> {
        let (mut columns, mut rows, mut had, mut writes) = (None, None, None, None);
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let bad = || BadAttachQuery(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let is_new = match name {
                "columns" => set(&mut columns, value.parse().ok()),
                "rows" => set(&mut rows, value.parse().ok()),
                "had" => set(&mut had, value.parse().ok()),
                "writes" => set(
                    &mut writes,
                    match value {
                        "free" => Some(ViewerWrites::Free),
                        "take-over" => Some(ViewerWrites::TakeOver),
                        "never" => Some(ViewerWrites::Never),
                        _ => None,
                    },
                ),
                _ => false,
            };
            if !is_new {
                return Err(bad());
            }
        }
        let size = match (columns, rows) {
            (Some(columns), Some(rows)) => Some(TerminalSize { columns, rows }),
            (None, None) => None,
            _ => return Err(BadAttachQuery(text.to_owned())),
        };
        Ok(Self {
            size,
            had,
            writes: writes.unwrap_or_default(),
        })
    }
}

/// Sets what was not set yet; false where it was, or where there is nothing.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    value.is_some() && std::mem::replace(place, value).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_the_protocol_has_them() {
        let id = "0123456789abcdef0123456789abcdef";
        for text in [
            r#"{"open":{"shell":{"kind":"kubectl","columns":80,"rows":24,"term":"vt100"}}}"#.to_owned(),
            r#"{"open":{"shell":{"kind":"node","columns":0,"rows":0,"term":"vt100","command":["ls","-l"]}}}"#
                .to_owned(),
            r#"{"list":{}}"#.to_owned(),
            format!(r#"{{"keep":{{"id":"{id}"}}}}"#),
            format!(r#"{{"keep":{{"id":"{id}","api":["read","services"]}}}}"#),
            r#"{"open":{"shell":{"kind":"node","columns":80,"rows":24,"term":"vt100"},"recording":{"required":true,"input":false,"waitSeconds":60}}}"#
                .to_owned(),
            format!(r#"{{"record":{{"id":"{id}","had":{{"output":5,"input":0}}}}}}"#),
            format!(r#"{{"read":{{"id":"{id}"}}}}"#),
            format!(r#"{{"end":{{"id":"{id}"}}}}"#),
        ] {
            let question: ShellQuestion = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&question).unwrap(), text);
        }
        let open = r#"{"open":{"shell":{}}}"#;
        let open: ShellQuestion = serde_json::from_str(open).unwrap();
        let usual = ShellRequest {
            kind: ShellKind::Kubectl,
            columns: 0,
            rows: 0,
            term: "xterm-256color".to_owned(),
            command: Vec::new(),
        };
        let (shell, api) = (usual, Vec::new());
        // Of a server that does not say what its caller may.
        let recording = None;
        assert_eq!(
            open,
            ShellQuestion::Open {
                shell,
                api,
                recording,
            }
        );
        for text in [
            r#"{"open":{"shell":{"api":["read"]}}}"#,
            r#"{"open":{"shell":{},"api":["root"]}}"#,
            r#"{"open":{"shell":{"shell":"sh"}}}"#,
            r#"{"open":{"shell":{"kind":"root"}}}"#,
            r#"{"read":{"id":"../../etc"}}"#,
        ] {
            serde_json::from_str::<ShellQuestion>(text).unwrap_err();
        }
        for (event, text) in [
            (ShellEvent::TakenOver {}, r#"{"takenOver":{}}"#),
            (
                ShellEvent::Resized(TerminalSize {
                    columns: 80,
                    rows: 24,
                }),
                r#"{"resized":{"Width":80,"Height":24}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
    }

    #[test]
    fn a_command_has_so_many_words() {
        let words = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            ShellRequest::check_command(&words)
        };
        for good in [
            &[][..],
            &["ls"],
            &["ls", ""],
            &["a"; 32],
            &["a", &"b".repeat(2047)],
        ] {
            assert_eq!(words(good), Ok(()));
        }
        for bad in [
            &[""][..],
            &["", "a"],
            &["a"; 33],
            &["a", "b\0"],
            &["a", &"b".repeat(2048)],
        ] {
            assert_eq!(words(bad), Err(BadShellCommand));
        }
    }

    #[test]
    fn a_message_begins_with_its_channel() {
        for channel in [
            ShellChannel::Stdin,
            ShellChannel::Close,
            ShellChannel::Events,
        ] {
            let message = channel.message(b"a");
            assert_eq!(ShellChannel::read(message[0]), Some(channel));
            assert_eq!(&message[1..], b"a");
        }
        assert_eq!(ShellChannel::read(5), None);
    }

    #[test]
    fn a_viewers_query_is_read_as_it_is_written() {
        for text in [
            "writes=free",
            "writes=take-over&columns=80&rows=24",
            "writes=never&had=18446744073709551615",
        ] {
            let query: AttachQuery = text.parse().unwrap();
            assert_eq!(query.to_string(), text);
        }
        assert_eq!("".parse(), Ok(AttachQuery::default()));
        for text in [
            "columns=80",
            "had=-1",
            "had=1&had=1",
            "writes=always",
            "columns=80&rows=70000",
            "x",
            "shell=sh",
        ] {
            text.parse::<AttachQuery>().unwrap_err();
        }
    }
}
