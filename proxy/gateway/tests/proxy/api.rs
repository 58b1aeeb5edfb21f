//! Fake API servers: one of hyper's, one of raw bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use underpass_core::Body;

/// A request to the API server.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) version: Version,
}

impl Seen {
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let lines = self.headers.get_all(name).iter();
        lines
            .map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned())
            .collect()
    }
}

/// A certificate authority of one certificate.
pub(crate) struct Pki {
    pub(crate) certificate: Vec<u8>,
    acceptor: TlsAcceptor,
}

impl Pki {
    pub(crate) fn new(alpn: &[&str]) -> Self {
        Self::good_until(alpn, 2100)
    }

    /// One whose certificate ends with that year.
    fn good_until(alpn: &[&str], year: i32) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let certificate = made.der().to_vec();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self {
            certificate,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

/// A running API server.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: Vec<u8>,
    pub(crate) connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Api {
    /// Serves h2 and http/1.1 with `handler`.
    pub(crate) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_with(&["h2", "http/1.1"], handler).await
    }

    pub(crate) async fn start_with<H, F>(alpn: &[&str], handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_on(Pki::new(alpn), handler).await
    }

    /// One whose certificate has expired long ago.
    pub(crate) async fn expired() -> Self {
        Self::start_on(Pki::good_until(&["h2", "http/1.1"], 2020), ok).await
    }

    async fn start_on<H, F>(pki: Pki, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        Self::start_raw(pki, seen, move |_, stream| {
            serve(stream, handler.clone(), log.clone())
        })
        .await
    }

    /// Hands every connection, with its number, to `script`.
    pub(crate) async fn scripted<S, F>(alpn: &[&str], script: S) -> Self
    where
        S: Fn(usize, TlsStream<TcpStream>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_raw(Pki::new(alpn), Arc::default(), script).await
    }

    async fn start_raw<S, F>(pki: Pki, seen: Arc<Mutex<Vec<Seen>>>, script: S) -> Self
    where
        S: Fn(usize, TlsStream<TcpStream>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, acceptor) = (Arc::clone(&connections), pki.acceptor);
        let script = Arc::new(script);
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        script(number, tls).await;
                    }
                });
            }
        });
        let certificate = pki.certificate;
        let _accepting = AbortOnDropHandle::new(accepting);
        Self {
            address,
            certificate,
            connections,
            seen,
            _accepting,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The one request that there was.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

/// Serves one connection as kube-apiserver does: 1 MiB of headers and more, 100 streams.
pub(crate) async fn serve<H, F>(
    stream: TlsStream<TcpStream>,
    handler: H,
    log: Arc<Mutex<Vec<Seen>>>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        log.lock().unwrap().push(Seen {
            target: request.uri().path_and_query().unwrap().to_string(),
            headers: request.headers().clone(),
            version: request.version(),
        });
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(stream);
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(3 << 20)
            .max_concurrent_streams(100)
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .max_headers(4096)
            .max_buf_size(3 << 20)
            .half_close(true)
            .serve_connection(io, service)
            .with_upgrades()
            .await
    };
}

/// Answers 200 with a word.
pub(crate) async fn ok(_request: Request<Incoming>) -> Response<Body> {
    Response::new(underpass_core::full("ok"))
}

/// Sends the body back as it comes.
pub(crate) async fn echo(request: Request<Incoming>) -> Response<Body> {
    Response::new(request.into_body().map_err(Into::into).boxed_unsync())
}

/// A body that the test writes.
pub(crate) fn channel() -> (
    tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>,
    Body,
) {
    struct Channel(tokio::sync::mpsc::Receiver<Result<Bytes, std::io::Error>>);
    impl http_body::Body for Channel {
        type Data = Bytes;
        type Error = underpass_core::BoxError;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            self.0
                .poll_recv(cx)
                .map(|next| next.map(|chunk| chunk.map(http_body::Frame::data).map_err(Into::into)))
        }
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, Channel(receiver).boxed_unsync())
}
