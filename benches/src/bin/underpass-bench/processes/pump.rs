//! Between a user's or target's TCP connection and what carries it.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Bytes that are read at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// Both ways, with half-close, between connections that know no more than tokio's traits.
pub(super) async fn join(
    mut here: impl AsyncRead + AsyncWrite + Unpin,
    mut there: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    copy_bidirectional_with_sizes(&mut here, &mut there, CHUNK, CHUNK).await?;
    Ok(())
}
