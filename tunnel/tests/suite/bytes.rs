//! Sending and receiving, as tests do it.

use aws_lc_rs::digest::{Context, Digest, SHA256};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use underpass_tunnel::{
    IncomingStream, OpenRequest, ReadHalf, Session, Stream, StreamError, WriteHalf,
};

use crate::harness::within;

pub(crate) fn target(name: &str) -> OpenRequest {
    OpenRequest {
        target: name.to_owned(),
        ..OpenRequest::default()
    }
}

pub(crate) async fn open(session: &Session) -> Stream {
    within("a stream is opened", session.open(target("test")))
        .await
        .unwrap()
}

pub(crate) async fn incoming(session: &Session) -> IncomingStream {
    within("a stream comes in", session.accept()).await.unwrap()
}

/// A stream, from both its ends: the opener's and the other one.
pub(crate) async fn stream(opener: &Session, other: &Session) -> (Stream, Stream) {
    let mut here = open(opener).await;
    let there = incoming(other).await.accept().await.unwrap();
    within("the answer comes", here.accepted()).await.unwrap();
    (here, there)
}

/// Everything up to the clean end.
pub(crate) async fn read_all(reader: &mut ReadHalf) -> Result<Vec<u8>, StreamError> {
    within("the stream ends", async {
        let mut all = Vec::new();
        while let Some(bytes) = reader.read_bytes().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    })
    .await
}

pub(crate) async fn read_whole(stream: &mut Stream) -> Result<Vec<u8>, StreamError> {
    within("the stream ends", async {
        let mut all = Vec::new();
        while let Some(bytes) = stream.read_bytes().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    })
    .await
}

/// Reads exactly the expected bytes, and not yet an end.
pub(crate) async fn expect(reader: &mut ReadHalf, expected: &[u8]) {
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let bytes = within("bytes come", reader.read_bytes()).await.unwrap();
        got.extend_from_slice(&bytes.expect("no end yet"));
    }
    assert_eq!(got, expected);
}

pub(crate) async fn send(writer: &mut WriteHalf, bytes: &'static [u8]) {
    within("bytes go out", async {
        writer.write_all(bytes).await?;
        writer.flush().await
    })
    .await
    .unwrap();
}

pub(crate) async fn finish(writer: &mut WriteHalf) {
    within("the half ends", writer.shutdown()).await.unwrap();
}

/// The error that a writer gets in the end, however much it may write before.
pub(crate) async fn write_until_error(writer: &mut WriteHalf) -> StreamError {
    within("the writer hears of it", async {
        loop {
            if let Err(error) = writer.write_bytes(Bytes::from(vec![7; 16 * 1024])).await {
                return error;
            }
        }
    })
    .await
}

/// Bytes that compress and repeat badly, from a seed.
pub(crate) struct Pattern(u64);

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn piece(&mut self, len: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(len);
        bytes.into()
    }
}

/// Writes `total` bytes in pieces of `piece`, ends the half, and gives the hash.
pub(crate) async fn pour(
    writer: &mut WriteHalf,
    seed: u64,
    total: usize,
    piece: usize,
) -> Result<Digest, StreamError> {
    let mut pattern = Pattern::new(seed);
    let mut hash = Context::new(&SHA256);
    let mut left = total;
    while left > 0 {
        let bytes = pattern.piece(piece.min(left));
        left -= bytes.len();
        hash.update(&bytes);
        writer.write_bytes(bytes).await?;
    }
    finish(writer).await;
    Ok(hash.finish())
}

/// Reads to the clean end and gives the number of bytes and their hash.
pub(crate) async fn drink(reader: &mut ReadHalf) -> Result<(usize, Digest), StreamError> {
    let mut hash = Context::new(&SHA256);
    let mut total = 0;
    while let Some(bytes) = reader.read_bytes().await? {
        total += bytes.len();
        hash.update(&bytes);
    }
    Ok((total, hash.finish()))
}

/// Writes until a write has found no room for as long as a round trip may take, and gives the
/// number of bytes that were taken. A full window may move on once; a reader that reads
/// nothing makes it stop for good.
pub(crate) async fn fill(writer: &mut WriteHalf) -> usize {
    const ENOUGH: usize = 64 * 1024 * 1024;
    let quiet = std::time::Duration::from_millis(300);
    let piece = Bytes::from(vec![7; 4096]);
    let mut taken = 0;
    while let Ok(written) = tokio::time::timeout(quiet, writer.write(&piece)).await {
        taken += written.unwrap();
        assert!(
            taken < ENOUGH,
            "there is no end to what the writer may write"
        );
    }
    taken
}
