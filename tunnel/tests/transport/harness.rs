//! Both ends of a transport, and short helpers for streams.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::http::Request;
use underpass_tunnel::tls;
use underpass_tunnel::transport::websocket::{self, Subprotocol};
use underpass_tunnel::transport::{BiStream, HalfError, RecvStream, SendStream, Transport, tcp};

/// How long anything may take that happens at once.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The transports under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    UnderpassPipe,
    UnderpassTls,
    YamuxTls,
}

impl Kind {
    pub(crate) fn subprotocol(self) -> Subprotocol {
        match self {
            Self::YamuxTls => Subprotocol::Yamux,
            _ => Subprotocol::Underpass,
        }
    }
}

/// Both ends.
pub(crate) struct Pair {
    pub(crate) kind: Kind,
    /// The connector's end.
    pub(crate) here: Arc<dyn Transport>,
    /// The acceptor's.
    pub(crate) there: Arc<dyn Transport>,
    /// Cuts the connection from here to there, and back, without a word.
    pub(crate) cut: Arc<Cut>,
}

impl Pair {
    pub(crate) async fn new(kind: Kind) -> Self {
        let pair = Self::unauthenticated(kind).await;
        pair.there.authenticated();
        pair
    }

    pub(crate) async fn unauthenticated(kind: Kind) -> Self {
        let cut = Arc::new(Cut::default());
        let (here, there) = match kind {
            Kind::UnderpassPipe => {
                let (here, there) = tokio::io::duplex(10_000);
                upgrade(kind, Wire::new(here, &cut), there).await
            }
            _ => {
                let (here, there) = tls_pair(&cut).await;
                upgrade(kind, here, there).await
            }
        };
        Self {
            kind,
            here,
            there,
            cut,
        }
    }

    /// A stream that `here` opened, at both ends. One byte of it is spent.
    pub(crate) async fn stream(&self) -> (BiStream, BiStream) {
        connect(self.here.as_ref(), self.there.as_ref()).await
    }
}

/// A stream from one end to the other. One byte of it is spent.
pub(crate) async fn connect(from: &dyn Transport, to: &dyn Transport) -> (BiStream, BiStream) {
    let mut opened = open(from).await;
    write(&mut opened, b"!").await;
    let mut accepted = accept(to).await;
    assert_eq!(read_exact(&mut accepted, 1).await, b"!");
    (opened, accepted)
}

pub(crate) async fn open(transport: &dyn Transport) -> BiStream {
    within("a stream opens", transport.open()).await.unwrap()
}

pub(crate) async fn accept(transport: &dyn Transport) -> BiStream {
    within("a stream comes", transport.accept()).await.unwrap()
}

/// Cuts connections, so that neither end hears more from the other than its end.
#[derive(Default)]
pub(crate) struct Cut {
    done: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Cut {
    pub(crate) fn now(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.reader.wake();
        self.writer.wake();
    }
}

struct Wire<S> {
    io: S,
    cut: Arc<Cut>,
}

impl<S> Wire<S> {
    fn new(io: S, cut: &Arc<Cut>) -> Self {
        let cut = Arc::clone(cut);
        Self { io, cut }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut.reader.register(cx.waker());
        if self.cut.done.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.cut.writer.register(cx.waker());
        if self.cut.done.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

type Tls<S> = tokio_rustls::TlsStream<S>;

async fn tls_pair(cut: &Arc<Cut>) -> (Tls<Wire<TcpStream>>, Tls<TcpStream>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = tls::server(vec![made.cert.der().clone()], key).unwrap();
    let client = tls::pinned_client(made.cert.pem().as_bytes()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let here = async {
        let socket = TcpStream::connect(address).await.unwrap();
        tcp::tune(&socket).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(client));
        tls.connect(name, Wire::new(socket, cut)).await.unwrap()
    };
    let there = async {
        let (socket, _) = listener.accept().await.unwrap();
        tcp::tune(&socket).unwrap();
        let tls = TlsAcceptor::from(Arc::new(server));
        tls.accept(socket).await.unwrap()
    };
    let (here, there) = tokio::join!(here, there);
    (here.into(), there.into())
}

/// The HTTP upgrade at both ends.
async fn upgrade<A, B>(
    kind: Kind,
    here: A,
    mut there: B,
) -> (Arc<dyn Transport>, Arc<dyn Transport>)
where
    A: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let offers = [kind.subprotocol()];
    let connecting = websocket::connect(here, "localhost", None, &offers);
    let accepting = async {
        let subprotocol = answer(&mut there).await;
        assert_eq!(subprotocol, kind.subprotocol());
        websocket::accept(there, subprotocol, None).await
    };
    let (here, there) = tokio::join!(connecting, accepting);
    (here.unwrap(), there)
}

/// Answers a client's upgrade request.
pub(crate) async fn answer(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Subprotocol {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut request = Request::get(websocket::PATH);
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    let (response, subprotocol) = websocket::respond(&request.body(()).unwrap()).unwrap();
    let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\n");
    for (name, value) in response.headers() {
        answer.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    answer.push_str("\r\n");
    io.write_all(answer.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    subprotocol
}

pub(crate) async fn write_to(send: &mut dyn SendStream, bytes: &[u8]) -> Result<(), HalfError> {
    let mut bytes = Bytes::copy_from_slice(bytes);
    while !bytes.is_empty() {
        poll_fn(|cx| send.poll_write_bytes(cx, &mut bytes)).await?;
    }
    poll_fn(|cx| send.poll_flush(cx)).await
}

pub(crate) async fn write(stream: &mut BiStream, bytes: &[u8]) {
    let written = write_to(stream.send.as_mut(), bytes);
    within("bytes are taken", written).await.unwrap();
}

pub(crate) async fn finish(stream: &mut BiStream) -> Result<(), HalfError> {
    within("it ends", poll_fn(|cx| stream.send.poll_finish(cx))).await
}

pub(crate) async fn read_from(recv: &mut dyn RecvStream) -> Result<Option<Bytes>, HalfError> {
    within(
        "bytes or an end come",
        poll_fn(|cx| recv.poll_read_bytes(cx, 65_536)),
    )
    .await
}

pub(crate) async fn read_exact(stream: &mut BiStream, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < len {
        let max = len - got.len();
        let bytes = poll_fn(|cx| stream.recv.poll_read_bytes(cx, max));
        let bytes = within("bytes come", bytes).await.unwrap();
        got.extend_from_slice(&bytes.expect("no end yet"));
    }
    got
}

/// Everything up to the clean end.
pub(crate) async fn read_all(stream: &mut BiStream) -> Result<Vec<u8>, HalfError> {
    let mut got = Vec::new();
    while let Some(bytes) = read_from(stream.recv.as_mut()).await? {
        got.extend_from_slice(&bytes);
    }
    Ok(got)
}

/// The error that a writer gets in the end, however much it may write before. It keeps within what a
/// session's credit would allow.
pub(crate) async fn write_until_error(send: &mut dyn SendStream) -> HalfError {
    within("the writer hears of it", async {
        for written in 0.. {
            let piece = if written < 400 {
                &[7; 10_000][..]
            } else {
                &[7]
            };
            if let Err(error) = write_to(send, piece).await {
                return error;
            }
            if written >= 400 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        unreachable!("it writes without end")
    })
    .await
}

/// Bytes that tell where they stand.
pub(crate) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    // A length without a factor in common with those of buffers.
    let cycle = (0..251u8).map(|i| i.wrapping_add(seed.wrapping_mul(31)));
    cycle.cycle().take(len).collect()
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) fn run_pair(kind: Kind, test: impl AsyncFn(Pair)) {
    run(async move { test(Pair::new(kind).await).await });
}

/// Runs a test, then waits until all its tasks are gone.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(6 * DEADLINE, Box::pin(test))
            .await
            .expect("the test ends");
        let metrics = tokio::runtime::Handle::current().metrics();
        until("every task is gone", || metrics.num_alive_tasks() == 0).await;
    });
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Fails where `future` takes too long.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}
