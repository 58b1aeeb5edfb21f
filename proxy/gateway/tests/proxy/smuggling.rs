//! Requests that two parsers might read differently.

use crate::{
    api::{Api, echo, ok},
    world::{World, code},
};

/// Bytes that would be a request of their own, without anybody's identity, if one parser stopped early.
const SMUGGLED: &str = "GET /k8s/clusters/c/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

async fn attack(request: impl Fn(&World) -> String) -> (Api, String) {
    let api = Api::start(echo).await;
    let world = World::new(&api).await;
    let answer = world.raw(&request(&world)).await;
    let smuggled = api
        .seen()
        .iter()
        .any(|seen| seen.target.contains("smuggled"));
    assert!(!smuggled, "{answer}");
    (api, answer)
}

#[tokio::test]
async fn rule_3_content_length_beside_chunked_smuggles_nothing() {
    for (length, body) in [
        (5, format!("0\r\n\r\n{SMUGGLED}")),
        (70, format!("0\r\n\r\n{SMUGGLED}")),
    ] {
        let lines = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n");
        attack(|world| world.head("POST", "/api", &lines) + &body).await;
        let lines = format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n");
        attack(|world| world.head("POST", "/api", &lines) + &body).await;
    }
}

#[tokio::test]
async fn rule_3_malformed_framing_is_refused() {
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X-Folded: a\r\n Impersonate-User: root\r\n",
        "X-Space : a\r\n",
        "Impersonate-User\t: root\r\n",
        "X-Null: a\0b\r\n",
    ] {
        let request = |world: &World| world.head("POST", "/api", lines) + "hello" + SMUGGLED;
        let (api, answer) = attack(request).await;
        assert_eq!(code(&answer), 400, "{lines:?}");
        assert_eq!(api.seen().len(), 0, "{lines:?}");
    }
}

/// The cluster, which has not answered yet, has nothing to do with it.
#[tokio::test]
async fn rule_3_a_body_that_is_not_framed_is_its_senders_fault() {
    for body in [
        "zz\r\nabc",
        "5\r\nhelloX0\r\n\r\n",
        "5\r\nhello\r\nfffffffffffffffff\r\nhello",
    ] {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let request = |world: &World| world.head("POST", "/api", chunked) + body + SMUGGLED;
        let (_, answer) = attack(request).await;
        assert_eq!(code(&answer), 400, "{body:?}: {answer}");
        assert!(answer.contains("its body breaks off"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

/// The parser takes it for a host.
#[tokio::test]
async fn a_target_without_a_slash_is_said_to_be_no_path() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    for target in ["version", "example.org:443"] {
        let head = world.head("GET", "", "");
        let answer = world.raw(&head.replace("/k8s/clusters/c", target)).await;
        assert_eq!(code(&answer), 400, "{answer}");
        assert!(answer.contains("its target is no path"), "{answer}");
    }
}

#[tokio::test]
async fn rule_4_bare_line_feeds_hide_no_header() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let answer = world
        .get("/api", "X-A: b\nImpersonate-User: root\nX-C: d\r\n")
        .await;
    assert!(matches!(code(&answer), 400 | 403), "{answer}");
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn other_forms_of_the_target_change_nothing() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let token = &world.alice;
    let rest = format!(
        "HTTP/1.1\r\nHost: evil\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    let absolute = world
        .raw(&format!("GET http://evil:1/k8s/clusters/c/api {rest}"))
        .await;
    assert_eq!(code(&absolute), 200);
    assert_eq!(api.only().target, "/api");
    for target in ["OPTIONS *", "GET /k8s/clusters", "GET /k8s/clusters/C/api"] {
        let answer = world.raw(&format!("{target} {rest}")).await;
        assert_eq!(code(&answer), 404, "{target}");
    }
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test]
async fn http2_connection_headers_are_malformed() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let socket = tokio::net::TcpStream::connect(world.http2).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut request = world
        .request("GET", "/api", underpass_core::empty())
        .map(|_| ());
    request
        .headers_mut()
        .insert("connection", "impersonate-user".parse().unwrap());
    // Our own client refuses to write it; a header that hyper would treat alike goes through.
    assert!(sender.send_request(request, true).is_err());
    let mut request = world
        .request("GET", "/api", underpass_core::empty())
        .map(|_| ());
    *request.version_mut() = http::Version::HTTP_2;
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(api.only().all("te"), ["trailers"]);
}
