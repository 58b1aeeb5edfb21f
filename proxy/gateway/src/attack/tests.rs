use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
};

use super::{
    check,
    world::{Outcome, Sender, World},
};

const METHODS: [&str; 11] = [
    "GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "get",
];

const CLUSTERS: [&str; 9] = [
    "edge",
    "edge",
    "edge",
    "edge",
    "other",
    "missing",
    "%65dge",
    "edge/../other",
    "EDGE",
];

/// Mostly the server's.
const HOSTS: [&str; 9] = [
    "up.example",
    "up.example",
    "up.example",
    "edge.clusters.underpass.internal",
    "Edge.Clusters.Underpass.Internal:8443",
    "other.clusters.underpass.internal",
    "x.edge.clusters.underpass.internal",
    "edge@up.example",
    "web.shop.edge.clusters.underpass.internal:80",
];

const SEGMENTS: [&str; 38] = [
    "api",
    "v1",
    "apis",
    "batch",
    "subresources.kubevirt.io",
    "namespaces",
    "x",
    "pods",
    "p",
    "exec",
    "attach",
    "portforward",
    "log",
    "proxy",
    "services",
    "nodes",
    "n",
    "console",
    "vnc",
    "watch",
    "secrets",
    "virtualmachineinstances",
    "",
    ".",
    "..",
    "%2e%2e",
    "%2F",
    "a%2fb",
    "%5c",
    "exec%00",
    "EXEC",
    "exec;x",
    "%65xec",
    "version",
    "healthz",
    "openapi",
    "v2",
    "ephemeralcontainers",
];

/// Paths that mean something, so that not all of them are nonsense.
const PATHS: [&str; 14] = [
    "/version",
    "/api/v1/namespaces/x/pods",
    "/api/v1/namespaces/x/pods/p",
    "/api/v1/namespaces/x/pods/p/exec",
    "/api/v1/namespaces/x/pods/p/attach",
    "/api/v1/namespaces/x/pods/p/portforward",
    "/api/v1/namespaces/x/pods/p/log",
    "/api/v1/namespaces/x/pods/p/proxy/a/b",
    "/api/v1/namespaces/x/services/s/proxy/",
    "/api/v1/nodes/n/proxy/exec/x/p/c",
    "/api/v1/proxy/nodes/n/",
    "/api/v1/watch/namespaces/x/pods",
    "/apis/subresources.kubevirt.io/v1/namespaces/x/virtualmachineinstances/v/console",
    "/apis/subresources.kubevirt.io/v1/namespaces/x/virtualmachineinstances/v/vnc",
];

const QUERIES: [&str; 10] = [
    "watch=true",
    "watch=1&command=sh",
    "watch=0&watch=true",
    "watch",
    "WATCH=true",
    "w%61tch=true",
    "follow=true",
    "command=sh&stdin=true&tty=true",
    "dryRun=All",
    "a=b?watch=true",
];

const LINES: [&str; 31] = [
    "Upgrade: websocket",
    "Upgrade: SPDY/3.1",
    "Upgrade: h2c",
    "Connection: Upgrade",
    "Connection: keep-alive, upgrade",
    "Connection: Impersonate-User, X-Named",
    "Connection: close",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: v5.channel.k8s.io",
    "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.Zm9v",
    "Impersonate-User: root",
    "IMPERSONATE-GROUP: system:masters",
    "Impersonate-Extra-Scopes: x",
    "X-Remote-User: root",
    "x-remote-group: system:masters",
    "Cookie: a=b",
    "Authorization: Bearer second",
    "Proxy-Authorization: Basic eA==",
    "X-Forwarded-For: 203.0.113.1",
    "Forwarded: for=203.0.113.1",
    "X-HTTP-Method-Override: DELETE",
    "Content-Length: 0",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "TE: trailers",
    "Host: up.example",
    "Host: other.example",
    "Host: other.clusters.underpass.internal",
    "Audit-ID: mine",
    "Accept: application/json",
];

fn path() -> impl Strategy<Value = String> {
    let made =
        vec(select(&SEGMENTS[..]), 0..9).prop_map(|segments| format!("/{}", segments.join("/")));
    prop_oneof![select(&PATHS[..]).prop_map(str::to_owned), made]
}

fn head() -> impl Strategy<Value = String> {
    let line = (
        select(&METHODS[..]),
        option::weighted(0.8, select(&CLUSTERS[..])),
        path(),
        option::of(select(&QUERIES[..])),
    );
    let rest = (select(&HOSTS[..]), vec(select(&LINES[..]), 0..6));
    (line, rest).prop_map(|((method, cluster, path, query), (host, lines))| {
        let prefix = cluster.map(|cluster| format!("/k8s/clusters/{cluster}"));
        let prefix = prefix.unwrap_or_default();
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let mut head = format!("{method} {prefix}{path}{query} HTTP/1.1\r\nHost: {host}");
        for line in lines {
            head.push_str("\r\n");
            head.push_str(line);
        }
        head
    })
}

fn send(sender: Sender, head: &str) -> Outcome {
    World::with(|world, runtime| runtime.block_on(world.send(sender, head.as_bytes())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn rule_26_what_an_agent_gets_is_what_was_decided_upon(sender: Index, head in head()) {
        let sender = *sender.get(&Sender::ALL);
        check::outcome(sender, &send(sender, &head));
    }
}

#[test]
fn the_recorder_gets_what_may_pass() {
    for get in [
        "GET /k8s/clusters/edge/api/v1/namespaces/x/pods?limit=5 HTTP/1.1\r\nHost: up.example",
        "GET /api/v1/namespaces/x/pods?limit=5 HTTP/1.1\r\nHost: edge.clusters.underpass.internal",
    ] {
        for sender in Sender::ALL {
            let entitled = !matches!(
                sender,
                Sender::Stranger | Sender::Expired | Sender::Elsewhere
            );
            let outcome = send(sender, get);
            assert_eq!(
                outcome.received.len(),
                usize::from(entitled),
                "{sender:?} {get}"
            );
            check::outcome(sender, &outcome);
        }
    }
    let exec = "GET /k8s/clusters/edge/api/v1/namespaces/x/pods/p/exec?command=sh HTTP/1.1\r\nHost: up.example\r\n\
                Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for sender in Sender::ALL {
        let outcome = send(sender, exec);
        assert_eq!(
            outcome.received.len(),
            usize::from(sender == Sender::Operator),
            "{sender:?}"
        );
        check::outcome(sender, &outcome);
    }
}
