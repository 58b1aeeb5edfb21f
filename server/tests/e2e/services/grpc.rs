//! A real implementation of gRPC, tonic, at both ends, by every way that carries HTTP/2 to a service.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use http::uri::PathAndQuery;
use http::{Request as HttpRequest, Response as HttpResponse, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{Grpc as Server, NamedService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use underpass_testenv::testing::eventually;
use underpass_testenv::{CLUSTER_NAME, Transport};

use super::calls::{head, soon};
use super::forward::Forward;
use super::site::Site;
use crate::over_both_transports;
use crate::raw;

over_both_transports!(a_real_grpc_program_calls_a_service_by_every_way);

/// A message of the service.
#[derive(Clone, PartialEq, prost::Message)]
struct Word {
    #[prost(string, tag = "1")]
    text: String,
}

fn word(text: impl Into<String>) -> Word {
    Word { text: text.into() }
}

fn codec() -> ProstCodec<Word, Word> {
    ProstCodec::default()
}

/// The service, as `tonic-build` would write it.
#[derive(Clone, Default)]
struct Words {
    /// Calls that do not answer and that somebody waits for.
    hanging: Arc<AtomicUsize>,
}

impl NamedService for Words {
    const NAME: &'static str = "test.Words";
}

/// Counts a call until it is dropped.
struct Hanging(Arc<AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<HttpRequest<Body>> for Words {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let hanging = Arc::clone(&self.hanging);
        Box::pin(async move {
            let mut server = Server::new(codec());
            let hang = move |request| hang(request, Arc::clone(&hanging));
            Ok(match request.uri().path() {
                "/test.Words/Shout" => server.unary(service_fn(shout), request).await,
                "/test.Words/Count" => server.server_streaming(service_fn(count), request).await,
                "/test.Words/Join" => server.client_streaming(service_fn(join), request).await,
                "/test.Words/Hang" => server.unary(service_fn(hang), request).await,
                other => panic!("{other}"),
            })
        })
    }
}

async fn shout(request: Request<Word>) -> Result<Response<Word>, Status> {
    let text = request.into_inner().text;
    if text == "nothing" {
        let mut more = MetadataMap::new();
        more.insert("reason", "empty".parse().unwrap());
        let message = "nothing to shout: caf\u{e9}, 100%";
        return Err(Status::with_metadata(
            Code::FailedPrecondition,
            message,
            more,
        ));
    }
    let mut answer = Response::new(word(text.to_uppercase()));
    answer
        .metadata_mut()
        .insert("shouted-by", "tonic".parse().unwrap());
    Ok(answer)
}

type Messages = stream::BoxStream<'static, Result<Word, Status>>;

/// Counts to the number, and then fails if it is odd: behind messages, in the trailers.
async fn count(request: Request<Word>) -> Result<Response<Messages>, Status> {
    let most: u32 = request.into_inner().text.parse().unwrap();
    let numbers = stream::iter(0..most).map(|number| Ok(word(number.to_string())));
    let end = (most % 2 == 1).then(|| Err(Status::data_loss("an odd number")));
    Ok(Response::new(numbers.chain(stream::iter(end)).boxed()))
}

async fn join(request: Request<Streaming<Word>>) -> Result<Response<Word>, Status> {
    let mut words = request.into_inner();
    let mut all = Vec::new();
    while let Some(word) = words.message().await? {
        all.push(word.text);
    }
    Ok(Response::new(word(all.join(" "))))
}

async fn hang(_: Request<Word>, hanging: Arc<AtomicUsize>) -> Result<Response<Word>, Status> {
    hanging.fetch_add(1, Ordering::SeqCst);
    let _until_dropped = Hanging(hanging);
    std::future::pending().await
}

fn serve(listener: TcpListener) -> (Words, AbortOnDropHandle<()>) {
    let words = Words::default();
    let serving = tonic::transport::Server::builder()
        .add_service(words.clone())
        .serve_with_incoming(TcpIncoming::from(listener));
    let serving = async move { serving.await.unwrap() };
    (words, AbortOnDropHandle::new(tokio::spawn(serving)))
}

/// A way to the service.
struct Way {
    name: &'static str,
    client: Client<Channel>,
    /// With each request.
    token: Option<String>,
}

impl Way {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    async fn unary(
        &mut self,
        method: &'static str,
        request: Request<Word>,
    ) -> Result<Response<Word>, Status> {
        soon(self.client.ready()).await.unwrap();
        soon(
            self.client
                .unary(request, PathAndQuery::from_static(method), codec()),
        )
        .await
    }

    async fn unary_call(&mut self) {
        let request = self.request(word("hello"));
        let answer = self.unary("/test.Words/Shout", request).await.unwrap();
        assert_eq!(
            answer.metadata().get("shouted-by").unwrap(),
            "tonic",
            "{}",
            self.name
        );
        // The status is in the trailers, which tonic adds to the metadata.
        assert_eq!(
            answer.metadata().get("grpc-status").unwrap(),
            "0",
            "{}",
            self.name
        );
        assert_eq!(answer.into_inner(), word("HELLO"), "{}", self.name);
    }

    async fn a_status_that_is_an_error(&mut self) {
        let request = self.request(word("nothing"));
        let status = self.unary("/test.Words/Shout", request).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::FailedPrecondition,
            "{}: {status:?}",
            self.name
        );
        assert_eq!(
            status.message(),
            "nothing to shout: caf\u{e9}, 100%",
            "{}",
            self.name
        );
        assert_eq!(
            status.metadata().get("reason").unwrap(),
            "empty",
            "{}",
            self.name
        );
    }

    async fn server_streaming(&mut self, most: usize) {
        let request = self.request(word(most.to_string()));
        soon(self.client.ready()).await.unwrap();
        let path = PathAndQuery::from_static("/test.Words/Count");
        let counting = soon(self.client.server_streaming(request, path, codec())).await;
        let mut messages = counting.unwrap().into_inner();
        for number in 0..most {
            let message = soon(messages.message()).await.unwrap();
            assert_eq!(message, Some(word(number.to_string())), "{}", self.name);
        }
        let end = soon(messages.message()).await;
        match most % 2 {
            0 => assert_eq!(end.unwrap(), None, "{}", self.name),
            _ => {
                let status = end.unwrap_err();
                assert_eq!(
                    (status.code(), status.message()),
                    (Code::DataLoss, "an odd number")
                );
            }
        }
    }

    async fn client_streaming(&mut self) {
        let words = (0..1000).map(|number| number.to_string());
        let expected = words.clone().collect::<Vec<_>>().join(" ");
        let request = self.request(stream::iter(words.map(word)));
        soon(self.client.ready()).await.unwrap();
        let path = PathAndQuery::from_static("/test.Words/Join");
        let joining = self.client.client_streaming(request, path, codec());
        let answer: Response<Word> = soon(joining).await.unwrap();
        assert_eq!(answer.into_inner(), word(expected), "{}", self.name);
    }

    /// The service hears that nobody waits any more.
    async fn a_deadline(&mut self, words: &Words) {
        let mut request = self.request(word(""));
        request.set_timeout(Duration::from_millis(500));
        let status = self.unary("/test.Words/Hang", request).await.unwrap_err();
        let is_late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
        assert!(is_late, "{}: {status:?}", self.name);
        eventually("no call is waited for", async || {
            match words.hanging.load(Ordering::SeqCst) {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
    }
}

/// A channel on a connection that there is.
async fn channel(
    origin: &str,
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Channel {
    let io = Arc::new(Mutex::new(Some(TokioIo::new(io))));
    let connect = service_fn(move |_: Uri| {
        let io = io.lock().unwrap().take();
        async move { io.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    // The scheme of the origin is for the other side: this one has no TLS of its own.
    let endpoint = Endpoint::from_static("http://localhost").origin(origin.parse().unwrap());
    soon(endpoint.connect_with_connector(connect))
        .await
        .unwrap()
}

async fn by_forward(address: std::net::SocketAddr) -> Way {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = soon(endpoint.connect()).await.unwrap();
    Way {
        name: "underpass forward",
        client: Client::new(channel),
        token: None,
    }
}

async fn by_connect(site: &Site) -> Way {
    let socket = raw::connect(&site.deployment, &[b"http/1.1"]).await;
    let (mut socket, host) = (socket.unwrap(), site.host("calls"));
    let token = site.bearer();
    let connect = format!(
        "CONNECT {host}:50051 HTTP/1.1\r\nHost: {host}:50051\r\nUnderpass-Cluster: {CLUSTER_NAME}\r\n\
         Proxy-Authorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(connect.as_bytes()).await.unwrap();
    let head = head(&mut socket).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let channel = channel(&format!("http://{host}:50051"), socket).await;
    Way {
        name: "CONNECT",
        client: Client::new(channel),
        token: None,
    }
}

async fn by_the_reverse_proxy(site: &Site) -> Way {
    let socket = raw::connect(&site.deployment, &[b"h2"]).await.unwrap();
    let channel = channel("https://localhost", socket).await;
    let prefix = site.path("h2c", "calls", 50051, "");
    let origin = format!("https://localhost{prefix}").parse().unwrap();
    Way {
        name: "the reverse proxy",
        client: Client::with_origin(channel, origin),
        token: Some(site.bearer()),
    }
}

async fn a_real_grpc_program_calls_a_service_by_every_way(transport: Transport) {
    let site = Site::start(transport).await;
    let (words, _serving) = serve(site.listen("calls", 50051).await);
    let rule = format!("0:{}:50051", site.host("calls"));
    let mut forward = Forward::start(&site.deployment, &site.token, &[&rule]);
    let (address, _) = forward.port().await;
    let ways = [
        by_forward(address).await,
        by_connect(&site).await,
        by_the_reverse_proxy(&site).await,
    ];
    for mut way in ways {
        way.unary_call().await;
        way.a_status_that_is_an_error().await;
        way.server_streaming(1000).await;
        way.server_streaming(3).await;
        way.client_streaming().await;
        way.a_deadline(&words).await;
        // The connection is none the worse for it.
        way.unary_call().await;
    }
    forward.interrupt().await;
}
