//! HTTP/1.1: a request's caller, its end, and its destination.

use serde_json::json;
use tokio::net::TcpListener;

use super::recorder::Recorder;
use super::{Attacker, SMUGGLED, assert_undisturbed, codes, send};
use crate::deployment::CLUSTER;

/// The last request of a connection.
const CLOSE: &str = "Connection: close\r\n";

#[tokio::test]
async fn rule_3_connection_takes_none_of_our_headers_away() {
    let attacker = Attacker::new("rule-3-connection");
    let lines = "Connection: Impersonate-User, X-Remote-User, close\r\n\
                 CONNECTION: impersonate-group,Impersonate-Uid , Authorization,authorization\r\n\
                 connection: Audit-ID, X-Forwarded-For, Host, Content-Length\r\nAudit-ID: mine\r\n";
    let answer = send(attacker.head("GET", "/version?named", lines)).await;
    assert_eq!(codes(&answer), [200], "{answer}");
    let seen = attacker.seen().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    let event = &seen[0];
    assert_eq!(
        event["impersonatedUser"]["username"],
        attacker.user.as_str()
    );
    let groups = json!(["attackers", "system:authenticated"]);
    assert_eq!(event["impersonatedUser"]["groups"], groups);
    assert_eq!(event["sourceIPs"], json!(["127.0.0.1"]));
    let id = event["auditID"].as_str().unwrap();
    assert_ne!(id, "mine");
    assert!(answer.contains(&format!("audit-id: {id}\r\n")), "{answer}");
}

#[tokio::test]
async fn rule_4_an_identity_in_any_spelling_is_refused_or_gone() {
    let attacker = Attacker::new("rule-4-spelling");
    for lines in [
        "Impersonate-User: system:admin\r\n",
        "iMpErSoNaTe-UsEr: system:admin\r\n",
        "IMPERSONATE-USER: a\r\nimpersonate-user: system:admin\r\n",
        "Impersonate-User: rule-4-spelling\r\nImpersonate-Group: system:masters\r\n",
        "Impersonate-Group: system:masters\r\n",
        "Impersonate-Uid: 0\r\n",
        "Impersonate-Extra-Scopes: all\r\n",
        "Impersonate-User: system:admin\r\nConnection: Impersonate-User\r\n",
        // Where a bare line feed ends a line, it does so for everybody who looks.
        "X-A: b\nImpersonate-User: system:admin\r\n",
    ] {
        let lines = format!("{lines}{CLOSE}");
        let answer = send(attacker.head("GET", "/version?refused", &lines)).await;
        assert!(
            matches!(codes(&answer)[..], [400 | 403]),
            "{lines}: {answer}"
        );
    }
    let lines = "X-Remote-User: system:admin\r\nx-ReMoTe-GrOuP: system:masters\r\n\
                 X-REMOTE-EXTRA-A: b\r\nCookie: a=b\r\nPROXY-AUTHORIZATION: Basic eA==\r\n";
    let answer = send(attacker.head("GET", "/version?gone", &format!("{lines}{CLOSE}"))).await;
    assert_eq!(codes(&answer), [200]);
    let seen = attacker.seen().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["requestURI"], "/version?gone");
    assert_eq!(
        seen[0]["impersonatedUser"]["username"],
        attacker.user.as_str()
    );
    let groups = json!(["attackers", "system:authenticated"]);
    assert_eq!(seen[0]["impersonatedUser"]["groups"], groups);
}

#[tokio::test]
async fn rule_21_two_credentials_are_nobodys() {
    let attacker = Attacker::new("two-credentials");
    let second = format!("Authorization: Bearer {}\r\n", attacker.token);
    for (number, second) in [
        second.as_str(),
        "Authorization: Basic YTpi\r\n",
        "Sec-WebSocket-Protocol: a, base64url.bearer.authorization.k8s.io.Zm9v\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/version?{SMUGGLED}={number}");
        let answer = send(attacker.head("GET", &path, &format!("{second}{CLOSE}"))).await;
        assert_eq!(codes(&answer), [401], "{answer}");
    }
    attacker.assert_seen(&[]).await;
}

#[tokio::test]
async fn rule_4_the_api_server_gets_one_identity_and_one_credential() {
    let recorder = Recorder::start("headers", &[]).await;
    let attacker = &recorder.attacker;
    let lines = "X-Remote-User: root\r\nx-remote-group: system:masters\r\nCookie: a=b\r\nCookie: c=d\r\n\
                 Proxy-Authorization: Basic eA==\r\nX-Forwarded-For: 203.0.113.66\r\nForwarded: for=203.0.113.66\r\n\
                 X-Real-Ip: 203.0.113.66\r\nX-Forwarded-Client-Cert: Subject=CN=root\r\nTE: gzip, trailers\r\n\
                 Keep-Alive: 5\r\nConnection: X-Named, Authorization\r\nX-Named: 1\r\nX-Kept: 1\r\nAudit-ID: mine\r\n\
                 Sec-WebSocket-Protocol: a\r\n";
    let answer = send(attacker.head("GET", "/headers", &format!("{lines}{CLOSE}"))).await;
    assert_eq!(codes(&answer), [200], "{answer}");
    let head = recorder.only();
    assert_eq!(head.line(), "GET /headers HTTP/1.1");
    assert_eq!(head.all("impersonate-user"), [attacker.user.as_str()]);
    assert_eq!(head.all("impersonate-group"), ["attackers"]);
    assert_eq!(head.all("authorization"), ["Bearer the-agents-own"]);
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-kept"), ["1"]);
    assert_eq!(head.all("te"), ["trailers"]);
    assert_eq!(head.all("sec-websocket-protocol"), ["a"]);
    assert_eq!(head.all("audit-id").len(), 1);
    assert_ne!(head.all("audit-id"), ["mine"]);
    for gone in [
        "impersonate-uid",
        "x-remote-user",
        "x-remote-group",
        "cookie",
        "proxy-authorization",
        "forwarded",
        "x-real-ip",
        "x-forwarded-client-cert",
        "keep-alive",
        "connection",
        "x-named",
    ] {
        assert_eq!(head.all(gone), [""; 0], "{gone}");
    }
}

#[tokio::test]
async fn rule_3_without_an_identity_nothing_is_forwarded() {
    let recorder = Recorder::start("nobody", &[]).await;
    let attacker = &recorder.attacker;
    let (path, token) = (attacker.path("/nobody"), &attacker.token);
    let admin = CLUSTER.service_account_token("default", "default").unwrap();
    for lines in [
        String::new(),
        "Authorization: Bearer x\r\n".to_owned(),
        format!("Authorization: Bearer {token}x\r\n"),
        format!("Authorization: Basic {token}\r\n"),
        format!("Authorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n"),
        format!("Authorization: Bearer {token}, Bearer {token}\r\n"),
        format!("X-Authorization: Bearer {token}\r\n"),
        format!("Cookie: token={token}\r\n"),
        format!("Proxy-Authorization: Bearer {token}\r\n"),
        // Good at the API server, and nothing here.
        format!("Authorization: Bearer {admin}\r\n"),
        "X-Remote-User: root\r\nX-Forwarded-Client-Cert: Subject=CN=root\r\n".to_owned(),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{CLOSE}{lines}\r\n");
        let answer = send(request).await;
        assert_eq!(codes(&answer), [401], "{lines}: {answer}");
    }
    assert!(recorder.heads().is_empty(), "{:?}", recorder.heads());
}

#[tokio::test]
async fn rule_3_malformed_heads_are_refused_whole() {
    let attacker = Attacker::new("rule-3-malformed");
    for lines in [
        // Obsolete folding.
        "X-Folded: a\r\n Impersonate-User: root\r\n",
        "X-Folded: a\r\n\tImpersonate-User: root\r\n",
        // White space where a name ends.
        "X-Space : a\r\n",
        "Impersonate-User : root\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Impersonate-User: root\r\n",
        // Ends of lines that only one parser sees.
        "X-A: b\rImpersonate-User: root\r\n",
        "X-Null: a\0b\r\n",
        "X\0Null: a\r\n",
        ": empty\r\n",
        "no colon\r\n",
        // Lengths that two parsers read differently.
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: \r\n",
        // Codings that only look like chunked.
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        // Codings beside it, which somebody would have to take off.
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: ,identity,\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
    ] {
        let attack = attacker.head("POST", "/version?malformed", lines) + "hello";
        let answer = send(attack + &attacker.smuggled()).await;
        assert_eq!(codes(&answer), [400], "{lines:?}: {answer}");
    }
    attacker.assert_seen(&[]).await;
    assert_undisturbed().await;
}

/// Behind a proxy that shares its connections among clients, what one parser takes for the rest of this request is the
/// beginning of somebody else's: RFC 9112, section 6.1, wants the connection closed.
#[tokio::test]
async fn rule_3_a_request_with_two_lengths_is_the_connections_last() {
    let attacker = Attacker::new("rule-3-lengths");
    let long = attacker.smuggled().len() + 5;
    for lines in [
        format!("Content-Length: {long}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {long}\r\n"),
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "transfer-ENCODING: CHUNKED\r\nContent-Length: 0\r\n".to_owned(),
    ] {
        let attack = attacker.head("POST", "/version?lengths", &lines) + "0\r\n\r\n";
        let answer = send(attack + &attacker.smuggled()).await;
        assert_eq!(codes(&answer).len(), 1, "{lines:?}: {answer}");
    }
    for event in attacker.seen().await {
        assert_eq!(event["requestURI"], "/version?lengths", "{event}");
    }
}

#[tokio::test]
async fn rule_3_a_body_ends_where_its_length_says() {
    let recorder = Recorder::start("bodies", &[]).await;
    let attacker = &recorder.attacker;
    // A body that looks like a request stays a body.
    let inner = attacker.smuggled();
    let lines = format!("Content-Length: {}\r\n{CLOSE}", inner.len());
    let answer = send(attacker.head("POST", "/body", &lines) + &inner).await;
    assert_eq!(codes(&answer), [200], "{answer}");
    // A GET may have one as well.
    let answer = send(attacker.head("GET", "/get", &lines) + &inner).await;
    assert_eq!(codes(&answer), [200], "{answer}");
    let targets: Vec<_> = recorder
        .heads()
        .iter()
        .map(|head| head.line().to_owned())
        .collect();
    assert_eq!(targets, ["POST /body HTTP/1.1", "GET /get HTTP/1.1"]);
    for head in recorder.heads() {
        assert_eq!(head.all("content-length"), [inner.len().to_string()]);
        assert_eq!(head.all("transfer-encoding"), [""; 0]);
    }
}

#[tokio::test]
async fn rule_3_bad_chunks_end_the_connection() {
    let attacker = Attacker::new("rule-3-chunks");
    let smuggled = attacker.smuggled();
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello",
        "5;\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
    ] {
        let attack = attacker.head("POST", "/version?chunks", "Transfer-Encoding: chunked\r\n");
        let answer = send(attack + body + &smuggled).await;
        assert!(codes(&answer).len() <= 1, "{body:?}: {answer}");
    }
    // An extension ends where its line does, and one without an end is not waited for.
    let endless = format!("5;{}", "x".repeat(1 << 20));
    for body in ["5;a=\"0\r\n\r\n", &endless] {
        let attack = attacker.head("POST", "/version?chunks", "Transfer-Encoding: chunked\r\n");
        let answer = send(attack + body + &smuggled).await;
        assert!(codes(&answer).len() <= 1, "{answer}");
    }
    for event in attacker.seen().await {
        assert_eq!(event["requestURI"], "/version?chunks", "{event}");
    }
    assert_undisturbed().await;
}

#[tokio::test]
async fn rule_4_a_trailer_is_no_header() {
    let done = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let recorder = Recorder::start("trailers", &[("/trailers", done)]).await;
    let attacker = &recorder.attacker;
    let lines = format!("Transfer-Encoding: chunked\r\nTrailer: Impersonate-User\r\n{CLOSE}");
    let body = "5\r\nhello\r\n0\r\nImpersonate-User: root\r\nAuthorization: Bearer x\r\n\r\n";
    send(attacker.head("POST", "/trailers", &lines) + body).await;
    let heard = recorder.ended().await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    let head = &heard[0].heads[0];
    assert_eq!(head.all("impersonate-user"), [attacker.user.as_str()]);
    assert_eq!(head.all("trailer"), [""; 0]);
    assert_eq!(heard[0].behind, b"5\r\nhello\r\n0\r\n\r\n");
}

/// Neither the target nor a `Host` that is no cluster's says where a request goes: the cluster in the path does, and the agent.
#[tokio::test]
async fn rule_6_a_request_goes_to_the_cluster_in_its_path_and_nowhere_else() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let evil = elsewhere.local_addr().unwrap();
    let recorder = Recorder::start("targets", &[]).await;
    let attacker = &recorder.attacker;
    let path = attacker.path("/targets");
    let rest = format!(
        "HTTP/1.1\r\nAuthorization: Bearer {}\r\n{CLOSE}",
        attacker.token
    );
    // Absolute-form is what a proxy is asked in; Host games.
    for request in [
        format!("GET https://{evil}{path} {rest}Host: {evil}\r\n\r\n"),
        format!("GET {path} {rest}Host: {evil}\r\n\r\n"),
        format!("GET {path} {rest}Host: localhost\r\nX-Forwarded-Host: {evil}\r\n\r\n"),
    ] {
        let answer = send(&request).await;
        assert_eq!(codes(&answer), [200], "{request}: {answer}");
    }
    // RFC 9112, section 3.2: exactly one Host.
    for hosts in [
        "",
        "Host: localhost\r\nHost: evil\r\n",
        "Host: a\r\nhost: a\r\n",
    ] {
        let answer = send(format!("GET {path} {rest}{hosts}\r\n")).await;
        assert_eq!(codes(&answer), [400], "{hosts}: {answer}");
    }
    for line in [
        format!("CONNECT {evil}"),
        format!("CONNECT {}", path.trim_start_matches('/')),
        format!("GET {evil}"),
        format!("GET https://{evil}/targets"),
        format!("GET http://root:pw@{evil}{path}"),
        format!("GET //{evil}{path}"),
        "OPTIONS *".to_owned(),
        format!("GET {}", path.trim_start_matches('/')),
        format!("GET /x/..{path}"),
        format!("GET {}", path.replace("/k8s", "/%6b8s")),
        format!("GET \\{path}"),
    ] {
        let answer = send(format!("{line} {rest}Host: localhost\r\n\r\n")).await;
        assert!(
            matches!(codes(&answer)[..], [400 | 404]),
            "{line}: {answer}"
        );
    }
    let heads = recorder.heads();
    assert_eq!(heads.len(), 3, "{heads:?}");
    for head in heads {
        assert_eq!(head.line(), "GET /targets HTTP/1.1");
        let own = format!("localhost:{}", recorder.address.port());
        assert_eq!(head.all("host"), [own]);
    }
    let nobody = futures_util::FutureExt::now_or_never(elsewhere.accept());
    assert!(nobody.is_none(), "somebody was asked elsewhere");
}

/// A refused request leaves nothing behind: the bytes after it are read as the next request.
#[tokio::test]
async fn rule_3_a_refused_body_is_no_request() {
    let attacker = Attacker::new("rule-3-refused");
    let smuggled = attacker.smuggled();
    let path = attacker.path("/version?refused");
    let refused = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: {}\r\n\r\n",
        smuggled.len()
    );
    let honest = attacker.head("GET", "/version?after", CLOSE);
    let answer = send(refused + &smuggled + &honest).await;
    // The connection may as well end with the refusal.
    assert!(matches!(codes(&answer)[..], [401] | [401, 200]), "{answer}");
    for event in attacker.seen().await {
        assert_eq!(event["requestURI"], "/version?after", "{event}");
    }
    assert!(!answer.contains(SMUGGLED), "{answer}");
}

/// CVE-2022-3172: client-go would send the token along, and after a 307 the method and the body too.
#[tokio::test]
async fn rule_20_a_redirect_of_a_cluster_is_nobodys_to_follow() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere_url = format!("https://{}/api/v1/secrets", elsewhere.local_addr().unwrap());
    let redirect = |code: &str, location: &str| {
        format!(
            "HTTP/1.1 {code}\r\nLocation: {location}\r\nSet-Cookie: a=b\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    let proxy = "/api/v1/namespaces/a/services/s/proxy";
    let page = "/api/v1/namespaces/a/services/s/proxy/page";
    let away = "/api/v1/namespaces/a/services/s/proxy/away";
    let answers = [
        ("/301", redirect("301 Moved Permanently", &elsewhere_url)),
        ("/302", redirect("302 Found", &elsewhere_url)),
        (
            "/307",
            redirect("307 Temporary Redirect", "/v1/clusters/victim"),
        ),
        (
            "/308",
            redirect("308 Permanent Redirect", "/k8s/clusters/victim/api"),
        ),
        (
            away,
            redirect("307 Temporary Redirect", "/v1/clusters/victim"),
        ),
        (page, redirect("302 Found", &format!("{proxy}/login?x=1"))),
    ];
    let answers = answers
        .each_ref()
        .map(|(path, answer)| (*path, answer.as_str()));
    let recorder = Recorder::start("redirects", &answers).await;
    for (path, _) in answers {
        let answer = send(recorder.attacker.head("GET", path, CLOSE)).await;
        if path == page {
            let client = recorder.attacker.path(&format!("{proxy}/login?x=1"));
            assert_eq!(codes(&answer), [302], "{answer}");
            assert!(
                answer.contains(&format!("location: {client}\r\n")),
                "{answer}"
            );
            continue;
        }
        assert_eq!(codes(&answer), [502], "{answer}");
        assert!(answer.contains("the cluster tried to redirect"), "{answer}");
        assert!(!answer.contains("location:"), "{answer}");
        assert!(!answer.contains("set-cookie"), "{answer}");
        assert!(
            !answer.contains("victim") && !answer.contains(&elsewhere_url),
            "{answer}"
        );
    }
    // Rule 2: nor did the agent follow.
    assert_eq!(recorder.heads().len(), answers.len());
    let nobody = futures_util::FutureExt::now_or_never(elsewhere.accept());
    assert!(nobody.is_none(), "it was followed");
}
