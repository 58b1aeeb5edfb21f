//! The request decided about is the one forwarded (security rule 26).

use crate::{
    api::{Api, ok},
    redirects::{ask, from_the_server},
    upgrades::{SPDY, WEBSOCKET, answer_at_the_end},
    world::{World, agent, code, soon, status},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use underpass_core::empty;

const PROXY: &str = "/api/v1/namespaces/a/services/s/proxy";

/// Each with a word of the reason.
const AMBIGUOUS: [(&str, &str); 13] = [
    ("//", "empty segment"),
    ("//api/v1/pods", "empty segment"),
    ("/api/v1//pods/", "empty segment"),
    ("/api/v1/namespaces/a//pods/p/exec", "empty segment"),
    ("/api/v1/./namespaces/a/pods/p/exec", "dot segment"),
    ("/a/../b", "dot segment"),
    ("/api/v1/x/%2E%2e/pods", "dot segment"),
    ("/api/v1/x%2f..%2fpods", "dot segment"),
    ("/api/v1/x%5c..%5cpods", "dot segment"),
    ("/api/v1/nodes/n%5Cproxy/run%5cx", "backslash"),
    ("/%00", "control character"),
    ("/api/v1/pods/%zz", "percent-escape"),
    (
        "/api/v1/namespaces/a/services/s/proxy/a/../../../../pods/p/exec",
        "leaves the proxied",
    ),
];

#[tokio::test]
async fn rule_26_what_has_two_meanings_is_refused() {
    let api = Api::start(answer_at_the_end).await;
    let world = World::new(&api).await;
    let mut http2 = world.http2().await;
    for (path, word) in AMBIGUOUS {
        for (method, lines) in [
            ("GET", "Connection: close\r\n"),
            ("POST", SPDY),
            ("GET", WEBSOCKET),
        ] {
            let answer = world.raw(&world.head(method, path, lines)).await;
            assert_eq!(code(&answer), 400, "{path}: {answer}");
            let status = status(&answer);
            assert_eq!(status["reason"], "BadRequest");
            assert!(
                status["message"].as_str().unwrap().contains(word),
                "{path}: {status}"
            );
        }
        let request = world.request("GET", path, empty());
        let answer = soon(http2.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        // A stranger learns nothing of it.
        let stranger =
            format!("GET /k8s/clusters/c{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(code(&world.raw(&stranger).await), 401, "{path}");
    }
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_26_what_kubernetes_serves_arrives_byte_for_byte() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let paths = [
        "/",
        "/api/v1/pods/",
        "/a%2Fb%2f%25/;x=y",
        "/x?a=%2F&b=//&c=/../",
        "/x?",
        "/k8s/clusters/other/api",
        "/api/v1/namespaces/a/pods/p%2Flog?follow=1",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/DOMAIN%5Cuser",
        "/api/v1/namespaces/a/services/s/proxy//a///b/../c/%00;d\\e",
    ];
    for path in paths {
        assert_eq!(code(&world.get(path, "").await), 200, "{path}");
    }
    // An absolute target is its path, wherever it says that it is.
    let token = &world.alice;
    let absolute = format!(
        "GET http://elsewhere/k8s/clusters/c/version HTTP/1.1\r\nHost: front\r\n\
         Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(code(&world.raw(&absolute).await), 200);
    let targets: Vec<_> = api.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets[..paths.len()], paths);
    assert_eq!(targets[paths.len()..], ["/version"]);
}

#[tokio::test]
async fn rule_26_only_methods_of_kubernetes_are_forwarded() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    for method in ["TRACE", "PROPFIND", "LIST", "get", "WATCH"] {
        for path in ["/api/v1/pods", &format!("{PROXY}/x")] {
            let answer = world
                .raw(&world.head(method, path, "Connection: close\r\n"))
                .await;
            assert_eq!(code(&answer), 405, "{method}: {answer}");
            assert_eq!(status(&answer)["reason"], "MethodNotAllowed");
            assert!(answer.contains("allow: GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE\r\n"));
        }
    }
    // Neither names a cluster.
    for (target, answered) in [("CONNECT 10.0.0.1:443", 400), ("OPTIONS *", 404)] {
        let host = target.rsplit(' ').next().unwrap_or_default();
        let host = host.strip_prefix('*').map_or(host, |_| "front");
        let request = format!(
            "{target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            world.alice
        );
        assert_eq!(code(&world.raw(&request).await), answered, "{target}");
    }
    // A CONNECT with a path opens no tunnel, however it is parsed.
    let head = world.head("CONNECT", "/api/v1/pods", "Connection: close\r\n");
    let answer = world.raw(&head).await;
    assert!(matches!(code(&answer), 400 | 404 | 405), "{answer}");
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_26_no_header_asks_for_another_method_or_path() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let lines = "X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n\
                 X-Original-URL: /api/v1/secrets\r\nX-Original-Method: DELETE\r\n\
                 X-Rewrite-URL: /api/v1/secrets\r\nX-Forwarded-Prefix: /x\r\nX-Kept: 1\r\n";
    for path in ["/api/v1/pods", &format!("{PROXY}/x")] {
        assert_eq!(code(&world.get(path, lines).await), 200);
    }
    for seen in api.seen() {
        for name in lines.lines().filter_map(|line| line.split_once(": ")) {
            let kept: &[&str] = if name.0 == "X-Kept" { &["1"] } else { &[] };
            assert_eq!(seen.all(name.0), kept, "{}", name.0);
        }
    }
}

#[tokio::test]
async fn rule_26_the_agent_reads_once_as_well() {
    let api = Api::start(ok).await;
    for (method, path, expected) in [
        ("GET", "/api/v1//pods/p/exec", 400),
        ("GET", "/api/v1/x/../pods", 400),
        ("GET", &*format!("{PROXY}/../../../pods/p"), 400),
        ("GET", "/api/v1/pods/%zz", 400),
        ("OPTIONS", "*", 400),
        ("TRACE", "/api/v1/pods", 405),
        ("CONNECT", "10.0.0.1:443", 405),
        ("PROPFIND", &*format!("{PROXY}/x"), 405),
    ] {
        let answer = ask(agent(&api).await, &from_the_server(method, path, "")).await;
        assert_eq!(code(&answer), expected, "{method} {path}: {answer}");
    }
    assert_eq!(api.seen().len(), 0);
}

/// Go's servers take these bytes in a query. A request on the same connection, behind a body, as well.
#[tokio::test]
async fn a_query_with_bytes_that_go_takes_arrives() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let path = "/api/v1/namespaces/a/services/s/proxy/q?q=up{job=\"a\"}>0&r=<\\|^`b";
    let encoded = "/api/v1/namespaces/a/services/s/proxy/q?q=up{job=%22a%22}%3E0&r=%3C\\|^`b";
    let put = |lines| world.head("PUT", "/api/v1/namespaces/a/configmaps/c", lines);
    let sized = put("Content-Length: 5\r\n") + "?\"<>\n";
    let chunks = "5;x\r\n?\"<>\n\r\n0\r\nX-Sum: \"\r\n\r\n";
    let chunked = put("Transfer-Encoding: chunked\r\n") + chunks;
    let first = world.head("GET", path, "");
    let last = world.head("GET", path, "Connection: close\r\n");
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let mut answers = Vec::new();
    let requests = [&first, &sized, &first, &chunked, &last];
    for (number, request) in requests.into_iter().enumerate() {
        socket.write_all(request.as_bytes()).await.unwrap();
        until_seen(&api, number + 1).await;
        while String::from_utf8_lossy(&answers)
            .matches("\r\n\r\nok")
            .count()
            <= number
        {
            assert_ne!(soon(socket.read_buf(&mut answers)).await.unwrap(), 0);
        }
    }
    let seen: Vec<_> = api.seen().into_iter().map(|seen| seen.target).collect();
    for number in [0, 2, 4] {
        assert_eq!(seen[number], encoded, "{number}");
    }
}

/// The same over HTTP/2, from a client that keeps the path in its table and sends it again from there (RFC 7541, section 6.1).
#[tokio::test]
async fn a_path_with_bytes_that_go_takes_arrives_over_http2() {
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }
    fn literal(first: &[u8], value: &str) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [first, &[length], value.as_bytes()].concat()
    }
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let path = "/api/v1/namespaces/a/services/s/proxy/q?q=up{a=\"a\"}>0";
    let encoded = "/api/v1/namespaces/a/services/s/proxy/q?q=up{a=%22a%22}%3E0";
    // By their places in the static table: GET, http, :authority, authorization.
    let fields = [
        vec![0x82, 0x86],
        literal(&[0x01], "front"),
        literal(&[0x0f, 8], &format!("Bearer {}", world.alice)),
    ]
    .concat();
    let indexed = literal(&[0x44], &format!("/k8s/clusters/c{path}"));
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 5, 1, &[&indexed, &*fields].concat()));
    bytes.extend(frame(1, 5, 3, &[&[0xbe], &*fields].concat()));
    let mut socket = TcpStream::connect(world.http2).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    until_seen(&api, 2).await;
    let seen: Vec<_> = api.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, [encoded, encoded]);
}

async fn until_seen(api: &Api, requests: usize) {
    crate::world::until(|| api.seen().len() == requests).await;
}
