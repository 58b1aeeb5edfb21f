//! The one place where raw bytes are relayed, after a validated 101, or after the 200 to a CONNECT (security rule 1).

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};

use underpass_core::limits::{PIPE_BUFFER_BYTES, SHUTDOWN_GRACE};

/// The bytes that a pipe has carried so far. They stay readable when the pipe is cut.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
}

impl Meter {
    /// Bytes from the client towards the cluster.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// More bytes went up that no pipe of this module carried: of a request's body.
    pub fn went_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// More bytes went down: of an answer's body.
    pub fn went_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes from the cluster towards the client.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// Why a pipe ended early.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// Nothing was relayed.
    #[error("one side was lost before the upgrade was complete")]
    Upgrade(#[source] hyper::Error),
    /// The other side is told by a reset.
    #[error("one side was lost")]
    Lost(#[source] io::Error),
}

/// Waits until both sides have switched protocols, then relays until both directions have ended.
/// The end of one direction is passed on as a half-close; the other goes on (k/k#60140).
///
/// # Cancel safety
/// Dropping the future drops both sides.
pub async fn run(client: OnUpgrade, upstream: OnUpgrade, meter: &Meter) -> Result<(), PipeError> {
    let (client, upstream) = tokio::try_join!(client, upstream).map_err(PipeError::Upgrade)?;
    relay(client, upstream, meter)
        .await
        .map_err(PipeError::Lost)
}

/// Closes a stream whose request asked for an upgrade and was answered otherwise. For any answer, hyper hands such a stream
/// over and leaves its end to us. In a tunnel, to drop it would be a reset, which may overtake the answer.
pub async fn close(stream: OnUpgrade) {
    if let Ok(Ok(stream)) = tokio::time::timeout(SHUTDOWN_GRACE, stream).await {
        finish(TokioIo::new(stream)).await;
    }
}

/// Ends a stream cleanly, within a grace period.
pub async fn finish(mut stream: impl AsyncWrite + Unpin) {
    // Nothing is lost by an error that was not lost already.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, stream.shutdown()).await;
}

async fn relay(client: Upgraded, upstream: Upgraded, meter: &Meter) -> io::Result<()> {
    between(TokioIo::new(client), TokioIo::new(upstream), meter).await
}

/// Relays until both directions have ended. The end of one is passed on as a half-close.
///
/// # Errors
/// One side was lost. Both are dropped.
///
/// # Cancel safety
/// Dropping the future drops both sides.
pub async fn between<C, U>(client: C, mut upstream: U, meter: &Meter) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Metered { io: client, meter };
    let size = PIPE_BUFFER_BYTES;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, size, size).await?;
    // The copy has shut both directions down; TLS may still hold its last record.
    client.flush().await
}

/// The client's side, counted.
struct Metered<'a, T> {
    io: T,
    meter: &'a Meter,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        self.meter.up.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<'_, T> {
    underpass_core::pass_on!(io: poll_flush, poll_shutdown);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buffer))?;
        self.meter.down.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}
