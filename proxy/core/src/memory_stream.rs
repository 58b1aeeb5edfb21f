//! A byte stream between two ends in one process, as a tunnel would give it: between the proxy's halves, or a shell and its agent's half.
//!
//! tokio's duplex pipe tells a reader of a clean end where the other side was dropped. Here that is a reset, so that an
//! answer that was cut off never looks complete, and a shell that was ended never looks as if it had exited.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::limits;

/// One end of a stream in memory. To drop it is a reset, and no end.
#[derive(Debug)]
pub struct MemoryStream {
    io: DuplexStream,
    /// This end has said that no more comes.
    finished: Arc<AtomicBool>,
    /// The other has.
    peer_finished: Arc<AtomicBool>,
}

/// Both ends of a stream in memory.
pub fn memory_stream() -> (MemoryStream, MemoryStream) {
    let (here, there) = tokio::io::duplex(limits::MEMORY_STREAM_BYTES);
    let (first, second) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let end = |io, finished: &Arc<_>, peer_finished: &Arc<_>| MemoryStream {
        io,
        finished: Arc::clone(finished),
        peer_finished: Arc::clone(peer_finished),
    };
    (end(here, &first, &second), end(there, &second, &first))
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let ended = room > 0 && buffer.filled().len() == before;
        if ended && !self.peer_finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    crate::pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before the end can be seen.
        self.finished.store(true, Ordering::Release);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn read(stream: &mut MemoryStream) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let (mut here, mut there) = memory_stream();
        here.write_all(b"request").await.unwrap();
        here.shutdown().await.unwrap();
        assert_eq!(read(&mut there).await.unwrap(), b"request");
        there.write_all(b"answer").await.unwrap();
        there.shutdown().await.unwrap();
        drop(there);
        assert_eq!(read(&mut here).await.unwrap(), b"answer");
    }

    #[tokio::test]
    async fn dropping_it_is_a_reset_and_no_end() {
        let (mut here, mut there) = memory_stream();
        there.write_all(b"half of").await.unwrap();
        let cut = tokio::spawn(async move {
            let mut half = [0; 7];
            here.read_exact(&mut half).await.unwrap();
            (read(&mut here).await, here.write_all(b"x").await)
        });
        drop(there);
        let (read, written) = cut.await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn dropping_it_after_its_own_end_stops_the_writer() {
        let (mut here, mut there) = memory_stream();
        here.shutdown().await.unwrap();
        let writer = tokio::spawn(async move {
            let much = vec![0; 4 * limits::MEMORY_STREAM_BYTES];
            there.write_all(&much).await
        });
        here.read_u8().await.unwrap();
        drop(here);
        let stopped = writer.await.unwrap().unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::BrokenPipe);
    }
}
