//! A close that lets the client hear the answer before it.
//!
//! A server that closes a socket with unread bytes in it makes TCP answer the client's next ones with a reset, which throws
//! away what the client has not read yet: the answer to a request that was refused before its end (RFC 9112, section 9.6).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use underpass_core::limits;

/// Reads and discards, for a while, bytes that come after its own end was sent. On an upgraded connection they are the other
/// protocol's, whose directions end separately.
#[derive(Debug)]
pub struct Lingering<I, D> {
    io: I,
    state: State,
    upgraded: Arc<AtomicBool>,
    discards: Option<D>,
}

#[derive(Debug)]
enum State {
    Open,
    /// The end was sent; bytes may still come.
    Closing(Closing),
    Closed,
}

#[derive(Debug)]
struct Closing {
    /// So many bytes.
    left: usize,
    /// Until then.
    end: Instant,
    /// Until then, if none come before it.
    silence: Pin<Box<Sleep>>,
}

impl Closing {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            left: limits::LINGER_BYTES,
            end: now + limits::LINGER_TIME,
            silence: Box::pin(tokio::time::sleep_until(now + limits::LINGER_SILENCE)),
        }
    }

    fn came(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
        let silence = Instant::now() + limits::LINGER_SILENCE;
        self.silence.as_mut().reset(silence.min(self.end));
    }
}

impl<I, D> Lingering<I, D> {
    /// `upgraded` is set before the upgraded stream has this. `discards` is called before the first bytes are discarded.
    pub fn new(io: I, upgraded: Arc<AtomicBool>, discards: D) -> Self {
        Self {
            io,
            state: State::Open,
            upgraded,
            discards: Some(discards),
        }
    }
}

impl<I: AsyncRead + Unpin, D: Unpin> AsyncRead for Lingering<I, D> {
    underpass_core::pass_on!(io: poll_read);
}

impl<I: AsyncRead + AsyncWrite + Unpin, D: FnOnce() + Unpin> AsyncWrite for Lingering<I, D> {
    underpass_core::pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush);

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Open => {
                    ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
                    if this.upgraded.load(Ordering::Acquire) {
                        return Poll::Ready(Ok(()));
                    }
                    if let Some(discards) = this.discards.take() {
                        discards();
                    }
                    this.state = State::Closing(Closing::begin());
                }
                State::Closing(closing) => {
                    if closing.silence.as_mut().poll(context).is_ready() {
                        this.state = State::Closed;
                        continue;
                    }
                    let mut space = [0; 8 * 1024];
                    let mut buffer = ReadBuf::new(&mut space);
                    let read = ready!(Pin::new(&mut this.io).poll_read(context, &mut buffer));
                    let count = buffer.filled().len();
                    closing.came(count);
                    // An end, or an error: nobody sends any more, and nobody loses an answer.
                    if read.is_err() || count == 0 || closing.left == 0 {
                        this.state = State::Closed;
                    }
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn closing(io: DuplexStream) -> Lingering<DuplexStream, fn()> {
        Lingering::new(io, Arc::default(), || {})
    }

    #[tokio::test]
    async fn an_upgraded_stream_is_read_after_its_other_end() {
        let (mut client, server) = duplex(1024);
        let mut server = Lingering::new(server, Arc::new(true.into()), || {});
        server.shutdown().await.unwrap();
        client.write_all(b"later").await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = String::new();
        server.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_reads_the_answer() {
        let (mut client, server) = duplex(1024);
        let serving = tokio::spawn(async move {
            let mut server = closing(server);
            server.write_all(b"431").await.unwrap();
            server.shutdown().await
        });
        // More than the pipe holds: without anybody who reads, this would not end.
        client.write_all(&[0; 100 * 1024]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "431");
        drop(client);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_left() {
        let (client, server) = duplex(1024);
        let begun = Instant::now();
        closing(server).shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), limits::LINGER_SILENCE);
        drop(client);
        let (mut client, server) = duplex(1024);
        let closing = tokio::spawn(async move { closing(server).shutdown().await });
        let much = vec![0; limits::LINGER_BYTES + 64 * 1024];
        client.write_all(&much).await.unwrap_err();
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_is_discarded_for_a_while() {
        let (mut client, server) = duplex(1024);
        let begun = Instant::now();
        let closing = tokio::spawn(async move { closing(server).shutdown().await });
        while client.write_all(b"x").await.is_ok() {
            tokio::time::sleep(limits::LINGER_SILENCE / 2).await;
        }
        closing.await.unwrap().unwrap();
        let lasted = begun.elapsed();
        let most = limits::LINGER_TIME + limits::LINGER_SILENCE;
        assert!((limits::LINGER_TIME..most).contains(&lasted), "{lasted:?}");
    }
}
