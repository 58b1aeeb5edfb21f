//! HTTP/2 by hand (RFC 9113, RFC 7541): frames that no library would write.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use underpass_testenv::testing::DEADLINE;

use super::{Attacker, deployment};
use crate::raw;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GO_AWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A frame's largest payload, unless more was agreed on.
pub(super) const FRAME: usize = 16_384;

/// A field of a header list, with any bytes.
pub(super) type Field<'a> = (&'a str, &'a [u8]);

/// A connection.
pub(super) struct Http2(TlsStream<TcpStream>);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered.
    Status(u16),
    /// Its stream was reset with this code.
    Reset(u32),
    /// The connection was given up with this code.
    GoAway(u32),
    /// The connection ended.
    Closed,
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Http2 {
    pub(super) async fn connect() -> Self {
        let mut tls = raw::connect(deployment(), &[b"h2"]).await.unwrap();
        tls.write_all(PREFACE).await.unwrap();
        let mut this = Self(tls);
        this.send(SETTINGS, 0, 0, b"").await;
        this
    }

    /// Sends a frame. Whether the server has closed already shows when something is read.
    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let bytes = frame(kind, flags, stream, payload);
        self.0.write_all(&bytes).await.is_ok()
    }

    /// Sends bytes that are frames.
    pub(super) async fn send_all(&mut self, frames: &[u8]) -> bool {
        self.0.write_all(frames).await.is_ok()
    }

    /// Sends a request without a body.
    pub(super) async fn request(&mut self, stream: u32, fields: &[Field<'_>]) {
        let block = block(fields);
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            .await;
    }

    /// How each of these streams ends. Settings and pings are acknowledged meanwhile.
    pub(super) async fn outcomes<const N: usize>(&mut self, streams: [u32; N]) -> [Outcome; N] {
        let mut ended = BTreeMap::new();
        while !streams.iter().all(|stream| ended.contains_key(stream)) {
            let frame = timeout(DEADLINE, self.next())
                .await
                .expect("an end in time");
            let (stream, outcome) = match frame {
                None => return streams.map(|of| *ended.get(&of).unwrap_or(&Outcome::Closed)),
                Some(frame) => match frame.kind {
                    HEADERS => (frame.stream, Outcome::Status(status(&frame.payload))),
                    RST_STREAM => (frame.stream, Outcome::Reset(number(&frame.payload))),
                    GO_AWAY => {
                        let code = number(&frame.payload[4..]);
                        return streams.map(|of| *ended.get(&of).unwrap_or(&Outcome::GoAway(code)));
                    }
                    SETTINGS | PING if frame.flags & ACK == 0 => {
                        let settings = frame.kind == SETTINGS;
                        let payload = if settings { &[][..] } else { &frame.payload };
                        self.send(frame.kind, ACK, 0, payload).await;
                        continue;
                    }
                    _ => continue,
                },
            };
            ended.entry(stream).or_insert(outcome);
        }
        streams.map(|of| ended[&of])
    }

    pub(super) async fn outcome(&mut self, stream: u32) -> Outcome {
        let [outcome] = self.outcomes([stream]).await;
        outcome
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            payload,
        })
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// A header block: each field as a literal, never indexed, with a name of its own (RFC 7541, section 6.2.2).
pub(super) fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value);
    }
    block
}

/// RFC 7541, sections 5.1 and 5.2, without Huffman coding.
fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    let byte = |number: usize| u8::try_from(number).unwrap();
    let mut length = bytes.len();
    if length < 127 {
        block.push(byte(length));
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(byte(length % 128) | 128);
            length /= 128;
        }
        block.push(byte(length));
    }
    block.extend_from_slice(bytes);
}

/// The status that begins a response's header block.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first (section 6.3).
    let block = match block {
        [size, rest @ ..] if size & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [indexed, ..] if indexed & 0x80 != 0 => {
            let known = [200, 204, 206, 304, 400, 404, 500];
            known[usize::from(indexed & 0x7f) - 8]
        }
        // A literal whose name is `:status`: section 6.2, index 8.
        [0x48 | 0x08 | 0x18, length, rest @ ..] => {
            let value = &rest[..usize::from(length & 0x7f)];
            let text = if length & 0x80 == 0 {
                String::from_utf8(value.to_vec()).unwrap()
            } else {
                huffman_digits(value)
            };
            text.parse().unwrap()
        }
        other => panic!("no status: {other:?}"),
    }
}

/// Three digits by RFC 7541, appendix B: five bits for 0 to 2, six for the others.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let take = |at: usize, count: usize| bits[at..at + count].iter().fold(0, |n, bit| n * 2 + bit);
    let mut at = 0;
    let mut text = String::new();
    for _ in 0..3 {
        let short = take(at, 5);
        let (digit, length) = match short {
            0..=2 => (short, 5),
            _ => (take(at, 6) - 0b01_1001 + 3, 6),
        };
        text.push(char::from(b'0' + digit));
        at += length;
    }
    text
}

impl Attacker {
    /// The fields of an honest request, in order, for a test to spoil.
    pub(super) fn fields(&self, path: &str) -> Vec<(String, Vec<u8>)> {
        let bearer = format!("Bearer {}", self.token);
        [
            (":method", "GET".to_owned()),
            (":scheme", "https".to_owned()),
            (":authority", "localhost".to_owned()),
            (":path", self.path(path)),
            ("authorization", bearer),
        ]
        .map(|(name, value)| (name.to_owned(), value.into_bytes()))
        .to_vec()
    }
}

#[test]
fn statuses_are_read_as_libraries_write_them() {
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x3f, 0x8c][1..]), 400);
    assert_eq!(status(&[0x20, 0x8d]), 404);
    assert_eq!(status(&[0x48, 3, b'4', b'0', b'3']), 403);
    // RFC 7541, appendix C.6.1: 302.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
}
