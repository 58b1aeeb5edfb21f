//! Redirects, cookies and challenges of a cluster and its workloads: none leads a client elsewhere, and none is
//! about the origin that all clusters share (security rule 20).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use underpass_core::{BoxedIo, ClusterName, Clusters, ConnectError, Open, empty};
use underpass_upstream::ApiServer;

use crate::{
    api::{Api, ok},
    upgrades::{SPDY, WEBSOCKET, raw_api},
    world::{World, agent, code, soon, status},
};

const PROXY: &str = "/api/v1/namespaces/a/services/http:s:80/proxy";
const CLIENT: &str = "/k8s/clusters/c/api/v1/namespaces/a/services/http:s:80/proxy";
const STATUSES: [u16; 8] = [300, 301, 302, 303, 305, 307, 308, 399];

/// An API server, or a workload behind it, that always answers like this.
async fn answers(status: u16, lines: &[(&str, &str)]) -> Api {
    let lines: Vec<(String, String)> = lines
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Api::start(move |_| {
        let lines = lines.clone();
        async move {
            let mut response = Response::builder().status(status);
            for (name, value) in lines {
                response = response.header(name, value);
            }
            response.body(empty()).unwrap()
        }
    })
    .await
}

/// A header's values in a raw answer.
fn values<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// The answer says that there was a redirect, and not where to.
fn refused(answer: &str, elsewhere: SocketAddr) {
    assert_eq!(code(answer), 502, "{answer}");
    let status = status(answer);
    assert_eq!(status["kind"], "Status");
    assert_eq!(status["reason"], "RedirectRefused", "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("the cluster tried to redirect"),
        "{message}"
    );
    assert_eq!(values(answer, "location"), [""; 0]);
    assert!(!answer.contains(&elsewhere.to_string()), "{answer}");
}

#[tokio::test]
async fn rule_2_no_redirect_is_followed() {
    let evil = Api::start(ok).await;
    let location = format!("https://{}/api/v1/secrets", evil.address);
    for path in ["/api/v1/pods", &format!("{PROXY}/x")] {
        let below = format!("{PROXY}/y");
        for location in [&location, &below] {
            let api = answers(307, &[("location", location)]).await;
            let world = World::new(&api).await;
            world.get(path, "").await;
            assert_eq!(api.seen().len(), 1, "{path} {location}");
            assert_eq!(evil.connections.load(Ordering::SeqCst), 0);
        }
    }
}

#[tokio::test]
async fn rule_20_a_clusters_redirect_is_a_502() {
    let elsewhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
    for status in STATUSES {
        for location in [
            "https://192.0.2.1:80/api/v1/secrets",
            "/v1/clusters/victim",
            "/k8s/clusters/other/api/v1/pods",
            "/api/v1/pods/",
        ] {
            let api = answers(status, &[("location", location), ("refresh", "0; url=/")]).await;
            let world = World::new(&api).await;
            for path in ["/api/v1/pods", "/", "/apis/x.io/v1/services/s/proxy/x"] {
                refused(&world.get(path, "").await, elsewhere);
            }
            let mut http2 = world.http2().await;
            let deleting = world.request("DELETE", "/api/v1/namespaces/a/pods/p", empty());
            let answer = soon(http2.send_request(deleting)).await.unwrap();
            assert_eq!(answer.status(), 502);
            assert!(!answer.headers().contains_key("location"));
        }
    }
    let api = answers(304, &[("location", "/x"), ("etag", "\"1\"")]).await;
    let answer = World::new(&api).await.get("/openapi/v3", "").await;
    assert_eq!(
        (code(&answer), values(&answer, "etag")),
        (304, vec!["\"1\""])
    );
    assert_eq!(values(&answer, "location"), [""; 0]);
    // A client that asks which APIs there are reads plain text.
    let api = answers(302, &[("location", "/x")]).await;
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\r\n";
    let answer = World::new(&api).await.get("/api", accept).await;
    assert_eq!(code(&answer), 502);
    assert!(answer.contains("the cluster tried to redirect"), "{answer}");
}

#[tokio::test]
async fn rule_20_a_refused_upgrade_redirects_nobody() {
    let elsewhere: SocketAddr = "10.0.0.1:443".parse().unwrap();
    let answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://10.0.0.1:443/\r\n\
                  Content-Length: 0\r\n\r\n";
    for path in [
        "/api/v1/namespaces/a/pods/p/exec",
        "/version",
        &format!("{PROXY}/x"),
    ] {
        for (method, lines) in [("POST", SPDY), ("GET", WEBSOCKET)] {
            let (api, extra) = raw_api(answer).await;
            let world = World::new(&api).await;
            let heard = world.raw(&world.head(method, path, lines)).await;
            refused(&heard, elsewhere);
            assert_eq!(values(&heard, "connection"), ["close"]);
            assert_eq!(extra.lock().unwrap().len(), 0);
        }
    }
}

#[tokio::test]
async fn rule_20_a_proxied_page_may_redirect_below_its_proxy() {
    for (location, rest) in [
        // As kube-apiserver writes it, of its own or of a workload's.
        (format!("{PROXY}/login?next=%2F"), "/login?next=%2F"),
        (format!("{PROXY}/"), "/"),
        ("next#part".to_owned(), "/app/next#part"),
        ("../x".to_owned(), "/x"),
    ] {
        let api = answers(307, &[("location", &location)]).await;
        let world = World::new(&api).await;
        let answer = world.get(&format!("{PROXY}/app/page?q=1"), "").await;
        assert_eq!(code(&answer), 307, "{location}: {answer}");
        assert_eq!(values(&answer, "location"), [format!("{CLIENT}{rest}")]);
    }
    // A workload's redirect, built from the Host that it sees.
    let api = Api::start(|request| async move {
        let host = request.uri().authority().unwrap().clone();
        let location = format!("http://{host}{PROXY}/x");
        let response = Response::builder().status(302).header("location", location);
        response.body(empty()).unwrap()
    })
    .await;
    let answer = World::new(&api).await.get(&format!("{PROXY}/"), "").await;
    assert_eq!(values(&answer, "location"), [format!("{CLIENT}/x")]);
}

#[tokio::test]
async fn rule_20_a_proxied_page_redirects_nowhere_else() {
    let elsewhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
    for location in [
        "https://192.0.2.1:80/",
        "//192.0.2.1:80/",
        "/\\192.0.2.1:80/",
        "/login",
        "/v1/clusters/victim",
        "../../../t/proxy/",
        "%2e%2e/%2E./%2e%2e/x",
        "..%2f..%2f..%2fx",
        "/api/v1/namespaces/a/services/t/proxy/",
        "/api/v1/namespaces/a/services/http:s:80/proxyx/",
        "javascript:alert(1)",
        "",
    ] {
        let api = answers(308, &[("location", location)]).await;
        let world = World::new(&api).await;
        refused(
            &world.get(&format!("{PROXY}/app/page"), "").await,
            elsewhere,
        );
    }
    let two = [("location", "a"), ("location", "b")];
    for lines in [&two[..], &[]] {
        let api = answers(302, lines).await;
        let world = World::new(&api).await;
        refused(&world.get(&format!("{PROXY}/x"), "").await, elsewhere);
    }
}

/// An agent that says what it likes.
struct Liar(String);

#[async_trait]
impl Clusters for Liar {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        let (server, mut agent) = tokio::io::duplex(64 * 1024);
        let answer = self.0.clone();
        tokio::spawn(async move {
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                heard.push(agent.read_u8().await.unwrap());
            }
            agent.write_all(answer.as_bytes()).await.unwrap();
            let _ = agent.read_to_end(&mut heard).await;
        });
        Ok(Box::new(server))
    }
}

#[tokio::test]
async fn rule_20_the_server_believes_no_agent() {
    let elsewhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
    for status in STATUSES {
        let lie = format!(
            "HTTP/1.1 {status} X\r\nLocation: https://192.0.2.1:80/\r\nContent-Length: 0\r\n\r\n"
        );
        let world = World::over(Arc::new(Liar(lie))).await;
        for (path, lines) in [
            ("/api/v1/pods", "Connection: close\r\n"),
            (&*format!("{PROXY}/x"), "Connection: close\r\n"),
            ("/api/v1/namespaces/a/pods/p/exec", WEBSOCKET),
        ] {
            refused(&world.raw(&world.head("GET", path, lines)).await, elsewhere);
        }
    }
    let lie = "HTTP/1.1 403 X\r\nWWW-Authenticate: Basic realm=\"x\"\r\nSet-Cookie: a=b\r\nLink: </v1>\r\n\
               Access-Control-Allow-Origin: *\r\nStrict-Transport-Security: max-age=0\r\n\
               Clear-Site-Data: \"*\"\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n";
    let world = World::over(Arc::new(Liar(lie.to_owned()))).await;
    let answer = world.get("/api/v1/pods", "").await;
    for name in [
        "www-authenticate",
        "set-cookie",
        "link",
        "access-control-allow-origin",
        "strict-transport-security",
        "clear-site-data",
    ] {
        assert_eq!(values(&answer, name), [""; 0], "{answer}");
    }
    assert_eq!(values(&answer, "x-kept"), ["1"]);
}

#[tokio::test]
async fn rule_20_no_agent_says_that_a_callers_credential_is_none() {
    let lie = "HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n";
    let world = World::over(Arc::new(Liar(lie.to_owned()))).await;
    for (path, lines) in [
        ("/api/v1/pods", "Connection: close\r\n"),
        ("/api/v1/pods?watch=1", "Connection: close\r\n"),
        ("/api/v1/namespaces/a/pods/p/exec", WEBSOCKET),
    ] {
        let answer = world.raw(&world.head("GET", path, lines)).await;
        assert_eq!(code(&answer), 502, "{path}: {answer}");
    }
    // A workload has users of its own.
    let answer = world.get(&format!("{PROXY}/x"), "").await;
    assert_eq!(code(&answer), 401, "{answer}");
}

#[tokio::test]
async fn rule_20_a_trailer_is_no_way_around() {
    let lie = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n2\r\nok\r\n0\r\n\
               Set-Cookie: a=b\r\nLocation: //192.0.2.1\r\nWWW-Authenticate: Basic\r\nX-Sum: 1\r\n\r\n";
    let world = World::over(Arc::new(Liar(lie.to_owned()))).await;
    let mut http2 = world.http2().await;
    let request = world.request("GET", &format!("{PROXY}/x"), empty());
    let answer = soon(http2.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = soon(answer.into_body().collect()).await.unwrap();
    let trailers = body.trailers().unwrap();
    let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-sum"]);
}

/// Keeps the identity that the server gives an agent.
#[derive(Default)]
struct Tap(Mutex<Option<Bytes>>);

#[async_trait]
impl Clusters for Tap {
    async fn connect(&self, _: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        *self.0.lock().unwrap() = Some(open.identity.clone());
        Err(ConnectError::NoAgent)
    }
}

/// An agent's answer to a server that sends it these bytes.
pub(crate) async fn ask(agent: Arc<ApiServer>, request: &str) -> String {
    let tap = Arc::new(Tap::default());
    let world = World::over(tap.clone()).await;
    assert_eq!(code(&world.get("/version", "").await), 503);
    let identity = tap.0.lock().unwrap().clone().unwrap();
    let (mut server, stream) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(async move { agent.serve_stream(stream, &identity).await });
    server.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(server.read_to_end(&mut answer)).await.unwrap();
    let _ = soon(serving).await;
    String::from_utf8(answer).unwrap()
}

pub(crate) fn from_the_server(method: &str, path: &str, lines: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: kubernetes.default.svc\r\n{lines}\r\n")
}

#[tokio::test]
async fn rule_20_the_agent_refuses_by_itself() {
    let elsewhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let there = format!("{PROXY}/y");
    for (path, location, passes) in [
        ("/api/v1/pods", "https://192.0.2.1:80/", false),
        ("/api/v1/pods", "/api/v1/pods/", false),
        (&*format!("{PROXY}/x"), "https://192.0.2.1:80/", false),
        (&*format!("{PROXY}/x"), &*there, true),
    ] {
        let api = answers(
            307,
            &[("location", location), ("www-authenticate", "Basic")],
        )
        .await;
        let answer = ask(agent(&api).await, &from_the_server("GET", path, "")).await;
        if passes {
            assert_eq!(
                (code(&answer), values(&answer, "location")),
                (307, vec![&*there])
            );
        } else {
            refused(&answer, elsewhere);
        }
        assert_eq!(values(&answer, "www-authenticate"), [""; 0]);
    }
}

#[tokio::test]
async fn rule_20_a_workloads_cookies_are_for_its_own_path() {
    let lines = [
        (
            "set-cookie",
            "sid=1; Path=/; HttpOnly; Secure; SameSite=Lax",
        ),
        ("set-cookie", "deep=2; Domain=example.com; Path=/app"),
        ("set-cookie", "bare=3"),
        ("set-cookie", "__Host-x=4; Path=/; Secure"),
        ("set-cookie", "underpass_session=5; Path=/"),
        ("set-cookie", "broken"),
    ];
    let api = answers(200, &lines).await;
    let world = World::new(&api).await;
    let answer = world.get(&format!("{PROXY}/app/login"), "").await;
    assert_eq!(
        values(&answer, "set-cookie"),
        [
            format!("sid=1; Path={CLIENT}/; HttpOnly; Secure; SameSite=Lax"),
            format!("deep=2; Path={CLIENT}/app"),
            format!("bare=3; Path={CLIENT}/"),
        ]
    );
    for path in [
        "/api/v1/pods",
        "/apis/x.io/v1/services/s/proxy/x",
        "/version",
    ] {
        let answer = world.get(path, "").await;
        assert_eq!(values(&answer, "set-cookie"), [""; 0], "{path}");
    }
}

#[tokio::test]
async fn rule_4_cookies_reach_workloads_only() {
    let cookies =
        "Cookie: sid=1; underpass_session=2\r\nCookie: __Host-login=3; xsrf=4; broken\r\n";
    for (path, lines, expected) in [
        (
            format!("{PROXY}/x"),
            cookies.to_owned(),
            Some("sid=1; xsrf=4"),
        ),
        ("/api/v1/pods".to_owned(), cookies.to_owned(), None),
        (
            "/apis/x.io/v1/services/s/proxy/x".to_owned(),
            cookies.to_owned(),
            None,
        ),
        (
            format!("{PROXY}/x"),
            format!("{cookies}Connection: Cookie\r\n"),
            None,
        ),
        (
            format!("{PROXY}/x"),
            "Cookie: underpass=1\r\n".to_owned(),
            None,
        ),
    ] {
        let api = Api::start(ok).await;
        let world = World::new(&api).await;
        assert_eq!(code(&world.get(&path, &lines).await), 200);
        let seen = api.only().all("cookie");
        assert_eq!(seen, expected.into_iter().collect::<Vec<_>>(), "{path}");
    }
    // The API server is behind another proxy, to which a cookie may be a credential.
    let api = Api::start(ok).await;
    let mut config = kube::Config::new(format!("https://{}/up", api.address).parse().unwrap());
    config.root_cert = Some(vec![api.certificate.clone()]);
    let nested = ApiServer::new(config, Default::default()).await.unwrap();
    let world = World::with_agent(Arc::new(nested), vec![]).await;
    assert_eq!(code(&world.get(&format!("{PROXY}/x"), cookies).await), 200);
    assert_eq!(api.only().target, format!("/up{PROXY}/x"));
    assert_eq!(api.only().all("cookie"), [""; 0]);
}

#[tokio::test]
async fn rule_20_no_challenge_of_a_workload_reaches_a_client() {
    let lines = [
        ("www-authenticate", "Basic realm=\"x\""),
        ("www-authenticate", "Negotiate"),
        ("proxy-authenticate", "Basic"),
        ("authentication-info", "nextnonce=x"),
    ];
    for status in [401, 407, 200] {
        let api = answers(status, &lines).await;
        let answer = World::new(&api).await.get(&format!("{PROXY}/x"), "").await;
        assert_eq!(code(&answer), status);
        for (name, _) in lines {
            assert_eq!(values(&answer, name), [""; 0], "{answer}");
        }
    }
}

/// A redirect of a client that really goes somewhere else: nothing arrives there.
#[tokio::test]
async fn rule_20_a_token_goes_nowhere_by_a_redirect() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = elsewhere.local_addr().unwrap();
    let location = format!("http://{address}/");
    let api = answers(307, &[("location", &location)]).await;
    let world = World::new(&api).await;
    let answer = world.get("/api/v1/pods", "").await;
    refused(&answer, address);
    let came = futures_util::FutureExt::now_or_never(elsewhere.accept());
    assert!(came.is_none(), "it was followed");
}
