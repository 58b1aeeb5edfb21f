//! Clients that speak something else.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_testenv::Transport;
use underpass_testenv::testing::Wire;

use crate::deployment::Deployment;
use crate::raw;
use crate::services::{curl, output};

fn deployment() -> &'static Deployment {
    Deployment::shared(Transport::Quic)
}

#[tokio::test]
async fn an_unknown_alpn_protocol_is_refused_with_an_alert() {
    let error = raw::connect(deployment(), &[b"spdy/3.1"])
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(said.contains("NoApplicationProtocol"), "{said}");
    deployment()
        .admin(Wire::WebSocket)
        .run(&["get", "--raw", "/version"])
        .await;
}

#[tokio::test]
async fn without_alpn_it_is_http_1() {
    let mut tls = raw::connect(deployment(), &[]).await.unwrap();
    tls.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    // A server that ends without a TLS close is an error to rustls.
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn quic_with_an_unknown_alpn_protocol_is_refused_with_an_alert() {
    let tls = raw::tls(&deployment().ca_file(), &[b"h3"]);
    let config = QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = raw::authority(deployment()).parse().unwrap();
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let error = connecting.await.unwrap_err();
    // RFC 9001, section 4.8, and RFC 7301: 0x100 + no_application_protocol (120).
    let refused = quinn::TransportErrorCode::crypto(120);
    let code = match error {
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code, refused);
}

#[tokio::test]
async fn a_client_that_leaves_out_tls_is_told() {
    let deployment = Deployment::shared(Transport::Quic);
    let url = deployment.url().replace("https://", "http://");
    let url = format!("{url}/k8s/clusters/x/version");
    let way = ["--http1.1", "--write-out", " %{http_code}", &url];
    let answer = output(curl(way)).await;
    assert!(answer.ends_with(" 400"), "{answer}");
    assert!(
        answer.contains("an HTTP request to a port for HTTPS"),
        "{answer}"
    );
    let log = deployment.server_log().unwrap();
    assert!(log.contains("a connection without TLS is refused"), "{log}");
    let metrics = deployment.metrics().unwrap();
    assert!(
        metrics.contains("underpass_not_tls_total{speaks=\"http\"}"),
        "{metrics}"
    );
}
