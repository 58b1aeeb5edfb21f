//! Shells whose client has vanished while bytes for it were under way.
//!
//! The system asks after the peer of a connection only where it has nothing to send to it (TCP keepalive). Bytes that are
//! not acknowledged are sent again, for a quarter of an hour. `TCP_USER_TIMEOUT` shortens that, and also ends connections
//! whose client takes nothing because its user reads a page of `less`. The clients of Kubernetes that carry shells send a ping
//! every five seconds, also while nobody reads: the option is set where nothing has come for a while, and taken away when something
//! comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use underpass_gateway::Standing;

use crate::limits;

/// An accepted connection, which watches for silence once it carries a shell.
#[derive(Debug)]
pub(crate) struct Silence {
    tcp: TcpStream,
    standing: Standing,
    last: Instant,
    /// When to look again; for shells only.
    check: Option<Pin<Box<Sleep>>>,
    limited: bool,
}

impl Silence {
    pub(crate) fn new(tcp: TcpStream, standing: Standing) -> Self {
        Self {
            tcp,
            standing,
            last: Instant::now(),
            check: None,
            limited: false,
        }
    }

    fn heard(&mut self) {
        if self.check.is_none() {
            return;
        }
        self.last = Instant::now();
        if self.limited {
            self.limit(false);
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) {
        if self.check.is_none() && !self.standing.is_shell() {
            return;
        }
        let check = self.check.get_or_insert_with(|| {
            self.last = Instant::now();
            Box::pin(tokio::time::sleep(limits::SHELL_SILENCE))
        });
        let mut silent = false;
        while check.as_mut().poll(cx).is_ready() {
            let left = limits::SHELL_SILENCE.saturating_sub(self.last.elapsed());
            silent = left.is_zero();
            let next = if silent { limits::SHELL_SILENCE } else { left };
            check.as_mut().reset(Instant::now() + next);
        }
        if silent && !self.limited {
            self.limit(true);
        }
    }

    /// A connection that takes no options has ended, which its reader learns.
    fn limit(&mut self, limited: bool) {
        self.limited = limited;
        #[cfg(target_os = "linux")]
        {
            let time = limited.then_some(limits::SHELL_UNACKNOWLEDGED);
            let set = socket2::SockRef::from(&self.tcp).set_tcp_user_timeout(time);
            if let Err(error) = set {
                tracing::debug!(%error, "no bound on what is not acknowledged");
            }
        }
    }
}

impl AsyncRead for Silence {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        match &polled {
            Poll::Ready(_) => self.heard(),
            Poll::Pending => self.poll_silence(cx),
        }
        polled
    }
}

impl AsyncWrite for Silence {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use underpass_core::Authority;
    use underpass_gateway::{Holder, Strangers};

    use super::*;

    fn limit(connection: &Silence) -> Option<Duration> {
        let socket = socket2::SockRef::from(&connection.tcp);
        socket.tcp_user_timeout().unwrap()
    }

    async fn quiet_for(connection: &mut Silence, time: Duration) {
        let mut buffer = [0; 8];
        let read = tokio::time::timeout(time, connection.read(&mut buffer));
        read.await.expect_err("nothing comes");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_silent_shell_does_not_acknowledge_has_little_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (tcp, client_address) = listener.accept().await.unwrap();
        let standing = Strangers::default().enter(client_address.ip());
        let mut connection = Silence::new(tcp, standing.clone());
        // A watch may be silent for ever.
        quiet_for(&mut connection, 10 * limits::SHELL_SILENCE).await;
        assert_eq!(limit(&connection), None);
        let alice = Holder::User(Authority::Directory, "alice".into());
        let recognised = standing.recognise(alice);
        recognised.upgraded();
        quiet_for(&mut connection, limits::SHELL_SILENCE / 2).await;
        assert_eq!(limit(&connection), None);
        quiet_for(&mut connection, limits::SHELL_SILENCE).await;
        assert_eq!(limit(&connection), Some(limits::SHELL_UNACKNOWLEDGED));
        // It was slow, and is there: its user may not read for hours.
        client.write_all(b"ping").await.unwrap();
        connection.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(limit(&connection), None);
        quiet_for(&mut connection, limits::SHELL_SILENCE / 2).await;
        assert_eq!(limit(&connection), None);
    }
}
