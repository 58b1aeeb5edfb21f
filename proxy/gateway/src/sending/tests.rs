use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use underpass_authenticate::{AuthenticateError, Authenticated, Authenticator, Caller};
use underpass_core::{
    Access, Authority, AuthorizeError, Authorizer, Body, BoxedIo, ClusterDomains, ClusterName,
    Clusters, ConnectError, ConnectionInfo, Nobody, Open, Peer, Protocol, Revocation,
};

use super::*;
use crate::{
    Connection, Fallback, Front, FrontConfig, Holder, RequestBody, ServeError, Standing, Strangers,
};

async fn stalls(sendings: &Sendings, within: Duration) -> bool {
    tokio::time::timeout(within, sendings.stalled())
        .await
        .is_ok()
}

#[tokio::test(start_paused = true)]
async fn rule_23_an_answer_that_stands_still_is_noticed_and_a_slow_one_goes_on() {
    let sendings = Sendings::default();
    let kept = Arc::new(());
    let sending = sendings.begin(Arc::clone(&kept));
    let piece = |sending: &Arc<Sending>| sending.piece(Bytes::from_static(b"x"));
    // Slow: one piece in 50 s, of two that wait.
    let mut waits = piece(&sending);
    for _ in 0..10 {
        waits = {
            let next = piece(&sending);
            assert!(!stalls(&sendings, Duration::from_secs(50)).await);
            drop(waits);
            next
        };
    }
    assert!(stalls(&sendings, 2 * limits::ANSWER_STALL).await);
    // The body may be gone.
    drop(sending);
    assert!(stalls(&sendings, 2 * limits::ANSWER_STALL).await);
    assert_eq!(Arc::strong_count(&kept), 2);
    drop(waits);
    assert_eq!(Arc::strong_count(&kept), 1);
    assert!(!stalls(&sendings, 10 * limits::ANSWER_STALL).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_remembers_nothing_of_answers_that_are_sent() {
    let sendings = Sendings::default();
    for _ in 0..1000 {
        drop(sendings.begin(()).piece(Bytes::from_static(b"x")));
    }
    assert!(sendings.lock().capacity() < 8);
}

/// A front that knows nobody, and answers outside of clusters.
#[derive(Default)]
pub(crate) struct Pages {
    /// Pieces of "/crumbs" that hyper has taken.
    taken: Arc<AtomicUsize>,
}

#[async_trait]
impl Fallback for Pages {
    async fn handle(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<Body> {
        Response::new(match request.uri().path() {
            "/known" => {
                drop(connection.standing().recognise(holder()));
                underpass_core::empty()
            }
            "/refused" => {
                let mut refused = Response::new(underpass_core::empty());
                *refused.status_mut() = StatusCode::BAD_REQUEST;
                return refused;
            }
            "/hangs" => std::future::pending().await,
            "/crumbs" => underpass_core::boxed(Crumbs(Arc::clone(&self.taken))),
            "/drops" => underpass_core::boxed(Drops::default()),
            _ => underpass_core::full(vec![b'x'; 4096]),
        })
    }
}

/// As many pieces of one byte as are wanted.
struct Crumbs(Arc<AtomicUsize>);

impl http_body::Body for Crumbs {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

/// A byte in ten seconds.
#[derive(Default)]
struct Drops(Option<Pin<Box<tokio::time::Sleep>>>);

impl http_body::Body for Drops {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let sleep = || Box::pin(tokio::time::sleep(Duration::from_secs(10)));
        std::task::ready!(self.0.get_or_insert_with(sleep).as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

fn holder() -> Holder {
    Holder::User(Authority::Directory, "alice".into())
}

struct NobodyThere;

#[async_trait]
impl Authenticator for NobodyThere {
    async fn authenticate(
        &self,
        _: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        Ok(None)
    }
}

#[async_trait]
impl Authorizer for NobodyThere {
    async fn authorize(&self, _: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        Err(AuthorizeError::Denied { reason: None })
    }
}

#[async_trait]
impl Clusters for NobodyThere {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        Err(ConnectError::NoAgent)
    }
}

fn front(pages: Pages) -> Arc<Front> {
    Arc::new(Front::new(config(pages)))
}

pub(crate) fn config(pages: Pages) -> FrontConfig {
    FrontConfig {
        authenticator: Arc::new(NobodyThere),
        authorizer: Arc::new(NobodyThere),
        impersonation: Arc::new(Nobody),
        clusters: Arc::new(NobodyThere),
        domains: ClusterDomains::default(),
        fallback: Arc::new(pages),
        policy: Default::default(),
        audit: Default::default(),
        budgets: Default::default(),
        service_roots: Arc::new(crate::NoServiceRoots),
        idle_timeout: Default::default(),
    }
}

fn info(peer: Peer) -> ConnectionInfo {
    ConnectionInfo {
        peer,
        protocol: Protocol::Http2,
        server_name: None,
        certificates: Vec::new(),
        unusable_certificate: None,
    }
}

fn peer() -> Peer {
    IpAddr::from([192, 0, 2, 1]).into()
}

fn get(path: &str) -> Request<Body> {
    let get = Request::get(format!("https://front{path}"));
    get.body(underpass_core::empty()).unwrap()
}

type Serving = tokio::task::JoinHandle<Result<(), ServeError>>;

/// A client whose window for each stream is so large.
async fn client(
    pages: Pages,
    peer: Peer,
    standing: Standing,
    window: u32,
) -> (SendRequest<Body>, ClientConnection, Serving) {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let front = front(pages);
    let serving =
        tokio::spawn(async move { front.serve_stranger(server, info(peer), standing).await });
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(window)
        .initial_connection_window_size(i32::MAX.cast_unsigned());
    let handshake = builder.handshake(TokioIo::new(client)).await;
    let (sender, connection) = handshake.unwrap();
    (sender, connection, serving)
}

type ClientConnection =
    hyper::client::conn::http2::Connection<TokioIo<tokio::io::DuplexStream>, Body, TokioExecutor>;

/// The client answers PINGs, and its window is shut.
#[tokio::test(start_paused = true)]
async fn rule_23_who_reads_nothing_of_an_answer_is_disconnected() {
    let (mut sender, connection, serving) =
        client(Pages::default(), peer(), Standing::default(), 1024).await;
    tokio::spawn(connection);
    // One that is read is no matter.
    let page = sender.send_request(get("/page")).await.unwrap();
    let page = page.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(page.len(), 4096);
    let begun = Instant::now();
    let _unread = sender.send_request(get("/page")).await.unwrap();
    serving.await.unwrap().unwrap();
    let lasted = begun.elapsed();
    let stall = limits::ANSWER_STALL;
    assert!((stall..=3 * stall).contains(&lasted), "{lasted:?}");
}

/// As of a load balancer, whose other users must not pay.
#[tokio::test(start_paused = true)]
async fn rule_23_an_answer_that_is_not_read_ends_without_others_of_a_proxys_connection() {
    let proxies = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    let proxy = Peer::new(IpAddr::from([192, 0, 2, 1]), &proxies);
    let (mut sender, connection, serving) =
        client(Pages::default(), proxy, Standing::default(), 1024).await;
    tokio::spawn(connection);
    let unread = sender.send_request(get("/page")).await.unwrap();
    let mut drops = sender
        .send_request(get("/drops"))
        .await
        .unwrap()
        .into_body();
    let begun = Instant::now();
    while begun.elapsed() < 5 * limits::ANSWER_STALL {
        drops.frame().await.unwrap().unwrap();
    }
    assert!(!serving.is_finished());
    drop(unread);
}

/// A refusal costs memory as well while it is not read, and no budget of requests counts it.
#[tokio::test(start_paused = true)]
async fn rule_23_who_reads_nothing_of_a_refusal_pays_and_does_not_keep_it() {
    let strangers = Strangers::default();
    let standing = strangers.enter(IpAddr::from([192, 0, 2, 1]));
    let (mut sender, connection, serving) = client(Pages::default(), peer(), standing, 0).await;
    tokio::spawn(connection);
    let before = strangers.bytes();
    let mut unread = Vec::new();
    for path in ["/k8s/clusters/edge/api", "/page", "/healthz"] {
        for _ in 0..20 {
            unread.push(sender.send_request(get(path)).await.unwrap());
        }
    }
    assert!(strangers.bytes() >= before + 60 * limits::UNSENT_ANSWER);
    let ended = async {
        for response in unread {
            response.into_body().collect().await.unwrap_err();
        }
    };
    let in_time = tokio::time::timeout(3 * limits::ANSWER_STALL, ended).await;
    in_time.expect("all are reset");
    drop((sender, serving));
}

/// Each piece costs h2 some hundred bytes.
#[tokio::test]
async fn rule_23_an_answer_in_crumbs_has_few_of_them_unsent() {
    let pages = Pages::default();
    let taken = Arc::clone(&pages.taken);
    let (client, server) = tokio::io::duplex(16 * 1024);
    let front = front(pages);
    let serving = tokio::spawn(async move { front.serve_connection(server, info(peer())).await });
    let window = i32::MAX.cast_unsigned();
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window);
    let (mut sender, mut connection) = builder.handshake::<_, Bytes>(client).await.unwrap();
    // Until the answer's head is there the client reads, and nothing afterwards.
    let (answer, _) = sender
        .send_request(get("/crumbs").map(|_| ()), true)
        .unwrap();
    let answered = tokio::select! {
        answered = answer => answered.unwrap(),
        _ = &mut connection => unreachable!("it serves"),
    };
    let mut before = usize::MAX;
    while before != taken.load(Ordering::Relaxed) {
        before = taken.load(Ordering::Relaxed);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    // The socket and the writer have room for some thousand frames.
    assert!((1..20_000).contains(&before), "{before}");
    drop((answered, connection, serving));
}

/// A request that is answered at once does not forgive the body of another one that came in the same burst.
#[tokio::test]
async fn rule_23_unread_bodies_of_a_burst_are_charged() {
    const BODY: usize = 200 * 1024;
    let strangers = Strangers::default();
    let standing = strangers.enter(IpAddr::from([192, 0, 2, 1]));
    let (client, server) = tokio::io::duplex(4 * BODY);
    let front = front(Pages::default());
    let serving =
        tokio::spawn(async move { front.serve_stranger(server, info(peer()), standing).await });
    let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |sender: &mut h2::client::SendRequest<Bytes>, path: &str, end| {
        sender.send_request(get(path).map(|_| ()), end).unwrap()
    };
    ask(&mut sender, "/known", true).0.await.unwrap();
    assert_eq!(strangers.known_bytes(), 0);
    let (answered, _) = ask(&mut sender, "/k8s/clusters/edge", true);
    let (_hangs, mut upload) = ask(&mut sender, "/hangs", false);
    upload
        .send_data(Bytes::from(vec![b'x'; BODY]), true)
        .unwrap();
    answered.await.unwrap();
    let charged = async {
        while strangers.known_bytes() < BODY - limits::KNOWN_HEAD_FREE {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), charged).await;
    in_time.expect("all of it is charged");
    drop((connection, serving));
}
