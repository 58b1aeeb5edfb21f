//! One HTTP/2 connection to one endpoint, for gRPC.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::config::{Endpoint, EtcdConfig};
use crate::limits;
use crate::tls::{self, ConnectError};
use crate::wire::{Method, WATCH, WatchRequest, WatchResponse};

/// A connection. It ends with its last clone and its last call.
#[derive(Clone)]
pub(crate) struct Link {
    sender: Sender,
    origin: Uri,
}

impl Link {
    /// Connects.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub(crate) async fn connect(
        config: &EtcdConfig,
        endpoint: &Endpoint,
    ) -> Result<Self, ConnectError> {
        let connecting = tokio::time::timeout(limits::CONNECT, Self::open(config, endpoint));
        let silent = |_| ConnectError::Silent(endpoint.clone());
        connecting.await.map_err(silent)?
    }

    async fn open(config: &EtcdConfig, endpoint: &Endpoint) -> Result<Self, ConnectError> {
        let socket = tls::connect(config, endpoint).await?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .keep_alive_interval(limits::KEEPALIVE)
            .keep_alive_timeout(limits::KEEPALIVE_ANSWER)
            // etcd takes a question without a call for an attack.
            .keep_alive_while_idle(false);
        let http = |error| ConnectError::Http(endpoint.clone(), error);
        let (sender, connection) = builder
            .handshake(TokioIo::new(socket))
            .await
            .map_err(http)?;
        tokio::spawn(async move {
            // Its calls tell of the error.
            let _ = connection.await;
        });
        let origin = endpoint.to_string().parse();
        Ok(Self {
            sender: Sender(sender),
            origin: origin.unwrap_or_default(),
        })
    }

    fn grpc(&self) -> Grpc<Sender> {
        Grpc::with_origin(self.sender.clone(), self.origin.clone())
            .max_decoding_message_size(limits::ANSWER_BYTES)
    }

    /// One question, one answer. The caller sets the deadline.
    pub(crate) async fn ask<M, A>(
        &self,
        method: Method,
        message: M,
        token: Option<AsciiMetadataValue>,
    ) -> Result<A, Status>
    where
        M: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(unavailable)?;
        let path = PathAndQuery::from_static(method.0);
        let codec = ProstCodec::<M, A>::default();
        let answer = grpc.unary(request(message, token), path, codec).await?;
        Ok(answer.into_inner())
    }

    /// Watches. A member without a leader ends the watch.
    pub(crate) async fn watch(
        &self,
        message: WatchRequest,
        token: Option<AsciiMetadataValue>,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(unavailable)?;
        // The end of the requests would be the end of the watch.
        let messages = futures_util::StreamExt::chain(
            futures_util::stream::iter([message]),
            futures_util::stream::pending(),
        );
        let mut request = request(messages, token);
        let needs_leader = AsciiMetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", needs_leader);
        let path = PathAndQuery::from_static(WATCH.0);
        let answer = grpc.streaming(request, path, ProstCodec::default()).await?;
        Ok(answer.into_inner())
    }
}

fn request<T>(message: T, token: Option<AsciiMetadataValue>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

fn unavailable(error: hyper::Error) -> Status {
    Status::from_error(Box::new(error))
}

/// hyper's half of a connection, as tonic wants it.
#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
