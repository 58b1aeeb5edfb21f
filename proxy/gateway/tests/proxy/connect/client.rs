//! Clients that connect, over both versions of HTTP.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Method, Request};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    upgrades::read_head,
    world::{World, soon},
};

/// A head of HTTP/1.1 with these lines, each of which ends in CRLF.
pub(crate) fn head(target: &str, lines: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{lines}\r\n")
}

/// As alice, to a target of cluster `c`.
pub(crate) fn as_alice(world: &World, target: &str) -> String {
    let lines = format!(
        "Proxy-Authorization: Bearer {}\r\nUnderpass-Cluster: c\r\n",
        world.alice
    );
    head(target, &lines)
}

/// A connection to a target of cluster `c`, over HTTP/1.1.
pub(crate) async fn http1(world: &World, target: &str) -> TcpStream {
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let request = as_alice(world, target);
    socket.write_all(request.as_bytes()).await.unwrap();
    let answer = read_head(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    socket
}

/// An HTTP/2 connection.
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    pub(crate) driver: JoinHandle<Result<(), h2::Error>>,
}

/// One of its streams.
pub(crate) struct Stream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
}

impl Http2 {
    pub(crate) async fn new(world: &World) -> Self {
        Self::over(TcpStream::connect(world.http2).await.unwrap()).await
    }

    pub(crate) async fn over(socket: TcpStream) -> Self {
        // h2 counts small frames that were not read against half of the window.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(8 << 20);
        let (sender, connection) = builder.handshake(socket).await.unwrap();
        let driver = tokio::spawn(connection);
        Self { sender, driver }
    }

    /// Asks for a target; the status, the headers and the stream.
    pub(crate) async fn ask(
        &self,
        target: &str,
        lines: &[(&str, &str)],
    ) -> Result<(u16, HeaderMap, Stream), h2::Error> {
        let mut request = Request::builder().method(Method::CONNECT).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut sender = soon(self.sender.clone().ready()).await?;
        let (response, send) = sender.send_request(request.body(()).unwrap(), false)?;
        let (parts, recv) = soon(response).await?.into_parts();
        let stream = Stream { send, recv };
        Ok((parts.status.as_u16(), parts.headers, stream))
    }

    /// As alice, to a target of cluster `c`.
    pub(crate) async fn connect(&self, world: &World, target: &str) -> Stream {
        let bearer = format!("Bearer {}", world.alice);
        let lines = [
            ("proxy-authorization", bearer.as_str()),
            ("underpass-cluster", "c"),
        ];
        let (code, _, stream) = self.ask(target, &lines).await.unwrap();
        assert_eq!(code, 200);
        stream
    }
}

impl Stream {
    pub(crate) fn write(&mut self, bytes: impl Into<Bytes>) {
        self.send.send_data(bytes.into(), false).unwrap();
    }

    pub(crate) fn finish(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    /// Everything until the stream ends; the error where it does not end cleanly.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Result<(), Option<Reason>>) {
        rest_of(&mut self.recv).await
    }

    /// The `metav1.Status` of a refusal.
    pub(crate) async fn status(&mut self) -> Value {
        serde_json::from_slice(&self.rest().await.0).unwrap()
    }
}

/// Reads until the connection ends.
pub(crate) async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = soon(socket.read_to_end(&mut bytes)).await;
    bytes
}

/// As [`Stream::rest`].
pub(crate) async fn rest_of(recv: &mut RecvStream) -> (Vec<u8>, Result<(), Option<Reason>>) {
    let mut bytes = Vec::new();
    while let Some(piece) = soon(recv.data()).await {
        match piece {
            Ok(piece) => {
                let _ = recv.flow_control().release_capacity(piece.len());
                bytes.extend_from_slice(&piece);
            }
            Err(error) => return (bytes, Err(error.reason())),
        }
    }
    (bytes, Ok(()))
}

/// Sends all of this, as fast as the other end reads, and a clean end.
pub(crate) async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let room = soon(poll_fn(|cx| send.poll_capacity(cx))).await;
        let piece = bytes.split_to(room.unwrap().unwrap().min(bytes.len()));
        send.send_data(piece, false).unwrap();
    }
    send.send_data(bytes, true).unwrap();
}
