//! Lengths before bytes, as little as a connection needs that outlives its users.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;

use super::pump::CHUNK;

/// Bytes of a length.
const LENGTH: usize = 4;

/// Both ways until both have ended; `through` may serve again then.
pub(super) async fn join(
    plain: &mut TcpStream,
    through: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut from_plain, mut to_plain) = plain.split();
    let (mut from_through, mut to_through) = split(through);
    tokio::try_join!(
        send(&mut from_plain, &mut to_through),
        receive(&mut from_through, &mut to_plain)
    )?;
    Ok(())
}

/// The same where the first length has come already.
pub(super) async fn join_after(
    first: usize,
    plain: &mut TcpStream,
    through: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut from_plain, mut to_plain) = plain.split();
    let (mut from_through, mut to_through) = split(through);
    tokio::try_join!(send(&mut from_plain, &mut to_through), async {
        if first == 0 {
            return to_plain.shutdown().await;
        }
        pass(first, &mut from_through, &mut to_plain).await?;
        receive(&mut from_through, &mut to_plain).await
    })?;
    Ok(())
}

/// The next user's first length; `None` where the other side closes instead.
pub(super) async fn first(through: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<usize>> {
    match length(through).await {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

async fn length(from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    let length = from.read_u32().await?;
    match usize::try_from(length) {
        Ok(length) if length <= CHUNK => Ok(length),
        _ => Err(io::Error::other(format!("a length of {length}"))),
    }
}

/// A length and its bytes are one write, and one TLS record where they fit.
async fn send(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; LENGTH + CHUNK];
    loop {
        let (head, body) = buffer.split_at_mut(LENGTH);
        let length = from.read(body).await?;
        let number = u32::try_from(length).map_err(io::Error::other)?;
        head.copy_from_slice(&number.to_be_bytes());
        to.write_all(buffer.get(..LENGTH + length).unwrap_or_default())
            .await?;
        to.flush().await?;
        if length == 0 {
            return Ok(());
        }
    }
}

async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    loop {
        match length(from).await? {
            0 => return to.shutdown().await,
            length => pass(length, from, to).await?,
        }
    }
}

async fn pass(
    length: usize,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; length];
    from.read_exact(&mut buffer).await?;
    to.write_all(&buffer).await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_serves_one_user_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut here, mut there) = tokio::io::duplex(1000);
        let entry = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut user, _) = listener.accept().await.unwrap();
                join(&mut user, &mut here).await.unwrap();
            }
        });
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let echo_address = echo.local_addr().unwrap();
        let exit = tokio::spawn(async move {
            while let Some(length) = first(&mut there).await.unwrap() {
                let mut target = TcpStream::connect(echo_address).await.unwrap();
                join_after(length, &mut target, &mut there).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = echo.accept().await.unwrap();
                let mut bytes = Vec::new();
                connection.read_to_end(&mut bytes).await.unwrap();
                connection.write_all(&bytes).await.unwrap();
            }
        });
        for sent in [vec![1; 3 * CHUNK + 1], Vec::new()] {
            let mut user = TcpStream::connect(address).await.unwrap();
            user.write_all(&sent).await.unwrap();
            user.shutdown().await.unwrap();
            let mut came = Vec::new();
            user.read_to_end(&mut came).await.unwrap();
            assert_eq!(came, sent);
        }
        entry.await.unwrap();
        exit.await.unwrap();
    }
}
