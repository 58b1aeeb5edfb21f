//! The parts of a request that reach a service, and the requests that reach none.

use super::site::{WEB, answered, head, world};
use crate::{
    connect::agent::Agent,
    world::{World, code, status},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_service_gets_its_own_path_and_is_told_its_place() {
    let (agent, world) = world().await;
    let (asked, answer) = answered(
        &agent,
        &world,
        "/a%2Fb//c?q=%zz&x=/../y",
        "X-Own: 1\r\nAccept-Encoding: gzip\r\n",
        OK,
    )
    .await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert!(answer.contains("cache-control: private\r\n"), "{answer}");
    let mut lines = asked.split("\r\n");
    assert_eq!(lines.next(), Some("GET /a%2Fb//c?q=%zz&x=/../y HTTP/1.1"));
    let id = answer.split_once("audit-id: ").unwrap().1;
    let id = id.split_once("\r\n").unwrap().0;
    let mut lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    let uri = format!("x-forwarded-uri: {WEB}/a%2Fb//c");
    assert_eq!(
        lines,
        [
            "accept-encoding: gzip",
            &format!("audit-id: {id}"),
            "host: web.shop.svc",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: front:8443",
            &format!("x-forwarded-prefix: {WEB}"),
            "x-forwarded-proto: https",
            &uri,
            "x-own: 1",
        ]
    );
    assert_eq!(agent.opened(), ["c tcp:web.shop.svc:80 alice"]);
}

#[tokio::test]
async fn rule_4_no_credential_and_no_identity_reaches_a_service() {
    let (agent, world) = world().await;
    let lines = "Cookie: sid=1; underpass=2; __Host-x=3\r\nX-Remote-User: root\r\nProxy-Authorization: Basic eDp5\r\n\
        X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=10.0.0.1\r\n\
        X-Real-Ip: 10.0.0.1\r\nX-Original-Url: /evil\r\nX-Http-Method-Override: DELETE\r\n";
    let (asked, _) = answered(&agent, &world, "/", lines, OK).await;
    let asked = asked.to_ascii_lowercase();
    for gone in [
        "authorization",
        &world.alice.to_ascii_lowercase(),
        "underpass",
        "__host-",
        "x-remote-",
        "10.0.0.1",
        "evil",
        "override",
    ] {
        assert!(!asked.contains(gone), "{gone}: {asked}");
    }
    // A cookie that the service may have set.
    assert!(asked.contains("cookie: sid=1\r\n"), "{asked}");
}

#[tokio::test]
async fn rule_3_a_connection_header_takes_nothing_away_from_a_service() {
    let (agent, world) = world().await;
    let lines = "TE: gzip, trailers\r\nX-Hop: 1\r\nConnection: x-hop, x-forwarded-for, x-forwarded-prefix, host\r\n";
    let (asked, _) = answered(&agent, &world, "/", lines, OK).await;
    for kept in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-prefix: /v1/",
        "host: web.shop.svc",
        "te: trailers\r\n",
    ] {
        assert!(asked.contains(kept), "{kept}: {asked}");
    }
    for gone in ["connection", "x-hop"] {
        assert!(!asked.contains(gone), "{gone}: {asked}");
    }
}

/// One request without an agent's answer; the status and the message.
async fn refused(world: &World, request: &str) -> (u16, String) {
    let answer = world.raw(request).await;
    let message = status(&answer)["message"].as_str().unwrap().to_owned();
    (code(&answer), message)
}

fn close(world: &World, method: &str, path: &str, lines: &str) -> String {
    head(
        world,
        method,
        path,
        &format!("{lines}Connection: close\r\n"),
    )
}

#[tokio::test]
async fn rule_8_nobody_reaches_a_service_without_a_right() {
    let (agent, world) = world().await;
    let path = format!("{WEB}/");
    let stranger = format!("GET {path} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n");
    assert_eq!(refused(&world, &stranger).await.0, 401);
    // Strangers do not learn what would be wrong with a path.
    let stranger = stranger.replace(":web:80", ":web");
    assert_eq!(refused(&world, &stranger).await.0, 401);
    let mallory = close(&world, "GET", &path, "").replace(&world.alice, &world.mallory);
    let (code, message) = refused(&world, &mallory).await;
    assert_eq!(code, 403);
    assert!(message.contains("cannot connect resource"), "{message}");
    let as_bob = close(&world, "GET", &path, "Impersonate-User: bob\r\n");
    let (code, message) = refused(&world, &as_bob).await;
    assert_eq!(code, 400);
    assert!(
        message.contains("leave the Impersonate headers out"),
        "{message}"
    );
    // A service is at no node: the request would reach another place than its client says.
    let at_node = close(&world, "GET", &path, "Underpass-Node: n1\r\n");
    let (code, message) = refused(&world, &at_node).await;
    assert_eq!(code, 400);
    assert!(message.contains("Underpass-Node"), "{message}");
    assert_eq!(agent.opened(), [""; 0]);
}

#[tokio::test]
async fn rule_26_a_path_that_names_no_service_reaches_none() {
    let (agent, world) = world().await;
    for (path, expected) in [
        ("/v1/clusters/c/services/", 400),
        ("/v1/clusters/c/services/http:shop:web/", 400),
        ("/v1/clusters/c/services/http:shop::80/", 400),
        ("/v1/clusters/c/services/http:shop:web:99999/", 400),
        ("/v1/clusters/c/services/http:shop:web%2f:80/", 400),
        ("/v1/clusters/c/services/http:shop:web%00:80/", 400),
        ("/v1/clusters/c/services/http:shop:web:80/..", 400),
        ("/v1/clusters/c/services/http:shop:web:80/%2e%2e/x", 400),
        (
            "/v1/clusters/c/services/http:shop:web:80/a/..%2f..%2fx",
            400,
        ),
        ("/v1/clusters/c/services/http:shop:web:80/%5c..%5c..", 400),
        ("/v1/clusters/C/services/http:shop:web:80/", 404),
        ("/v1/clusters//services/http:shop:web:80/", 404),
        ("/v1/clusters/c%2f/services/http:shop:web:80/", 404),
    ] {
        let answer = refused(&world, &close(&world, "GET", path, "")).await;
        assert_eq!(answer.0, expected, "{path}: {}", answer.1);
    }
    for method in ["TRACE", "PROPFIND"] {
        let request = close(&world, method, &format!("{WEB}/"), "");
        assert_eq!(refused(&world, &request).await.0, 405, "{method}");
    }
    assert_eq!(agent.opened(), [""; 0]);
}

/// On a cluster's name every path is its API server's.
#[tokio::test]
async fn rule_6_a_services_path_is_the_servers_own_names() {
    let (agent, world) = world().await;
    for (host, expected) in [
        ("c.k8s.example.org", "c kube-api alice"),
        ("d.k8s.example.org", "d kube-api alice"),
    ] {
        let request = close(&world, "GET", &format!("{WEB}/"), "");
        let request = request.replace("Host: front:8443", &format!("Host: {host}"));
        let leaving = async { drop(agent.next_end().await) };
        tokio::join!(world.raw(&request), leaving);
        assert_eq!(agent.opened().last().map(String::as_str), Some(expected));
    }
}

async fn declined(agent: &Agent, world: &World, service: &str) -> (u16, String) {
    let before = agent.opened().len();
    let path = format!("/v1/clusters/c/services/http:shop:{service}:80/");
    let answer = refused(world, &close(world, "GET", &path, "")).await;
    assert_eq!(agent.opened().len(), before + 1);
    answer
}

#[tokio::test]
async fn an_agents_reasons_reach_whoever_asks_a_service() {
    let (agent, world) = world().await;
    for (service, code) in [
        ("forbidden", 403),
        ("unreachable", 502),
        ("overloaded", 503),
    ] {
        let (answered, message) = declined(&agent, &world, service).await;
        assert_eq!(answered, code, "{message}");
        let words = format!("declined the connection: no rule allows tcp:{service}.shop.svc:80");
        assert!(message.contains(&words), "{message}");
    }
    let path = |cluster: &str| format!("/v1/clusters/{cluster}/services/http:shop:web:80/");
    for (cluster, code) in [
        ("no-agent", 503),
        ("missing", 404),
        ("direct", 502),
        ("lost", 502),
    ] {
        let (answered, message) = refused(&world, &close(&world, "GET", &path(cluster), "")).await;
        assert_eq!(answered, code, "{message}");
        assert!(!message.contains("10.0.0.7"), "{message}");
    }
}
