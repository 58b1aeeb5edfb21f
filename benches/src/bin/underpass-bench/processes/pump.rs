//! Between a user's or target's TCP connection and what carries it.

use std::io;

use bytes::BytesMut;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes,
};
use tokio::net::TcpStream;
use underpass_tunnel::{ReadHalf, Stream, WriteHalf};

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

/// The same for a stream of a session, which takes and gives buffers: nothing is copied between them
/// and the session.
pub(super) async fn join_stream(mut connection: TcpStream, stream: Stream) -> io::Result<()> {
    let (from_stream, to_stream) = stream.into_split();
    let (mut from, mut to) = connection.split();
    // Whichever fails first drops the other, and resets the stream.
    tokio::try_join!(into(&mut from, to_stream), out_of(from_stream, &mut to))?;
    Ok(())
}

async fn into(connection: &mut (impl AsyncRead + Unpin), mut stream: WriteHalf) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        // Small messages share a buffer; what is sent keeps all of it until the peer has it.
        if buffer.capacity() < CHUNK / 4 {
            buffer.reserve(CHUNK);
        }
        if connection.read_buf(&mut buffer).await? == 0 {
            return stream.shutdown().await;
        }
        let bytes = buffer.split().freeze();
        stream.write_bytes(bytes).await.map_err(io::Error::other)?;
    }
}

async fn out_of(
    mut stream: ReadHalf,
    connection: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    while let Some(bytes) = stream.read_bytes().await.map_err(io::Error::other)? {
        connection.write_all(&bytes).await?;
    }
    connection.shutdown().await
}
