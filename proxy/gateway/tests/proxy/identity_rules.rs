//! A request's identity, and that nobody can forge it (security rules 3, 4, 5, 16, 17).

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    api::{Api, ok},
    world::{World, agent, code, collect, soon, status},
};

#[tokio::test]
async fn rule_3_connection_header_cannot_remove_identity() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    for path in ["/api", "/exec"] {
        let lines = "Connection: Impersonate-User, X-Remote-User\r\n\
                     CONNECTION: impersonate-group,Impersonate-Uid , Authorization\r\n\
                     connection: Audit-ID, X-Forwarded-For, Host, X-HOP\r\nX-Hop: 1\r\n";
        assert_eq!(code(&world.get(path, lines).await), 200);
    }
    for seen in api.seen() {
        assert_eq!(seen.all("impersonate-user"), ["alice"]);
        assert_eq!(seen.all("impersonate-group"), ["dev"]);
        assert_eq!(seen.all("impersonate-uid"), ["uid-1"]);
        assert_eq!(seen.all("impersonate-extra-team"), ["ops"]);
        assert_eq!(seen.all("authorization"), ["Bearer agent-token"]);
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.all("audit-id").len(), 1);
        assert_eq!(seen.all("connection"), [""; 0]);
        assert_eq!(seen.all("x-hop"), [""; 0]);
    }
}

#[tokio::test]
async fn rule_3_without_identity_nothing_is_forwarded() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let ask = |lines: String| {
        let head = format!(
            "GET /k8s/clusters/c/api HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
        );
        let world = &world;
        async move { world.raw(&head).await }
    };
    let alice = &world.alice;
    let (start, last) = alice.split_at(alice.len() - 1);
    let typo = format!("{start}{}", if last == "x" { "y" } else { "x" });
    for lines in [
        String::new(),
        "Authorization: Bearer nonsense\r\n".to_owned(),
        format!("Authorization: Bearer {typo}\r\n"),
        format!("Authorization: Basic {alice}\r\n"),
        format!("Authorization: Bearer {alice}\r\nAuthorization: Bearer {alice}\r\n"),
        format!("Cookie: token={alice}\r\n"),
        "Impersonate-User: root\r\nX-Remote-User: root\r\n".to_owned(),
    ] {
        let answer = ask(lines.clone()).await;
        assert_eq!(code(&answer), 401, "{lines}");
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        assert_eq!(status(&answer)["reason"], "Unauthorized");
    }
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_4_inbound_identities_and_credentials_are_removed() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let lines = "X-Remote-User: root\r\nx-REMOTE-group: system:masters\r\nX-Remote-Extra-a: b\r\n\
                 Cookie: session=1\r\nCOOKIE: session=2\r\nProxy-Authorization: Basic eA==\r\n\
                 X-Forwarded-For: 10.1.1.1\r\nX-FORWARDED-host: evil\r\nForwarded: for=10.1.1.1\r\n\
                 X-Real-IP: 10.1.1.1\r\nTE: trailers\r\nKeep-Alive: 5\r\nAudit-ID: mine\r\nX-Kept: 1\r\n";
    assert_eq!(code(&world.get("/api", lines).await), 200);
    let seen = api.only();
    for name in [
        "x-remote-user",
        "x-remote-group",
        "x-remote-extra-a",
        "cookie",
        "proxy-authorization",
        "x-forwarded-host",
        "forwarded",
        "x-real-ip",
        "keep-alive",
    ] {
        assert_eq!(seen.all(name), [""; 0], "{name}");
    }
    assert_eq!(seen.all("te"), ["trailers"]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-kept"), ["1"]);
    assert_ne!(seen.all("audit-id"), ["mine"]);
    assert_eq!(seen.all("impersonate-user"), ["alice"]);
    assert_eq!(seen.version, http::Version::HTTP_2);
}

#[tokio::test]
async fn rule_4_acting_as_somebody_unasked_is_refused_not_ignored() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    for lines in [
        "Impersonate-User: root\r\n",
        "iMpErSoNaTe-UsEr: root\r\nConnection: impersonate-user\r\n",
        "Impersonate-User: bob\r\nImpersonate-User: root\r\n",
        "Impersonate-Group: system:masters\r\n",
        "Impersonate-Extra-scopes: all\r\n",
    ] {
        let answer = world.get("/api", lines).await;
        assert!(matches!(code(&answer), 400 | 403), "{lines}: {answer}");
    }
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn rule_16_acting_as_names_the_real_user() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let lines = "Impersonate-User: bob\r\nImpersonate-Group: ops\r\n";
    assert_eq!(code(&world.get("/api", lines).await), 200);
    let seen = api.only();
    assert_eq!(seen.all("impersonate-user"), ["bob"]);
    assert_eq!(seen.all("impersonate-group"), ["ops"]);
    assert_eq!(seen.all("impersonate-uid"), [""; 0]);
    assert_eq!(
        seen.all("impersonate-extra-underpass.dev%2foriginal-user"),
        ["alice"]
    );
    // The policy still bounds the groups that may be asked for.
    let masters = "Impersonate-User: bob\r\nImpersonate-Group: system:masters\r\n";
    assert_eq!(code(&world.get("/api", masters).await), 403);
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test]
async fn rule_5_the_front_decides_before_anything_is_opened() {
    let api = Api::start(ok).await;
    let world = World::new(&api).await;
    let request = format!(
        "GET /k8s/clusters/c/api/v1/namespaces/a/pods/p/%65xec HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
        world.mallory
    );
    let answer = world.raw(&request).await;
    assert_eq!(code(&answer), 403);
    assert_eq!(
        status(&answer)["message"],
        "clusters.underpass.dev \"c\" is forbidden: User \"mallory\" cannot create resource \
         \"clusters\" in API group \"underpass.dev\""
    );
    assert_eq!(api.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// Speaks to the agent as a captured server would.
async fn captured(api: &Api, identity: &str, request: &str) -> String {
    let agent = agent(api).await;
    let (mut server, stream) = tokio::io::duplex(64 * 1024);
    let identity = identity.to_owned();
    let serving = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.serve_stream(stream, identity.as_bytes()).await }
    });
    server.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(server.read_to_end(&mut answer)).await.unwrap();
    soon(serving).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn rule_4_the_agent_strips_once_more() {
    let api = Api::start(ok).await;
    let identity = r#"{"v":1,"user":"alice","groups":[],"extra":[]}"#;
    let request = "GET /api HTTP/1.1\r\nHost: x\r\nImpersonate-User: root\r\n\
                   IMPERSONATE-GROUP: system:masters\r\nImpersonate-Extra-a: b\r\n\
                   Authorization: Bearer stolen\r\nX-Remote-User: root\r\n\
                   X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n\
                   Connection: Impersonate-User, Authorization\r\n\r\n";
    assert_eq!(code(&captured(&api, identity, request).await), 200);
    let seen = api.only();
    assert_eq!(seen.all("impersonate-user"), ["alice"]);
    assert_eq!(seen.all("authorization"), ["Bearer agent-token"]);
    for name in [
        "impersonate-group",
        "impersonate-extra-a",
        "x-remote-user",
        "x-forwarded-for",
    ] {
        assert_eq!(seen.all(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn rule_17_a_captured_server_cannot_exceed_the_agents_policy() {
    let api = Api::start(ok).await;
    let request = "GET /api HTTP/1.1\r\nHost: x\r\n\r\n";
    for (identity, expected) in [
        (
            r#"{"v":1,"user":"alice","groups":["system:masters"],"extra":[]}"#,
            403,
        ),
        (
            r#"{"v":1,"user":"system:kube-scheduler","groups":[],"extra":[]}"#,
            403,
        ),
        (
            r#"{"v":1,"user":"system:node:n1","groups":["system:nodes"],"extra":[]}"#,
            403,
        ),
        (r#"{"v":1,"user":"","groups":[],"extra":[]}"#, 400),
        (
            r#"{"v":1,"user":"a\nImpersonate-Group: x","groups":[],"extra":[]}"#,
            400,
        ),
        (
            r#"{"v":1,"user":"a","groups":[],"extra":[],"limit":"view"}"#,
            400,
        ),
        ("", 400),
    ] {
        let answer = captured(&api, identity, request).await;
        assert_eq!(code(&answer), expected, "{identity}");
        assert_eq!(status(&answer)["kind"], "Status");
    }
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn six_hundred_groups_arrive() {
    let api = Api::start(ok).await;
    let groups: Vec<String> = (0..600)
        .map(|n| format!("cn=group-{n},ou=größe,{}", "dc=example,".repeat(8)))
        .collect();
    let world = World::with_groups(&api, groups.clone()).await;
    assert_eq!(code(&world.get("/api", "").await), 200);
    let mut sender = world.http2().await;
    let response = soon(sender.send_request(world.request("GET", "/api", underpass_core::empty())));
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    collect(response.into_body()).await;
    for seen in api.seen() {
        assert_eq!(seen.all("impersonate-group"), groups);
    }
}
