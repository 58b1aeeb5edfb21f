//! Connections on a connection that is counted.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{Request, header};
use tokio::io::AsyncReadExt;

use crate::{
    Front, FrontConfig, IdleTimeout, StrangerBounds, Strangers,
    sending::tests::{Pages, config},
};
use underpass_authenticate::{AuthenticateError, Authenticated, Authenticator, Caller};
use underpass_core::{
    Access, AuthorizeError, Authorizer, BoxedIo, ClusterName, Clusters, ConnectError,
    ConnectionInfo, Identity, Open, Protocol, Revocation,
};

/// Lets everybody in, and reads everything.
struct Sink;

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
        let (front, mut target) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut space = vec![0; 64 * 1024];
            while let Ok(1..) = target.read(&mut space).await {}
        });
        Ok(Box::new(front))
    }
}

/// A client of such a front on HTTP/2, whose idle timeout is this, with a stream that is open.
async fn connected(
    strangers: &Strangers,
    idle_timeout: IdleTimeout,
) -> (
    h2::SendStream<Bytes>,
    h2::RecvStream,
    tokio::task::JoinHandle<Result<(), h2::Error>>,
) {
    let front = Arc::new(Front::new(FrontConfig {
        authenticator: Arc::new(Sink),
        authorizer: Arc::new(Sink),
        clusters: Arc::new(Sink),
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
    let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
    let driver = tokio::spawn(connection);
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
    let (mut send, _recv, _driver) = connected(&strangers, IdleTimeout::default()).await;
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
    let (mut send, _recv, driver) = connected(&strangers, idle).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!driver.is_finished());
    send.send_reset(h2::Reason::CANCEL);
    let ended = tokio::time::timeout(Duration::from_secs(60), driver).await;
    ended.expect("it is idle then").unwrap().unwrap();
}
