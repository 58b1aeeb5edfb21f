//! Recordings of terminals as asciicast v2: a header, and then an event a line, each of which is JSON.
//!
//! Text in JSON is UTF-8, and a program writes any bytes. Where an event's text differs from the bytes that were written, a [`CastNote::Exact`] before it has
//! them: players pass over events of a code that they do not know.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::TerminalSize;

/// The code of a [`CastNote`].
const NOTE: &str = "u";

/// The first line of a recording. Fields that are not known are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastHeader {
    version: u8,
    width: u16,
    height: u16,
    /// When it began, in seconds since 1970.
    pub timestamp: i64,
    /// Its title.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
}

/// One event of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CastEvent {
    /// Milliseconds since the beginning.
    pub at: u64,
    /// The kind of event, with its data.
    pub what: CastData,
}

/// The kind of an event, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CastData {
    /// The program wrote.
    Output(String),
    /// Somebody typed.
    Input(String),
    /// The terminal has another size from here on.
    Resized(TerminalSize),
    /// A label, for people.
    Marker(String),
    /// A note for programs of Underpass.
    Note(CastNote),
    /// An event of a code that is not known here.
    Other,
}

/// A note for programs of Underpass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CastNote {
    /// The bytes of the next event, whose text is not exactly them.
    Exact(Vec<u8>),
    /// So many bytes of output, and of input, were not recorded here.
    Missing {
        /// Bytes of output.
        output: u64,
        /// Bytes of input.
        input: u64,
    },
}

/// Not a line of an asciicast v2 file.
#[derive(Debug, Error)]
#[error("this is no line of an asciicast v2 file: {0}")]
pub struct BadCast(String);

impl CastHeader {
    /// A terminal of this size, whose recording begins at this time.
    pub fn new(size: TerminalSize, timestamp: i64, title: String) -> Self {
        Self {
            version: 2,
            width: size.columns,
            height: size.rows,
            timestamp,
            title,
        }
    }

    /// The terminal's size at the beginning.
    pub fn size(&self) -> TerminalSize {
        TerminalSize {
            columns: self.width,
            rows: self.height,
        }
    }

    /// Its line, with the line feed.
    pub fn line(&self) -> String {
        // Numbers and text always are JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

impl FromStr for CastHeader {
    type Err = BadCast;

    fn from_str(line: &str) -> Result<Self, BadCast> {
        let header: Self = serde_json::from_str(line).map_err(BadCast::of)?;
        match header.version {
            2 => Ok(header),
            other => Err(BadCast(format!("its version is {other}"))),
        }
    }
}

impl BadCast {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl CastEvent {
    /// Its line, with the line feed.
    pub fn line(&self) -> String {
        let (code, text) = match &self.what {
            CastData::Output(text) => ("o", text.clone()),
            CastData::Input(text) => ("i", text.clone()),
            CastData::Resized(size) => ("r", format!("{}x{}", size.columns, size.rows)),
            CastData::Marker(label) => ("m", label.clone()),
            CastData::Note(note) => (NOTE, note.to_string()),
            CastData::Other => return String::new(),
        };
        // Text always is JSON.
        let text = serde_json::to_string(&text).unwrap_or_default();
        let (seconds, thousandths) = (self.at / 1000, self.at % 1000);
        format!("[{seconds}.{thousandths:03}, \"{code}\", {text}]\n")
    }
}

impl FromStr for CastEvent {
    type Err = BadCast;

    fn from_str(line: &str) -> Result<Self, BadCast> {
        let (time, code, text): (f64, String, String) =
            serde_json::from_str(line).map_err(BadCast::of)?;
        let what = match code.as_str() {
            "o" => CastData::Output(text),
            "i" => CastData::Input(text),
            "r" => CastData::Resized(size(&text)?),
            "m" => CastData::Marker(text),
            NOTE => text.parse().map_or(CastData::Other, CastData::Note),
            _ => CastData::Other,
        };
        // Out of range is the nearest number that there is.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "such a cast saturates"
        )]
        let at = (time * 1000.0).round() as u64;
        Ok(Self { at, what })
    }
}

fn size(text: &str) -> Result<TerminalSize, BadCast> {
    let sides = text.split_once('x');
    let sides = sides.and_then(|(columns, rows)| Some((columns.parse().ok()?, rows.parse().ok()?)));
    let (columns, rows) = sides.ok_or_else(|| BadCast(format!("{text:?} is no size")))?;
    Ok(TerminalSize { columns, rows })
}

impl fmt::Display for CastNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(bytes) => write!(f, "exact:{}", BASE64_STANDARD.encode(bytes)),
            Self::Missing { output, input } => write!(f, "missing:{output}:{input}"),
        }
    }
}

impl FromStr for CastNote {
    type Err = BadCast;

    fn from_str(text: &str) -> Result<Self, BadCast> {
        let bad = || BadCast(format!("{text:?} is no note"));
        match text.split_once(':') {
            Some(("exact", bytes)) => {
                let bytes = BASE64_STANDARD.decode(bytes).map_err(BadCast::of)?;
                Ok(Self::Exact(bytes))
            }
            Some(("missing", numbers)) => {
                let (output, input) = numbers.split_once(':').ok_or_else(bad)?;
                let read = |number: &str| number.parse().map_err(|_| bad());
                Ok(Self::Missing {
                    output: read(output)?,
                    input: read(input)?,
                })
            }
            _ => Err(bad()),
        }
    }
}

/// Reads events in their order, and gives the bytes of each.
#[derive(Debug, Default)]
pub struct CastReader {
    exact: Option<Vec<u8>>,
}

impl CastReader {
    /// An event, and the bytes that were written or typed in it: its text, or those that an exact note before it has. `None` where the
    /// event is such a note.
    pub fn read(&mut self, event: CastEvent) -> Option<(CastEvent, Vec<u8>)> {
        let bytes = match &event.what {
            CastData::Note(CastNote::Exact(bytes)) => {
                self.exact = Some(bytes.clone());
                return None;
            }
            CastData::Output(text) | CastData::Input(text) => {
                let exact = self.exact.take();
                exact.unwrap_or_else(|| text.clone().into_bytes())
            }
            _ => Vec::new(),
        };
        Some((event, bytes))
    }

    /// Is the event behind an exact note missing?
    pub fn is_within(&self) -> bool {
        self.exact.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_players_read_them() {
        let size = TerminalSize {
            columns: 80,
            rows: 24,
        };
        let header = CastHeader::new(size, 1_767_225_600, "a \"shell\"".to_owned());
        let line = header.line();
        assert_eq!(
            line,
            "{\"version\":2,\"width\":80,\"height\":24,\"timestamp\":1767225600,\"title\":\"a \\\"shell\\\"\"}\n"
        );
        assert_eq!(line.parse::<CastHeader>().unwrap(), header);
        for (what, line) in [
            (
                CastData::Output("\u{1b}[1m\"é\\\r\n\u{0}".to_owned()),
                "[1.005, \"o\", \"\\u001b[1m\\\"é\\\\\\r\\n\\u0000\"]\n",
            ),
            (
                CastData::Input("\u{3}".to_owned()),
                "[1.005, \"i\", \"\\u0003\"]\n",
            ),
            (CastData::Resized(size), "[1.005, \"r\", \"80x24\"]\n"),
            (
                CastData::Marker("gap".to_owned()),
                "[1.005, \"m\", \"gap\"]\n",
            ),
            (
                CastData::Note(CastNote::Exact(vec![0xff, 0])),
                "[1.005, \"u\", \"exact:/wA=\"]\n",
            ),
            (
                CastData::Note(CastNote::Missing {
                    output: 7,
                    input: 0,
                }),
                "[1.005, \"u\", \"missing:7:0\"]\n",
            ),
        ] {
            let event = CastEvent { at: 1005, what };
            assert_eq!(event.line(), line);
            assert_eq!(line.parse::<CastEvent>().unwrap(), event);
        }
    }

    #[test]
    fn lines_of_other_programs_are_read_and_no_others() {
        let other: CastEvent = "[0, \"x\", \"\"]".parse().unwrap();
        assert_eq!(other.what, CastData::Other);
        let newer: CastEvent = "[1e300, \"u\", \"of a newer version\"]".parse().unwrap();
        assert_eq!((newer.at, newer.what), (u64::MAX, CastData::Other));
        let more =
            "{\"version\":2,\"width\":1,\"height\":1,\"timestamp\":1,\"env\":{\"TERM\":\"x\"}}";
        more.parse::<CastHeader>().unwrap();
        for line in [
            "",
            "{}",
            "[]",
            "[1, \"o\"]",
            "[1, \"r\", \"80\"]",
            "[1, \"o\", \"\\udc80\"]",
        ] {
            line.parse::<CastEvent>().unwrap_err();
        }
        for line in [
            "{\"version\":3,\"width\":1,\"height\":1,\"timestamp\":1}",
            "[]",
            "{}",
        ] {
            line.parse::<CastHeader>().unwrap_err();
        }
    }

    #[test]
    fn the_bytes_of_an_event_are_those_of_the_note_before_it() {
        let mut reader = CastReader::default();
        let event = |what| CastEvent { at: 0, what };
        let output = || event(CastData::Output("\u{fffd}".to_owned()));
        assert_eq!(reader.read(output()).unwrap().1, "\u{fffd}".as_bytes());
        let exact = event(CastData::Note(CastNote::Exact(vec![0xff])));
        assert_eq!(reader.read(exact), None);
        assert!(reader.is_within());
        assert_eq!(reader.read(output()).unwrap().1, [0xff]);
        assert!(!reader.is_within());
        assert_eq!(reader.read(output()).unwrap().1, "\u{fffd}".as_bytes());
    }
}
