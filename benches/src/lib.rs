//! Connected pairs of each layer on loopback, shared by the benchmarks.
//!
//! Every pair offers the same thing, an echoing end and a calling one, so that a figure of one
//! layer divided by that of the layer below it is what the layer costs.
#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

mod baseline;
mod certificate;
mod sessions;
mod transports;
mod tuned;

pub use baseline::{quinn_streams, tcp, tls};
pub use certificate::Certificate;
pub use sessions::{ECHO, Pair, SINK};
pub use transports::{Carrier, at_agent, tls_pair, transports};
pub use tuned::Tuned;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use underpass_tunnel::Stream;

/// The processor time that this process has taken, of all its threads: both ends of what is measured.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(u64::try_from(time.tv_sec).expect("no time before"), nanos)
}

/// Sends back what it reads, until the end.
///
/// # Errors
/// The stream's error.
pub async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            n => {
                stream
                    .write_all(buffer.get(..n).unwrap_or_default())
                    .await?;
                stream.flush().await?;
            }
        }
    }
}

/// Reads until the end, then ends its own half.
///
/// # Errors
/// The stream's error.
pub async fn drain(mut stream: Stream) -> io::Result<()> {
    while stream.read_bytes().await?.is_some() {}
    stream.shutdown().await
}

/// Writes `total` bytes, then the end.
///
/// # Errors
/// The stream's error.
pub async fn pour(mut stream: Stream, total: usize) -> io::Result<()> {
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    let mut left = total;
    while left > 0 {
        let piece = chunk.slice(..left.min(chunk.len()));
        left -= piece.len();
        stream.write_bytes(piece).await?;
    }
    stream.shutdown().await
}

/// Sends `message` and waits until as much has come back.
///
/// # Errors
/// The stream's error.
pub async fn round_trip(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    message: &[u8],
    answer: &mut [u8],
) -> io::Result<()> {
    stream.write_all(message).await?;
    stream.flush().await?;
    stream.read_exact(answer).await?;
    Ok(())
}

/// Sends `total` bytes from `chunk` over and over, while reading what comes back.
///
/// # Errors
/// The stream's error.
pub async fn bulk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    chunk: &[u8],
    total: usize,
) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        let mut left = total;
        while left > 0 {
            let piece = chunk.get(..left.min(chunk.len())).unwrap_or(chunk);
            write.write_all(piece).await?;
            left -= piece.len();
        }
        write.shutdown().await
    };
    let receiving = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut received = 0;
        loop {
            match read.read(&mut buffer).await? {
                0 => return Ok(received),
                n => received += n,
            }
        }
    };
    let ((), received) = tokio::try_join!(sending, receiving)?;
    if received == total {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
