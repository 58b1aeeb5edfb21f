//! HTTP/2: requests that are none, and floods.

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME, Field, HEADERS, Http2, Outcome, PING,
    RST_STREAM, SETTINGS, block, frame,
};
use super::recorder::Recorder;
use super::{Attacker, SMUGGLED, assert_undisturbed, deployment};

/// RFC 9113, section 7.
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

type Fields = Vec<(String, Vec<u8>)>;

fn borrowed(fields: &Fields) -> Vec<Field<'_>> {
    let fields = fields.iter();
    fields
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .collect()
}

/// The outcome of one request on a connection of its own.
async fn ask(fields: &Fields) -> Outcome {
    let mut http2 = Http2::connect().await;
    http2.request(1, &borrowed(fields)).await;
    http2.outcome(1).await
}

fn is_malformed(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Reset(PROTOCOL_ERROR)
            | Outcome::GoAway(PROTOCOL_ERROR)
            | Outcome::Status(400)
            | Outcome::Closed
    )
}

#[tokio::test]
async fn rule_3_pseudo_headers_are_as_they_must_be_or_malformed() {
    let attacker = Attacker::new("rule-3-pseudo");
    let honest = attacker.fields("/version?pseudo");
    let spoilt = |spoil: &dyn Fn(&mut Fields)| {
        let mut fields = attacker.fields("/version?spoilt");
        spoil(&mut fields);
        fields
    };
    let with = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let path = attacker.path(&format!("/{SMUGGLED}"));
    for (what, fields) in [
        ("path twice", spoilt(&|f| f.insert(4, with(":path", &path)))),
        (
            "method twice",
            spoilt(&|f| f.insert(1, with(":method", "POST"))),
        ),
        (
            "scheme twice",
            spoilt(&|f| f.insert(1, with(":scheme", "http"))),
        ),
        (
            "authority twice",
            spoilt(&|f| f.insert(1, with(":authority", "x"))),
        ),
        (
            "path late",
            spoilt(&|f| {
                let path = f.remove(3);
                f.push(path);
            }),
        ),
        (
            "path late and early",
            spoilt(&|f| f.push(with(":path", &path))),
        ),
        ("no path", spoilt(&|f| drop(f.remove(3)))),
        ("no method", spoilt(&|f| drop(f.remove(0)))),
        ("no scheme", spoilt(&|f| drop(f.remove(1)))),
        ("empty path", spoilt(&|f| f[3].1.clear())),
        ("upper case", spoilt(&|f| f[3].0 = ":PATH".to_owned())),
        (
            "unknown",
            spoilt(&|f| f.insert(0, with(":impersonate-user", "root"))),
        ),
        (
            "an answer's",
            spoilt(&|f| f.insert(0, with(":status", "200"))),
        ),
        (
            "protocol",
            spoilt(&|f| f.insert(0, with(":protocol", "websocket"))),
        ),
        (
            "a request in the path",
            spoilt(&|f| {
                f[3].1
                    .extend_from_slice(b" HTTP/1.1\r\nImpersonate-User: root\r\n\r\n");
            }),
        ),
        (
            "a space in the path",
            spoilt(&|f| f[3].1.extend_from_slice(b" x")),
        ),
        (
            "a request in the method",
            spoilt(&|f| f[0].1 = b"GET /smuggled HTTP/1.1\r\nX: ".to_vec()),
        ),
        (
            "a line in the authority",
            spoilt(&|f| f[2].1.extend_from_slice(b"\r\nX: y")),
        ),
    ] {
        let outcome = ask(&fields).await;
        assert!(is_malformed(outcome), "{what}: {outcome:?}");
    }
    for (what, fields) in [
        (
            "path without slash",
            spoilt(&|f| f[3].1 = f[3].1.split_off(1)),
        ),
        (
            "absolute path",
            spoilt(&|f| f[3].1.splice(..0, *b"https://localhost").for_each(drop)),
        ),
        ("asterisk", spoilt(&|f| f[3].1 = b"*".to_vec())),
        (
            "CONNECT",
            spoilt(&|f| {
                f[0].1 = b"CONNECT".to_vec();
                f.remove(3);
                f.remove(1);
            }),
        ),
        (
            "CONNECT with a path",
            spoilt(&|f| f[0].1 = b"CONNECT".to_vec()),
        ),
    ] {
        let outcome = ask(&fields).await;
        let nowhere = is_malformed(outcome) || outcome == Outcome::Status(404);
        assert!(nowhere, "{what}: {outcome:?}");
    }
    assert_eq!(ask(&honest).await, Outcome::Status(200));
    attacker.assert_seen(&["/version?pseudo"]).await;
}

#[tokio::test]
async fn rule_3_headers_of_a_connection_are_malformed() {
    let attacker = Attacker::new("rule-3-h2-headers");
    for (name, value) in [
        ("connection", &b"impersonate-user"[..]),
        ("Connection", b"close"),
        ("keep-alive", b"5"),
        ("proxy-connection", b"keep-alive"),
        ("transfer-encoding", b"chunked"),
        ("upgrade", b"websocket"),
        ("te", b"gzip"),
        // Names and values that would be lines of their own in HTTP/1.1.
        ("Impersonate-User", b"root"),
        ("X-Upper", b"1"),
        ("x-a\r\nimpersonate-user", b"root"),
        ("x-a: b\r\nimpersonate-user", b"root"),
        ("x a", b"1"),
        ("x:a", b"1"),
        ("", b"1"),
        ("x-a", b"b\r\nimpersonate-user: root"),
        ("x-a", b"b\nimpersonate-user: root"),
        ("x-a", b"b\r"),
        ("x-a", b"b\0"),
        ("content-length", b"5"),
        ("content-length", b"-1"),
        ("content-length", b"0, 5"),
    ] {
        let mut fields = attacker.fields("/version?connection");
        fields.push((name.to_owned(), value.to_vec()));
        let outcome = ask(&fields).await;
        assert!(is_malformed(outcome), "{name:?}: {value:?}: {outcome:?}");
    }
    attacker.assert_seen(&[]).await;
}

#[tokio::test]
async fn rule_4_identities_over_http_2_are_refused_or_gone() {
    let recorder = Recorder::start("headers-h2", &[]).await;
    let attacker = &recorder.attacker;
    let with = |more: &[(&str, &str)]| {
        let mut fields = attacker.fields("/headers");
        let more = more.iter();
        fields.extend(more.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())));
        fields
    };
    for more in [
        &[("impersonate-user", "root")][..],
        &[("impersonate-user", "bob"), ("impersonate-user", "root")],
        &[("impersonate-group", "system:masters")],
        &[("impersonate-extra-a", "b")],
    ] {
        let outcome = ask(&with(more)).await;
        assert!(
            matches!(outcome, Outcome::Status(400 | 403)),
            "{more:?}: {outcome:?}"
        );
    }
    let bearer = format!("Bearer {}", attacker.token);
    assert_eq!(
        ask(&with(&[("authorization", &bearer)])).await,
        Outcome::Status(401)
    );
    let gone = [
        ("x-remote-user", "root"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("x-forwarded-for", "203.0.113.66"),
        ("proxy-authorization", "Basic eA=="),
        ("host", "evil"),
        ("te", "trailers"),
        ("audit-id", "mine"),
    ];
    assert_eq!(ask(&with(&gone)).await, Outcome::Status(200));
    let head = recorder.only();
    assert_eq!(head.all("impersonate-user"), [attacker.user.as_str()]);
    assert_eq!(head.all("authorization"), ["Bearer the-agents-own"]);
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(
        head.all("host"),
        [format!("localhost:{}", recorder.address.port())]
    );
    assert_eq!(head.all("te"), ["trailers"]);
    for name in ["x-remote-user", "cookie", "proxy-authorization"] {
        assert_eq!(head.all(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn rule_3_a_body_over_http_2_ends_where_its_frames_do() {
    let done = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let recorder = Recorder::start("bodies-h2", &[("/chunked", done)]).await;
    let attacker = &recorder.attacker;
    let smuggled = attacker.smuggled();
    let head = |path: &str, length: Option<usize>| {
        let mut fields = attacker.fields(path);
        fields[0].1 = b"POST".to_vec();
        if let Some(length) = length {
            let length = length.to_string().into_bytes();
            fields.push(("content-length".to_owned(), length));
        }
        block(&borrowed(&fields))
    };
    // A length that is not the body's: the agent's end would read the rest as a request.
    for length in [0, 5, smuggled.len() - 1, smuggled.len() + 1] {
        let mut http2 = Http2::connect().await;
        // At once: a request whose length is 0 may be answered before its body is there.
        let mut frames = frame(HEADERS, END_HEADERS, 1, &head("/lied", Some(length)));
        frames.extend(frame(DATA, END_STREAM, 1, smuggled.as_bytes()));
        http2.send_all(&frames).await;
        let outcome = http2.outcome(1).await;
        let refused = is_malformed(outcome) || matches!(outcome, Outcome::Status(502));
        assert!(refused, "{length}: {outcome:?}");
    }
    // A body that looks like the end of chunks and a request behind it; trailers that look like headers.
    let mut http2 = Http2::connect().await;
    http2
        .send(HEADERS, END_HEADERS, 1, &head("/chunked", None))
        .await;
    let inner = format!("0\r\n\r\n{smuggled}");
    http2.send(DATA, 0, 1, inner.as_bytes()).await;
    let trailers = block(&[
        ("impersonate-user", b"root"),
        ("authorization", b"Bearer x"),
    ]);
    http2
        .send(HEADERS, END_HEADERS | END_STREAM, 1, &trailers)
        .await;
    assert_eq!(http2.outcome(1).await, Outcome::Status(200));
    let heard = recorder.ended().await;
    let chunked: Vec<_> = heard
        .iter()
        .filter(|h| h.heads.iter().any(|h| h.line().contains("/chunked")))
        .collect();
    assert_eq!(chunked.len(), 1, "{heard:?}");
    let last = chunked[0].heads.last().unwrap();
    assert_eq!(last.line(), "POST /chunked HTTP/1.1");
    assert_eq!(last.all("impersonate-user"), [attacker.user.as_str()]);
    let wanted = format!("{:X}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    assert_eq!(String::from_utf8_lossy(&chunked[0].behind), wanted);
    for head in recorder.heads() {
        assert!(!head.line().contains(SMUGGLED), "{head:?}");
    }
}

/// CVE-2023-44487: requests that are taken back at once cost more than they seem to.
#[tokio::test]
async fn rule_11_a_rapid_reset_leaves_others_untouched() {
    const REQUESTS: u32 = 20_000;
    let attacker = Attacker::new("rule-11-rapid-reset");
    let fields = attacker.fields("/version?reset");
    let request = block(&borrowed(&fields));
    let mut http2 = Http2::connect().await;
    let mut sent = 0;
    for number in 0..REQUESTS {
        let stream = 2 * number + 1;
        let both = [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &request),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ];
        if !http2.send_all(&both.concat()).await {
            break;
        }
        sent += 1;
        if number % 5000 == 100 {
            assert_undisturbed().await;
        }
    }
    // However the connection ended, its streams are gone from the tunnel, and everybody is served.
    drop(http2);
    assert_undisturbed().await;
    for event in attacker.seen().await {
        assert_eq!(event["requestURI"], "/version?reset", "{event}");
        assert_eq!(
            event["impersonatedUser"]["username"],
            attacker.user.as_str()
        );
    }
    underpass_testenv::testing::eventually("its streams are gone", async || {
        let metrics = deployment().metrics().unwrap();
        let open = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix("underpass_tunnel_streams{agent=\"edge\"")?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        let open: f64 = open.sum();
        // Other tests have some of their own.
        if open < 100.0 {
            Ok(())
        } else {
            Err((open, sent))
        }
    })
    .await;
}

/// CVE-2024-27316 and its kin: a header list that never ends.
#[tokio::test]
async fn rule_11_endless_headers_end_the_connection() {
    let attacker = Attacker::new("rule-11-continuation");
    let begin = block(&borrowed(&attacker.fields("/version?continued")));
    let filling = block(&[("x-filling", &[b'x'; FRAME - 64])]);
    for (what, next, most) in [
        // Twice what a header list may hold.
        ("large", filling.as_slice(), 2 * 1024 * 1024 / FRAME),
        ("small", b"", 10_000),
        ("indexed", &[0x82; 1024], 10_000),
    ] {
        let mut http2 = Http2::connect().await;
        http2.send(HEADERS, END_STREAM, 1, &begin).await;
        let next = frame(CONTINUATION, 0, 1, next);
        let mut open = true;
        // Bytes in flight between the two sides are sent before the server can refuse them.
        for _ in 0..most + 4096 * 1024 / next.len().max(512) {
            open = http2.send_all(&next).await;
            if !open {
                break;
            }
        }
        let outcome = http2.outcome(1).await;
        let ended = matches!(
            outcome,
            Outcome::GoAway(ENHANCE_YOUR_CALM | PROTOCOL_ERROR | 9)
                | Outcome::Reset(_)
                | Outcome::Closed
                | Outcome::Status(431)
        );
        assert!(ended, "{what}: {outcome:?}, still open: {open}");
    }
    attacker.assert_seen(&[]).await;
    assert_undisturbed().await;
}

/// Frames that want an answer each, from a client that reads none.
#[tokio::test]
async fn rule_19_floods_of_frames_cost_others_nothing() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let empty = frame(DATA, 0, 1, b"");
    let mut floods = Vec::new();
    for flood in [ping, settings, empty] {
        let mut http2 = Http2::connect().await;
        let attacker = Attacker::new("rule-19-frames");
        if flood[3] == DATA {
            let mut fields = attacker.fields("/version?empty");
            fields[0].1 = b"POST".to_vec();
            let fields = block(&borrowed(&fields));
            http2.send(HEADERS, END_HEADERS, 1, &fields).await;
        }
        let many = flood.repeat(1000);
        // Until the server takes no more of it, or has had enough; 9 MB at the least otherwise.
        let flooding = async {
            for _ in 0..500 {
                if !http2.send_all(&many).await {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), flooding).await;
        floods.push(http2);
    }
    assert_undisturbed().await;
    drop(floods);
    assert_undisturbed().await;
}
