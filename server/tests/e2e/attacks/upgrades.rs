//! Upgrades: raw bytes flow after a validated 101, and after nothing else (rule 1).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::recorder::Recorder;
use super::{Attacker, SMUGGLED, codes, deployment, read_all, send};
use crate::raw;

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";

/// Bytes that only an upgraded side may hear or say.
const BEHIND: &str = "bytes behind the answer";

/// Asks for an upgrade at `path`, and sends more bytes. Gives the bytes that the client heard, and those that the API
/// server heard behind the request's head.
async fn attack(recorder: &Recorder, path: &str, lines: &str) -> (String, Vec<u8>) {
    let method = if lines == SPDY { "POST" } else { "GET" };
    let before = recorder.heads().len();
    let request = recorder.attacker.head(method, path, lines);
    // A request of the same user, as well as bytes of no protocol.
    let heard = send(request + &recorder.attacker.smuggled() + BEHIND).await;
    let ended = recorder.ended().await;
    assert_eq!(recorder.heads().len(), before + 1, "one request, once");
    let last = ended
        .into_iter()
        .find(|heard| heard.heads.iter().any(|head| head.line().contains(path)));
    (heard, last.unwrap().behind)
}

#[tokio::test]
async fn rule_1_nothing_is_relayed_after_another_answer_than_101() {
    let with = |head: &str| format!("HTTP/1.1 {head}\r\n\r\n{BEHIND}");
    let upgraded = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0";
    let answers = [
        ("/200", with("200 OK\r\nContent-Length: 0")),
        ("/200-upgraded", with(&format!("200 OK\r\n{upgraded}"))),
        (
            "/302",
            with("302 Found\r\nLocation: https://localhost:1/\r\nContent-Length: 0"),
        ),
        ("/403", with("403 Forbidden\r\nContent-Length: 0")),
        (
            "/403-upgraded",
            with(&format!("403 Forbidden\r\n{upgraded}")),
        ),
        (
            "/500",
            "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned() + BEHIND,
        ),
    ];
    let answers = answers
        .each_ref()
        .map(|(path, answer)| (*path, answer.as_str()));
    let recorder = Recorder::start("declined", &answers).await;
    for (path, _) in answers {
        for lines in [SPDY, WEBSOCKET] {
            let path = format!("{path}?{}", if lines == SPDY { "spdy" } else { "ws" });
            let (heard, behind) = attack(&recorder, &path, lines).await;
            let code: u16 = match path[1..4].parse().unwrap() {
                302 => 502, // Rule 20.
                other => other,
            };
            assert_eq!(codes(&heard), [code], "{path}: {heard}");
            assert!(heard.contains("connection: close\r\n"), "{heard}");
            assert!(!heard.contains("upgrade: "), "{heard}");
            assert!(!heard.contains(BEHIND), "{heard}");
            assert_eq!(String::from_utf8_lossy(&behind), "");
        }
    }
}

#[tokio::test]
async fn rule_1_a_101_that_does_not_answer_the_question_is_a_502() {
    let with = |lines: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n\r\n{BEHIND}");
    let answers = [
        ("/bare", with("X-Nothing: 1")),
        ("/h2c", with("Connection: Upgrade\r\nUpgrade: h2c")),
        ("/no-connection", with("Upgrade: SPDY/3.1")),
        (
            "/both",
            with("Connection: Upgrade\r\nUpgrade: SPDY/3.1, websocket"),
        ),
        (
            "/key",
            with("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x"),
        ),
        (
            "/subprotocol",
            with(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            ),
        ),
    ];
    let answers = answers
        .each_ref()
        .map(|(path, answer)| (*path, answer.as_str()));
    let recorder = Recorder::start("unbelieved", &answers).await;
    for (path, _) in answers {
        for (name, lines) in [("spdy", SPDY), ("ws", WEBSOCKET)] {
            let (heard, behind) = attack(&recorder, &format!("{path}?{name}"), lines).await;
            assert_eq!(codes(&heard), [502], "{path} {name}: {heard}");
            assert!(!heard.contains(BEHIND), "{heard}");
            assert_eq!(String::from_utf8_lossy(&behind), "");
        }
    }
    // Nobody has asked for it.
    let (heard, behind) = attack(&recorder, "/h2c?unasked", "Connection: close\r\n").await;
    assert_eq!(codes(&heard), [502], "{heard}");
    assert!(!heard.contains(BEHIND), "{heard}");
    assert_eq!(String::from_utf8_lossy(&behind), "");
}

#[tokio::test]
async fn rule_1_bytes_flow_after_a_101_that_does() {
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello";
    let recorder = Recorder::start("switched", &[("/exec", answer)]).await;
    let mut tls = raw::connect(deployment(), &[b"http/1.1"]).await.unwrap();
    let head = recorder.attacker.head("POST", "/exec", SPDY);
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\nhello") {
        heard.push(tls.read_u8().await.unwrap());
    }
    // Bytes that look like a request are bytes like any other.
    let smuggled = recorder.attacker.smuggled();
    tls.write_all(smuggled.as_bytes()).await.unwrap();
    tls.shutdown().await.unwrap();
    read_all(&mut tls).await;
    let ended = recorder.ended().await;
    assert_eq!(String::from_utf8_lossy(&ended[0].behind), smuggled);
    assert_eq!(ended[0].heads.len(), 1);
}

#[tokio::test]
async fn rule_1_only_http_1_1_is_upgraded() {
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    let recorder = Recorder::start("version-1-0", &[("/asked", answer)]).await;
    let old = recorder.attacker.head("POST", "/not-asked", SPDY);
    let old = old.replace(" HTTP/1.1\r\n", " HTTP/1.0\r\n");
    let heard = send(old + BEHIND + &recorder.attacker.smuggled()).await;
    assert!(heard.starts_with("HTTP/1.0 200 OK\r\n"), "{heard}");
    let head = recorder.only();
    assert_eq!(head.all("upgrade"), [""; 0]);
    assert_eq!(head.all("connection"), [""; 0]);
}

#[tokio::test]
async fn rule_1_nothing_is_read_after_a_refused_upgrade() {
    let attacker = Attacker::new("rule-1-refused");
    let stranger = Attacker {
        token: "nobodys".to_owned(),
        ..Attacker::new("rule-1-refused")
    };
    for (refused, code) in [
        (stranger.head("POST", "/exec", SPDY), 401),
        (
            attacker.head(
                "POST",
                "/exec",
                &format!("{SPDY}Impersonate-User: root\r\n"),
            ),
            403,
        ),
        (
            attacker.head("POST", "/exec", &format!("{SPDY}Content-Length: 9\r\n")),
            400,
        ),
        (
            attacker.head("POST", "/exec", &format!("{SPDY}Upgrade: websocket\r\n")),
            400,
        ),
        (attacker.head("PUT", "/exec", SPDY), 400),
    ] {
        let heard = send(refused + &attacker.smuggled()).await;
        assert_eq!(codes(&heard), [code], "{heard}");
        assert!(!heard.contains(SMUGGLED), "{heard}");
    }
    attacker.assert_seen(&[]).await;
}

/// KubeVirt's console is an upgrade that no list here names. A parameter of lists makes no read of it, and an odd path none of
/// a shell.
#[tokio::test]
async fn rule_26_no_parameter_makes_an_upgrade_a_read() {
    let recorder = Recorder::start("consoles", &[]).await;
    let cluster = recorder.attacker.cluster;
    let administer = |arguments: &[&str]| deployment().administer(arguments).unwrap();
    let mut tokens = Vec::new();
    for (user, role, how) in [
        ("console-viewer", "view", &[][..]),
        ("console-caller", "access", &[]),
        ("console-reader", "shell", &["--read-only"]),
    ] {
        administer(&["user", "add", user, "--cluster", cluster, "--role", role]);
        tokens.push(administer(
            &[&["token", "create", "--user", user][..], how].concat(),
        ));
    }
    let vmi = "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v";
    let pod = "/api/v1/namespaces/a/pods/p";
    for token in tokens {
        let token = token.trim();
        let ask = |path: &str, lines: &str| {
            let path = recorder.attacker.path(path);
            format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
            )
        };
        for (path, expected) in [
            (format!("{vmi}/console"), 403),
            (format!("{vmi}/vnc?watch="), 403),
            (format!("{vmi}/vnc?watch=true&watch=false"), 403),
            ("/api/v1/pods?watch=true".to_owned(), 403),
            ("/api/v1/watch/pods".to_owned(), 403),
            (format!("{pod}/exec?watch=1"), 403),
            (format!("/{pod}/exec"), 400),
            (
                format!("/api/v1/.{}/exec", pod.trim_start_matches("/api/v1")),
                400,
            ),
            (pod.replace("/pods", "//pods") + "/exec", 400),
        ] {
            let answer = send(ask(&path, WEBSOCKET)).await;
            assert_eq!(codes(&answer), [expected], "{path}: {answer}");
        }
        let read = send(ask("/api/v1/pods?watch=true", "Connection: close\r\n")).await;
        assert_eq!(codes(&read), [200], "{read}");
    }
    for head in recorder.heads() {
        assert_eq!(head.line(), "GET /api/v1/pods?watch=true HTTP/1.1");
    }
}
