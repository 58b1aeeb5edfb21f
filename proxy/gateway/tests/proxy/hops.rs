//! Requests that a proxy in front of the front brings: the client's address belongs to the request.

use serde_json::json;
use underpass_audit::BackendConfig;

use crate::{
    api::{Api, ok},
    audit::Taken,
    upgrades::{SPDY, answer_at_the_end, upgrade},
    world::{World, code, collect, soon},
};

/// The tests' own address is a trusted proxy's.
const HERE: &str = "127.0.0.1";

#[tokio::test]
async fn each_request_of_a_proxys_connection_has_its_own_client() {
    let api = Api::start(ok).await;
    let taken = Taken::new();
    let (audit_log, _) = taken.audit_log(BackendConfig::default());
    let world = World::behind(&api, audit_log, HERE).await;
    let mut sender = world.http2().await;
    for client in ["192.0.2.1", "2001:db8::2"] {
        let mut request = world.request("GET", "/api", underpass_core::empty());
        let line = format!("203.0.113.9, {client}").parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", line);
        let response = soon(sender.send_request(request)).await.unwrap();
        collect(response.into_body()).await;
    }
    assert_eq!(code(&world.get("/api", "").await), 200);
    let told: Vec<_> = api
        .seen()
        .iter()
        .map(|s| s.all("x-forwarded-for"))
        .collect();
    assert_eq!(told, [["192.0.2.1"], ["2001:db8::2"], ["127.0.0.1"]]);
    let events = taken.all(3).await;
    let written: Vec<_> = events.iter().map(|event| &event["sourceIPs"]).collect();
    let wanted = [["192.0.2.1"], ["2001:db8::2"], ["127.0.0.1"]].map(|one| json!(one));
    assert_eq!(written, wanted.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn rule_3_connection_header_cannot_hide_the_client() {
    let api = Api::start(answer_at_the_end).await;
    let world = World::behind(&api, Default::default(), HERE).await;
    let lines = "X-Forwarded-For: 192.0.2.1\r\nConnection: X-Forwarded-For\r\n";
    world.get("/api", lines).await;
    // An upgrade is a request like any other.
    let (_socket, head) = upgrade(&world, "POST", &format!("{lines}{SPDY}")).await;
    assert_eq!(code(&head), 101);
    let seen = api.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.1"]);
    }
}

#[tokio::test]
async fn rule_4_no_other_header_says_where_a_client_is() {
    let api = Api::start(ok).await;
    let world = World::behind(&api, Default::default(), HERE).await;
    let lines = "Forwarded: for=203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n\
                 X-Client-IP: 203.0.113.9\r\nX-Forwarded: for=203.0.113.9\r\n";
    for (more, expected) in [
        ("", "127.0.0.1"),
        ("x-FORWARDED-for: 192.0.2.1\r\n", "192.0.2.1"),
        ("X-Forwarded-For: 192.0.2.1, unknown\r\n", "127.0.0.1"),
        (
            "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 192.0.2.1:80\r\n",
            "192.0.2.1",
        ),
    ] {
        assert_eq!(
            code(&world.get("/api", &format!("{lines}{more}")).await),
            200
        );
        let seen = api.seen();
        let seen = seen.last().unwrap();
        assert_eq!(seen.all("x-forwarded-for"), [expected], "{more}");
        for name in ["forwarded", "x-real-ip"] {
            assert_eq!(seen.all(name), [""; 0], "{name}");
        }
    }
}
