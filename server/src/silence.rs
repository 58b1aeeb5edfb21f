//! Shells whose client has vanished while bytes for it were under way.
//!
//! The system asks after the peer of a connection only where it has nothing to send to it (TCP keepalive). Bytes that are
//! not acknowledged are sent again, for a quarter of an hour. `TCP_USER_TIMEOUT` shortens that, and also ends connections
//! whose client reads nothing for a while (its user has a page of `less`, a program works) and whose system acknowledges all the
//! same. So the system is asked which of the two it is, where nothing has come for a while. Where it does not say, its own quarter of
//! an hour remains.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use underpass_gateway::Standing;

use crate::limits;
#[cfg(target_os = "linux")]
use crate::tcp_info::Acknowledged;
use crate::vanished::Upgrades;

/// An accepted connection, which watches for silence once it carries a shell.
#[derive(Debug)]
pub(crate) struct Silence {
    tcp: TcpStream,
    standing: Standing,
    upgrades: Upgrades,
    last: Instant,
    /// When to look again; for shells only.
    check: Option<Pin<Box<Sleep>>>,
    ask: fn(&TcpStream) -> bool,
}

impl Silence {
    pub(crate) fn new(tcp: TcpStream, standing: Standing, upgrades: Upgrades) -> Self {
        Self {
            tcp,
            standing,
            upgrades,
            last: Instant::now(),
            check: None,
            ask: is_gone,
        }
    }

    /// The first byte that has come and is not read; nothing where its peer has ended without one. It stays to be read.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let count = self.tcp.peek(&mut byte).await?;
        Ok((count > 0).then_some(byte[0]))
    }

    fn look(&mut self) {
        self.upgrades.look(&self.tcp, &self.standing);
    }

    fn heard(&mut self) {
        if self.check.is_some() {
            self.last = Instant::now();
        }
    }

    /// Ready once the client is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.check.is_none() && !self.standing.is_shell() {
            return Poll::Pending;
        }
        let check = self.check.get_or_insert_with(|| {
            self.last = Instant::now();
            Box::pin(tokio::time::sleep(limits::SHELL_SILENCE))
        });
        while check.as_mut().poll(cx).is_ready() {
            let left = limits::SHELL_SILENCE.saturating_sub(self.last.elapsed());
            if left.is_zero() && (self.ask)(&self.tcp) {
                return Poll::Ready(());
            }
            let next = if left.is_zero() {
                limits::SHELL_UNACKNOWLEDGED
            } else {
                left
            };
            check.as_mut().reset(Instant::now() + next);
        }
        Poll::Pending
    }
}

/// Whether the client acknowledges nothing. One to which nothing is under way is TCP keepalive's to find out about.
#[cfg(target_os = "linux")]
fn is_gone(tcp: &TcpStream) -> bool {
    match Acknowledged::of(tcp) {
        Ok(client) => {
            client.unanswered >= limits::SHELL_UNANSWERED
                && client.last >= limits::SHELL_UNACKNOWLEDGED
        }
        Err(error) => {
            tracing::debug!(%error, "the system does not say what a client acknowledges");
            false
        }
    }
}

/// Other systems have no such account.
#[cfg(not(target_os = "linux"))]
fn is_gone(_: &TcpStream) -> bool {
    false
}

impl AsyncRead for Silence {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        match &polled {
            Poll::Ready(_) => self.heard(),
            Poll::Pending if self.poll_gone(cx).is_ready() => {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Silence {
    underpass_core::pass_on!(tcp: is_write_vectored, poll_flush, poll_shutdown);

    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The answer that upgrades the connection is written once it counts as a shell's.
        self.look();
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look();
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use underpass_core::Authority;
    use underpass_gateway::{Holder, Strangers};

    use super::*;
    use crate::vanished::watch;

    /// A shell's connection, and its client.
    async fn shell() -> (Silence, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (tcp, client_address) = listener.accept().await.unwrap();
        let standing = Strangers::default().enter(client_address.ip());
        let alice = Holder::User(Authority::Directory, "alice".into());
        standing.recognise(alice).upgraded();
        (Silence::new(tcp, standing, watch().0), client)
    }

    async fn quiet_for(connection: &mut Silence, time: Duration) {
        let mut buffer = [0; 8];
        let read = tokio::time::timeout(time, connection.read(&mut buffer));
        read.await.expect_err("nothing comes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_acknowledges_nothing_is_gone() {
        let (mut connection, mut client) = shell().await;
        connection.ask = |_| true;
        quiet_for(&mut connection, limits::SHELL_SILENCE / 2).await;
        client.write_all(b"ping").await.unwrap();
        connection.read_exact(&mut [0; 4]).await.unwrap();
        quiet_for(&mut connection, limits::SHELL_SILENCE * 3 / 4).await;
        let mut buffer = [0; 8];
        let gone = connection.read(&mut buffer);
        let gone = tokio::time::timeout(limits::SHELL_SILENCE, gone).await;
        let error = gone.expect("it ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// A program that works between reads, with a window that is full: there is no ping.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_stays() {
        let (mut connection, mut client) = shell().await;
        let mut sent = 0;
        connection.tcp.writable().await.unwrap();
        while let Ok(count) = connection.tcp.try_write(&[7; 64 * 1024]) {
            sent += count;
        }
        assert!(sent > 0);
        quiet_for(&mut connection, 20 * limits::SHELL_SILENCE).await;
        // The system does not end it either.
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::SockRef::from(&connection.tcp);
            assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        }
        let mut read = vec![0; sent];
        client.read_exact(&mut read).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 7));
        client.write_all(b"done").await.unwrap();
        connection.read_exact(&mut [0; 4]).await.unwrap();
    }

    /// A watch may be silent for ever, and is no shell.
    #[tokio::test(start_paused = true)]
    async fn only_shells_are_looked_at() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (tcp, client_address) = listener.accept().await.unwrap();
        let standing = Strangers::default().enter(client_address.ip());
        let mut connection = Silence::new(tcp, standing, watch().0);
        connection.ask = |_| true;
        quiet_for(&mut connection, 20 * limits::SHELL_SILENCE).await;
    }
}
