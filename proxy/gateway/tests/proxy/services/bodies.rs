//! Bodies in both directions, their ends, and what a request costs while it lasts.

use std::sync::Arc;

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{Method, Request};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use underpass_audit::{AuditLog, BackendConfig};
use underpass_gateway::BudgetConfig;

use super::site::{WEB, head, world};
use crate::{
    audit::Taken,
    connect::{
        agent::Agent,
        client::{rest, rest_of},
    },
    upgrades::read_head,
    world::{World, code, soon, until},
};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// An HTTP/2 connection of alice's.
async fn http2(world: &World) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(world.http2).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn send(
    world: &World,
    sender: &SendRequest<Bytes>,
    method: Method,
    ends: bool,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    send_to(world, sender, method, &format!("{WEB}/"), ends).await
}

async fn send_to(
    world: &World,
    sender: &SendRequest<Bytes>,
    method: Method,
    path: &str,
    ends: bool,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://front{path}"))
        .header("authorization", format!("Bearer {}", world.alice));
    let mut sender = sender.clone().ready().await.unwrap();
    sender
        .send_request(request.body(()).unwrap(), ends)
        .unwrap()
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let (agent, world) = world().await;
    // HTTP/1.1.
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let request = head(
        &world,
        "GET",
        &format!("{WEB}/events"),
        "Accept: text/event-stream\r\n",
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut end = agent.next_end().await;
    end.head().await;
    end.write(STREAM).await;
    let answer = read_head(&mut socket).await;
    assert!(
        answer.contains("content-type: text/event-stream\r\n"),
        "{answer}"
    );
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        end.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
        let expected = format!("{:X}\r\n{event}\r\n", event.len());
        let mut came = vec![0; expected.len()];
        soon(socket.read_exact(&mut came)).await.unwrap();
        assert_eq!(String::from_utf8(came).unwrap(), expected);
    }
    drop(socket);
    assert!(!end.rest().await.1, "a clean end for the service");
    // HTTP/2.
    let (response, _) = send(&world, &http2(&world).await, Method::GET, true).await;
    let mut end = agent.next_end().await;
    end.head().await;
    end.write(STREAM).await;
    let mut body = soon(response).await.unwrap().into_body();
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        end.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), event);
    }
    drop(body);
    assert!(!end.rest().await.1, "a clean end for the service");
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn rule_1_a_service_that_is_lost_is_no_end_of_its_answer() {
    let (agent, world) = world().await;
    for resets in [true, false] {
        let (response, _) = send(&world, &http2(&world).await, Method::GET, true).await;
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(STREAM).await;
        end.write("4\r\nhalf\r\n").await;
        let mut body = soon(response).await.unwrap().into_body();
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), "half");
        match resets {
            true => end.reset().await,
            false => end.finish(),
        }
        let (_, ended) = rest_of(&mut body).await;
        assert!(ended.is_err(), "a clean end");
        // HTTP/1.1: the last chunk is missing.
        let mut socket = TcpStream::connect(world.http1).await.unwrap();
        let request = head(&world, "GET", &format!("{WEB}/"), "");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(STREAM).await;
        end.write("4\r\nhalf\r\n").await;
        read_head(&mut socket).await;
        let mut half = [0; 9];
        soon(socket.read_exact(&mut half)).await.unwrap();
        match resets {
            true => end.reset().await,
            false => end.finish(),
        }
        assert_eq!(rest(&mut socket).await, b"");
    }
    // Before there is an answer.
    let request = head(&world, "GET", &format!("{WEB}/"), "Connection: close\r\n");
    let leaving = async {
        let mut end = agent.next_end().await;
        end.head().await;
        end.reset().await;
    };
    let (answer, ()) = tokio::join!(world.raw(&request), leaving);
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(
        answer.contains("web.shop.svc:80 closed the connection"),
        "{answer}"
    );
}

/// hyper gives a body that its client reset (CANCEL) to us as one that has ended. To an API server as well.
#[tokio::test]
async fn rule_1_an_upload_that_is_cut_looks_whole_to_no_service() {
    let (agent, world) = world().await;
    let service = format!("{WEB}/");
    let reasons = [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR];
    let api = "/k8s/clusters/c/api/v1/namespaces";
    for (path, reason) in [service.as_str(), api]
        .iter()
        .flat_map(|path| reasons.map(|reason| (*path, reason)))
    {
        let sender = http2(&world).await;
        for _ in 0..10 {
            let sent = send_to(&world, &sender, Method::POST, path, false);
            let (response, mut body) = sent.await;
            body.send_data("half".into(), false).unwrap();
            let mut end = agent.next_end().await;
            let asked = end.head().await;
            assert!(asked.contains("transfer-encoding: chunked\r\n"), "{asked}");
            assert_eq!(end.read(9).await, b"4\r\nhalf\r\n");
            body.send_reset(reason);
            drop(response);
            assert_eq!(end.rest().await, (Vec::new(), false), "{reason}");
        }
    }
    // One that is not cut does.
    let (response, mut body) = send(&world, &http2(&world).await, Method::POST, false).await;
    body.send_data("whole".into(), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("authorization", "Bearer x".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let mut end = agent.next_end().await;
    end.head().await;
    assert_eq!(end.read(15).await, b"5\r\nwhole\r\n0\r\n\r\n");
    end.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(soon(response).await.unwrap().status(), 204);
}

/// A search with a body, as Elasticsearch takes it. hyper would leave the body out.
#[tokio::test]
async fn a_body_of_a_get_arrives_without_a_length() {
    let (agent, world) = world().await;
    let service = format!("{WEB}/");
    let answer = "HTTP/1.1 204 No Content\r\n\r\n";
    for path in [&service, "/k8s/clusters/c/api/v1/namespaces"] {
        for method in ["GET", "HEAD"] {
            // HTTP/2.
            let (sender, method_of) = (http2(&world).await, method.parse().unwrap());
            let (response, mut body) = send_to(&world, &sender, method_of, path, false).await;
            body.send_data("query".into(), true).unwrap();
            let mut end = agent.next_end().await;
            let asked = end.head().await;
            assert!(asked.contains("transfer-encoding: chunked\r\n"), "{asked}");
            assert_eq!(end.read(15).await, b"5\r\nquery\r\n0\r\n\r\n");
            end.write(answer).await;
            assert_eq!(soon(response).await.unwrap().status(), 204);
            // HTTP/1.1.
            let lines = "Transfer-Encoding: chunked\r\nConnection: close\r\n";
            let request = head(&world, method, path, lines) + "5\r\nquery\r\n0\r\n\r\n";
            let serving = async {
                let mut end = agent.next_end().await;
                end.head().await;
                assert_eq!(end.read(15).await, b"5\r\nquery\r\n0\r\n\r\n");
                end.write(answer).await;
                end.finish();
            };
            let (answer, ()) = tokio::join!(world.raw(&request), serving);
            assert_eq!(code(&answer), 204, "{answer}");
        }
    }
}

/// RFC 9112, section 6.3: the transfer coding is the one that counts.
#[tokio::test]
async fn rule_1_an_answer_with_two_lengths_is_cut_by_neither() {
    let (agent, world) = world().await;
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
        9\r\nan answer\r\n0\r\n\r\n";
    let service = format!("{WEB}/");
    for path in [&service, "/k8s/clusters/c/api/v1/namespaces"] {
        let request = head(&world, "GET", path, "Connection: close\r\n");
        let serving = async {
            let mut end = agent.next_end().await;
            end.head().await;
            end.write(two).await;
            end.finish();
        };
        let (answer, ()) = tokio::join!(world.raw(&request), serving);
        assert!(!answer.contains("content-length"), "{answer}");
        assert!(answer.ends_with("9\r\nan answer\r\n0\r\n\r\n"), "{answer}");
        let sender = http2(&world).await;
        let (response, _) = send_to(&world, &sender, Method::GET, path, true).await;
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(two).await;
        end.finish();
        let answer = soon(response).await.unwrap();
        assert!(!answer.headers().contains_key("content-length"));
        let mut body = answer.into_body();
        assert_eq!(rest_of(&mut body).await, (b"an answer".to_vec(), Ok(())));
    }
}

#[tokio::test]
async fn rule_23_a_request_to_a_service_has_a_streams_seat_until_it_ends() {
    let agent = Arc::<Agent>::default();
    let budgets = BudgetConfig::default().streams_per_user(1).unwrap();
    let world = World::bounded_over(Arc::clone(&agent) as _, AuditLog::default(), budgets).await;
    let (response, _) = send(&world, &http2(&world).await, Method::GET, true).await;
    let mut end = agent.next_end().await;
    end.head().await;
    let request = head(&world, "GET", &format!("{WEB}/"), "Connection: close\r\n");
    assert_eq!(code(&world.raw(&request).await), 429);
    end.write("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n")
        .await;
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(code(&world.raw(&request).await), 429);
    end.write("x").await;
    end.finish();
    assert_eq!(rest_of(&mut body).await, (b"x".to_vec(), Ok(())));
    until(|| world.budgets.occupancy().is_empty()).await;
    assert_eq!(agent.opened().len(), 1);
}

/// A service that answers and goes on reading keeps its stream.
#[tokio::test]
async fn rule_23_a_seat_lasts_as_long_as_its_stream() {
    let agent = Arc::<Agent>::default();
    let budgets = BudgetConfig::default().streams_per_user(1).unwrap();
    let world = World::bounded_over(Arc::clone(&agent) as _, AuditLog::default(), budgets).await;
    let sender = http2(&world).await;
    let (response, mut up) = send(&world, &sender, Method::POST, false).await;
    let mut end = agent.next_end().await;
    end.head().await;
    end.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(rest_of(&mut body).await, (Vec::new(), Ok(())));
    up.send_data(Bytes::from_static(b"late"), false).unwrap();
    let request = head(&world, "GET", &format!("{WEB}/"), "Connection: close\r\n");
    assert_eq!(code(&world.raw(&request).await), 429);
    end.reset().await;
    until(|| world.budgets.occupancy().is_empty()).await;
    assert_eq!(agent.opened().len(), 1);
}

#[tokio::test]
async fn rule_15_a_request_to_a_service_is_written_when_it_begins_and_when_it_ends() {
    let agent = Arc::<Agent>::default();
    let taken = Taken::new();
    let (audit, _) = taken.audit_log(BackendConfig::default());
    let world = World::bounded_over(Arc::clone(&agent) as _, audit, BudgetConfig::default()).await;
    let path = format!("{WEB}/form?token=1");
    let request = head(
        &world,
        "POST",
        &path,
        "Content-Length: 8\r\nConnection: close\r\n",
    );
    let serving = async {
        let mut end = agent.next_end().await;
        end.head().await;
        assert_eq!(end.read(8).await, b"question");
        end.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
            .await;
        let begun = taken.all(1).await[0].clone();
        end.write("an answer").await;
        end.finish();
        begun
    };
    let request = request + "question";
    let (answer, begun) = tokio::join!(world.raw(&request), serving);
    assert!(answer.ends_with("an answer"), "{answer}");
    let ended = &taken.all(2).await[1];
    assert_eq!(begun["stage"], "ResponseStarted");
    assert_eq!(ended["stage"], "ResponseComplete");
    for event in [&begun, ended] {
        assert_eq!(event["verb"], "connect");
        assert_eq!(event["requestURI"], path);
        assert_eq!(event["user"]["username"], "alice");
        assert_eq!(event["annotations"]["underpass.dev/cluster"], "c");
        assert_eq!(event["annotations"]["underpass.dev/method"], "POST");
        assert_eq!(event["auditID"], begun["auditID"]);
    }
    let notes = &ended["annotations"];
    assert_eq!(notes["underpass.dev/outcome"], "complete");
    assert_eq!(notes["underpass.dev/bytes-up"], "8");
    assert_eq!(notes["underpass.dev/bytes-down"], "9");
    let path = "/v1/clusters/c/services/http:shop:forbidden:80/";
    world
        .raw(&head(&world, "GET", path, "Connection: close\r\n"))
        .await;
    let refused = &taken.all(3).await[2];
    assert_eq!(
        json!([
            refused["verb"],
            refused["responseStatus"]["code"],
            refused["requestURI"]
        ]),
        json!(["connect", 403, path])
    );
}

#[tokio::test]
async fn rule_15_a_known_callers_refused_path_is_written_with_their_name() {
    let agent = Arc::<Agent>::default();
    let taken = Taken::new();
    let strangers = Taken::new();
    let (audit, _) = taken.audit_log(BackendConfig::default());
    let audit = audit.strangers("strangers", Box::new(strangers.clone()));
    let world = World::bounded_over(Arc::clone(&agent) as _, audit, BudgetConfig::default()).await;
    for (number, (path, code, cluster)) in [
        (format!("{WEB}/../x"), 400, json!("c")),
        (
            "/v1/clusters/C/services/http:shop:web:80/".to_owned(),
            404,
            json!(null),
        ),
        ("/k8s/clusters/C/api".to_owned(), 404, json!(null)),
    ]
    .into_iter()
    .enumerate()
    {
        let request = head(&world, "GET", &path, "Connection: close\r\n");
        assert_eq!(crate::world::code(&world.raw(&request).await), code);
        let event = &taken.all(number + 1).await[number];
        assert_eq!(event["user"]["username"], "alice", "{event}");
        assert_eq!(event["responseStatus"]["code"], code, "{event}");
        assert_eq!(event["requestURI"], path);
        assert_eq!(event["annotations"]["underpass.dev/cluster"], cluster);
    }
    // A stranger's is nobody's.
    let path = format!("{WEB}/../x");
    let request = format!("GET {path} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n");
    assert_eq!(code(&world.raw(&request).await), 401);
    let event = &strangers.all(1).await[0];
    assert_eq!(event["user"]["username"], json!(null), "{event}");
    assert_eq!(agent.opened(), [""; 0]);
}

/// hyper asks the body of an answer nothing while its client takes no more of it.
#[tokio::test]
async fn rule_12_what_is_taken_back_ends_an_upload_whose_answer_nobody_reads() {
    let (agent, world) = world().await;
    let socket = TcpStream::connect(world.http2).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (sender, connection) = builder.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let (response, mut up) = send(&world, &sender, Method::POST, false).await;
    let mut end = agent.next_end().await;
    end.head().await;
    end.write(STREAM).await;
    end.write("4\r\nover\r\n").await;
    let _answer = soon(response).await.unwrap();
    up.send_data(Bytes::from_static(b"before"), false).unwrap();
    world.revoke.cancel();
    let (came, clean) = end.rest().await;
    assert!(!clean, "a clean end for the service: {came:?}");
}

#[tokio::test]
async fn rule_12_what_is_taken_back_ends_a_request_to_a_service() {
    let (agent, world) = world().await;
    let sender = http2(&world).await;
    let (response, _) = send(&world, &sender, Method::GET, true).await;
    let mut end = agent.next_end().await;
    end.head().await;
    end.write(STREAM).await;
    let mut body = soon(response).await.unwrap().into_body();
    let (waiting, _) = send(&world, &sender, Method::GET, true).await;
    let mut other = agent.next_end().await;
    other.head().await;
    world.revoke.cancel();
    assert!(rest_of(&mut body).await.1.is_err(), "a clean end");
    assert_eq!(soon(waiting).await.unwrap().status(), 403);
    assert!(!end.rest().await.1, "a clean end for the service");
    assert!(!other.rest().await.1, "a clean end for the service");
}

/// A service that reads no more of an upload than it answers, and whose client sends all of it first.
#[tokio::test]
async fn a_services_early_answer_to_an_upload_arrives() {
    let (agent, world) = world().await;
    let sender = http2(&world).await;
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    for _ in 0..4 {
        let (answer, mut upload) = send(&world, &sender, Method::PUT, false).await;
        let mut end = agent.next_end().await;
        end.head().await;
        end.write(
            "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
        )
        .await;
        end.finish();
        drop(end);
        for _ in 0..640 {
            upload.reserve_capacity(piece.len());
            while upload.capacity() < piece.len() {
                let capacity = std::future::poll_fn(|cx| upload.poll_capacity(cx));
                soon(capacity).await.expect("no reset").unwrap();
            }
            upload.send_data(piece.clone(), false).unwrap();
        }
        upload.send_data(Bytes::new(), true).unwrap();
        let answer = soon(answer).await.unwrap();
        assert_eq!(answer.status(), 413);
        let mut body = answer.into_body();
        assert_eq!(rest_of(&mut body).await, (b"no".to_vec(), Ok(())));
    }
}
