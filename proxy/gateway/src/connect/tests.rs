//! Connections on a connection that is counted.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{Request, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::{
    Front, FrontConfig, IdleTimeout, StrangerBounds, Strangers,
    sending::tests::{Pages, config},
};
use underpass_authenticate::{AuthenticateError, Authenticated, Authenticator, Caller};
use underpass_core::{
    Access, AuthorizeError, Authorizer, BoxedIo, ClusterName, Clusters, ConnectError,
    ConnectionInfo, Identity, Open, Protocol, Revocation,
};

/// Lets everybody in, and reads everything. The end of a stream is noted.
#[derive(Clone, Default)]
struct Sink {
    /// The target's half ends at once.
    says_nothing: bool,
    ended: Arc<Ended>,
}

/// The end of a stream to a target.
#[derive(Default)]
struct Ended {
    clean: AtomicBool,
    dropped: CancellationToken,
}

/// A stream to a target.
struct ToTarget {
    io: tokio::io::DuplexStream,
    ended: Arc<Ended>,
}

impl Drop for ToTarget {
    fn drop(&mut self) {
        self.ended.dropped.cancel();
    }
}

impl AsyncRead for ToTarget {
    underpass_core::pass_on!(io: poll_read);
}

impl AsyncWrite for ToTarget {
    underpass_core::pass_on!(io: poll_write, poll_flush);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended.clean.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Authenticator for Sink {
    async fn authenticate(
        &self,
        _: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let alice = Identity::new("alice".into(), None, vec![], Default::default()).unwrap();
        Ok(Some(Authenticated::new(alice, Revocation::never())))
    }
}

#[async_trait]
impl Authorizer for Sink {
    async fn authorize(&self, _: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        Ok(Revocation::never())
    }
}

#[async_trait]
impl Clusters for Sink {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        let (io, mut target) = tokio::io::duplex(64 * 1024);
        let says_nothing = self.says_nothing;
        tokio::spawn(async move {
            if says_nothing {
                target.shutdown().await.unwrap();
            }
            let mut space = vec![0; 64 * 1024];
            while let Ok(1..) = target.read(&mut space).await {}
        });
        let ended = Arc::clone(&self.ended);
        Ok(Box::new(ToTarget { io, ended }))
    }
}

/// A client of such a front on HTTP/2, whose idle timeout is this, with a stream that is open. Once it is `silent`, it neither reads nor
/// sends.
async fn connected(
    strangers: &Strangers,
    idle_timeout: IdleTimeout,
    sink: Sink,
    silent: &Arc<AtomicBool>,
) -> (
    h2::SendStream<Bytes>,
    h2::RecvStream,
    tokio::task::JoinHandle<Result<(), h2::Error>>,
) {
    let front = Arc::new(Front::new(FrontConfig {
        authenticator: Arc::new(Sink::default()),
        authorizer: Arc::new(Sink::default()),
        clusters: Arc::new(sink),
        idle_timeout,
        ..config(Pages::default())
    }));
    let peer = IpAddr::from([192, 0, 2, 1]);
    let standing = strangers.enter(peer);
    let info = ConnectionInfo {
        peer: peer.into(),
        protocol: Protocol::Http2,
        server_name: None,
        certificates: Vec::new(),
        unusable_certificate: None,
    };
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { front.serve_stranger(server, info, standing).await });
    let (mut sender, mut connection) = h2::client::handshake(client).await.unwrap();
    let silent = Arc::clone(silent);
    let driver = tokio::spawn(poll_fn(move |cx| match silent.load(Ordering::Relaxed) {
        true => Poll::Pending,
        false => Pin::new(&mut connection).poll(cx),
    }));
    let request = Request::connect("web.shop:80")
        .header(header::PROXY_AUTHORIZATION, "Bearer x")
        .header("underpass-cluster", "c");
    let (response, send) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    (send, response.into_body(), driver)
}

/// Much more than the bound of what HTTP/2 lets a client send ahead.
#[tokio::test]
async fn rule_23_what_a_connection_has_passed_on_is_not_charged() {
    let strangers = Strangers::new(StrangerBounds::default());
    let (mut send, _recv, _driver) = connected(
        &strangers,
        IdleTimeout::default(),
        Sink::default(),
        &Arc::default(),
    )
    .await;
    let piece = Bytes::from(vec![0; 16 * 1024]);
    let mut left: usize = 20 * 1024 * 1024;
    while left > 0 {
        send.reserve_capacity(piece.len());
        let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        let size = room.min(left).min(piece.len());
        send.send_data(piece.slice(..size), false).unwrap();
        left -= size;
    }
    // The bytes that are still under way are read soon.
    let read = async {
        while strangers.known_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("all of it is read");
    assert_eq!(strangers.known_connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_an_open_stream_is_not_idle() {
    let strangers = Strangers::new(StrangerBounds::default());
    let idle = IdleTimeout::try_from(Duration::from_secs(10)).unwrap();
    let (mut send, _recv, driver) =
        connected(&strangers, idle, Sink::default(), &Arc::default()).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!driver.is_finished());
    send.send_reset(h2::Reason::CANCEL);
    let ended = tokio::time::timeout(Duration::from_secs(60), driver).await;
    ended.expect("it is idle then").unwrap().unwrap();
}

/// hyper ends the connection of a client that answers no PING with NO_ERROR, and takes that for its streams' clean end.
#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_no_clean_end() {
    for says_nothing in [false, true] {
        let strangers = Strangers::new(StrangerBounds::default());
        let sink = Sink {
            says_nothing,
            ..Sink::default()
        };
        let ended = Arc::clone(&sink.ended);
        let (idle, silent) = (IdleTimeout::default(), Arc::<AtomicBool>::default());
        let (mut send, mut recv, _driver) = connected(&strangers, idle, sink, &silent).await;
        if says_nothing {
            while let Some(data) = recv.data().await {
                assert!(data.unwrap().is_empty());
            }
        }
        let half = Bytes::from_static(b"half of");
        send.send_data(half, false).unwrap();
        // It is sent by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        silent.store(true, Ordering::Relaxed);
        let in_time = tokio::time::timeout(Duration::from_secs(300), ended.dropped.cancelled());
        in_time.await.expect("it is given up");
        assert!(
            !ended.clean.load(Ordering::Relaxed),
            "a clean end, with a target that says nothing: {says_nothing}"
        );
    }
}
