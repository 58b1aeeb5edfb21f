//! Connections that are refused, and how their clients learn it.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{
    agent::Agent,
    client::{Http2, as_alice, head},
};
use crate::world::{World, code, status, until};

/// A request of its own, if the bytes behind a CONNECT were read as one.
const SMUGGLED: &str = "GET /k8s/clusters/c/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

async fn world() -> (Arc<Agent>, World) {
    let agent = Arc::<Agent>::default();
    let world = World::over(Arc::clone(&agent) as _).await;
    (agent, world)
}

fn alice(world: &World) -> String {
    format!("Proxy-Authorization: Bearer {}\r\n", world.alice)
}

/// The answer to a request of alice's, on either version of HTTP: its code and its message.
async fn both(world: &World, cluster: &str, target: &str) -> (u16, String) {
    let lines = format!("{}Underpass-Cluster: {cluster}\r\n", alice(world));
    let answer = world.raw(&(head(target, &lines) + SMUGGLED)).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let (first, first_status) = (code(&answer), status(&answer));
    let connection = Http2::new(world).await;
    let bearer = format!("Bearer {}", world.alice);
    let lines = [
        ("proxy-authorization", bearer.as_str()),
        ("underpass-cluster", cluster),
    ];
    let (second, _, mut stream) = connection.ask(target, &lines).await.unwrap();
    let second_status = stream.status().await;
    assert_eq!((first, &first_status), (second, &second_status));
    assert_eq!(first_status["kind"], "Status");
    assert_eq!(first_status["code"], first);
    // Others on the connection go on.
    let (code, ..) = connection.ask("echo:1", &[]).await.unwrap();
    assert_eq!(code, 400);
    let message = first_status["message"].as_str().unwrap().to_owned();
    (first, message)
}

#[tokio::test]
async fn an_agents_reasons_reach_the_client_and_nobody_elses_do() {
    let (_, world) = world().await;
    for (cluster, target, code, words) in [
        ("c", "forbidden:1", 403, "no rule allows tcp:forbidden:1"),
        (
            "c",
            "unreachable:1",
            502,
            "no rule allows tcp:unreachable:1",
        ),
        ("c", "overloaded:1", 503, "no rule allows tcp:overloaded:1"),
        (
            "c",
            "silent:1",
            504,
            "timed out waiting for the agent's answer",
        ),
        ("no-agent", "web:80", 503, "has no agent connected"),
        ("missing", "web:80", 404, "not found"),
        ("direct", "web:80", 502, "is reached without an agent"),
        ("lost", "web:80", 502, "was lost"),
    ] {
        let (answered, message) = both(&world, cluster, target).await;
        assert_eq!(answered, code, "{cluster} {target}");
        assert!(message.contains(words), "{message}");
        assert!(!message.contains("10.0.0.7"), "{message}");
    }
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn rule_1_nothing_is_relayed_without_a_200() {
    let (agent, world) = world().await;
    let lines = |extra: &str| format!("{}Underpass-Cluster: c\r\n{extra}", alice(&world));
    for (request, expected) in [
        (head("web:80", &lines("Content-Length: 5\r\n")), 400),
        (head("web:80", &lines("Content-Length: 0\r\n")), 400),
        (
            head("web:80", &lines("Transfer-Encoding: chunked\r\n")),
            400,
        ),
        (
            head("web:80", &lines("Transfer-Encoding: gzip, chunked\r\n")),
            400,
        ),
        (
            head(
                "web:80",
                &lines("Connection: Upgrade\r\nUpgrade: websocket\r\n"),
            ),
            400,
        ),
        (head("web:80", &lines("Expect: 100-continue\r\n")), 400),
        (head("web:80", &lines("Host: evil:80\r\n")), 400),
        (head("web:80", &lines("Underpass-Cluster: c\r\n")), 400),
        (head("web:80", &alice(&world)), 400),
        (head("web", &lines("")), 400),
        (head("web:80", &lines("Impersonate-User: bob\r\n")), 400),
        (head("web:80", &lines("impersonate-group: x\r\n")), 400),
        (
            head("web.c.clusters.underpass.internal:80", &lines(""))
                .replace("Cluster: c", "Cluster: d"),
            421,
        ),
        (
            as_alice(&world, "web:80").replace("HTTP/1.1", "HTTP/1.0"),
            400,
        ),
        (
            as_alice(&world, "web:80").replace("Host: web:80", "Host: evil:80"),
            400,
        ),
        (as_alice(&world, "forbidden:1"), 403),
    ] {
        let answer = world.raw(&(request.clone() + SMUGGLED)).await;
        assert_eq!(code(&answer), expected, "{request}: {answer}");
        let (answered, _) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            answered.matches("HTTP/1.").count(),
            1,
            "{request}: {answer}"
        );
        assert!(answer.ends_with('}'), "{request}: {answer}");
    }
    assert_eq!(agent.opened(), ["c tcp:forbidden:1 alice"]);
}

#[tokio::test]
async fn rule_21_a_connection_has_one_credential() {
    let (agent, world) = world().await;
    let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
    let bearer = format!("Bearer {}", world.alice);
    let in_url = basic(&format!("anybody:{}", world.bob));
    let proxy = "Proxy-Authorization";
    for (lines, user) in [
        (vec![(proxy, bearer.as_str())], Some("alice")),
        (vec![(proxy, in_url.as_str())], Some("bob")),
        (vec![("Authorization", bearer.as_str())], Some("alice")),
        // A password, by an authenticator that reads one.
        (vec![(proxy, crate::world::BROWSER)], Some("browser")),
        (vec![], None),
        (vec![(proxy, "Bearer upt_wrong")], None),
        (vec![(proxy, "Bearer")], None),
        (vec![(proxy, "Negotiate x")], None),
        (vec![(proxy, "Basic eDp5")], None),
        (
            vec![(proxy, bearer.as_str()), (proxy, bearer.as_str())],
            None,
        ),
        (
            vec![(proxy, bearer.as_str()), ("Authorization", bearer.as_str())],
            None,
        ),
        (
            vec![(proxy, "Basic eDp5"), ("Authorization", bearer.as_str())],
            None,
        ),
    ] {
        let before = agent.opened().len();
        let text: String = { lines.iter() }
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let text = format!("{text}Underpass-Cluster: c\r\n");
        let connection = Http2::new(&world).await;
        let lower: Vec<_> = { lines.iter() }
            .map(|(name, value)| (name.to_ascii_lowercase(), *value))
            .chain([("underpass-cluster".to_owned(), "c")])
            .collect();
        let lower: Vec<_> = { lower.iter() }
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let (second, headers, _stream) = connection.ask("forbidden:1", &lower).await.unwrap();
        let answer = world.raw(&head("forbidden:1", &text)).await;
        let Some(user) = user else {
            assert_eq!((code(&answer), second), (407, 407), "{text}");
            assert_eq!(status(&answer)["reason"], "ProxyAuthenticationRequired");
            let schemes = headers.get_all("proxy-authenticate").iter().count();
            assert_eq!(schemes, 2);
            assert_eq!(
                answer.matches("proxy-authenticate: ").count(),
                2,
                "{answer}"
            );
            assert!(!answer.contains("www-authenticate"), "{answer}");
            assert_eq!(agent.opened().len(), before);
            continue;
        };
        assert_eq!((code(&answer), second), (403, 403), "{text}");
        let opened = format!("c tcp:forbidden:1 {user}");
        assert_eq!(agent.opened()[before..], [opened.clone(), opened]);
    }
}

#[tokio::test]
async fn rule_6_a_connection_goes_to_the_cluster_that_it_names() {
    let (agent, world) = world().await;
    for target in [
        "forbidden.c.clusters.underpass.internal:1",
        "forbidden.c.k8s.example.org:1",
    ] {
        let answer = world.raw(&head(target, &alice(&world))).await;
        assert_eq!(code(&answer), 403, "{answer}");
    }
    let unix = format!(
        "{}Underpass-Cluster: d\r\nUnderpass-Target: unix:/run/x.sock\r\n",
        alice(&world)
    );
    let mut socket = tokio::net::TcpStream::connect(world.http1).await.unwrap();
    let request = head("unix.underpass.internal:80", &unix);
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes())
        .await
        .unwrap();
    let answer = crate::upgrades::read_head(&mut socket).await;
    assert_eq!(code(&answer), 200, "{answer}");
    assert_eq!(
        agent.opened(),
        [
            "c tcp:forbidden:1 alice",
            "c tcp:forbidden:1 alice",
            "d unix:/run/x.sock alice"
        ]
    );
}
