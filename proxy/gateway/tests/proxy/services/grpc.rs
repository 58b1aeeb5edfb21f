//! Services that speak HTTP/2 without TLS, as gRPC's do: both directions stream, and answers have trailers.

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use super::site::{Site, head};
use crate::{
    connect::client::rest_of,
    upgrades::WEBSOCKET,
    world::{World, code, soon, status, until},
};

const GRPC: &str = "/v1/clusters/c/services/h2c:shop:grpc:50051";

async fn client(world: &World) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(world.http2).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A call of a method, as alice.
async fn call(world: &World) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let request = Request::post(format!("https://front{GRPC}/shop.Cart/Watch?x=1"))
        .header("authorization", format!("Bearer {}", world.alice))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    let mut sender = client(world).await.ready().await.unwrap();
    sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap()
}

/// The service's end of the next call; its connection ends with the handle.
async fn accept(
    site: &Site,
) -> (
    Request<h2::RecvStream>,
    h2::server::SendResponse<Bytes>,
    tokio_util::task::AbortOnDropHandle<()>,
) {
    let mut connection = soon(h2::server::handshake(site.next().await))
        .await
        .unwrap();
    let (request, respond) = soon(connection.accept()).await.unwrap().unwrap();
    let driving = tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
    (
        request,
        respond,
        tokio_util::task::AbortOnDropHandle::new(driving),
    )
}

#[tokio::test]
async fn a_call_streams_in_both_directions_and_ends_with_trailers() {
    let site = Site::new();
    let world = World::over(site.clone()).await;
    let (response, mut up) = call(&world).await;
    let (request, mut respond, _driving) = accept(&site).await;
    assert_eq!(
        request.uri(),
        "http://grpc.shop.svc:50051/shop.Cart/Watch?x=1"
    );
    let headers = request.headers();
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["x-forwarded-prefix"], GRPC);
    for gone in ["authorization", "host"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    let mut from_client = request.into_body();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let mut from_service = soon(response).await.unwrap().into_body();
    for number in 0..3 {
        up.send_data(format!("question {number}").into(), false)
            .unwrap();
        let asked = soon(from_client.data()).await.unwrap().unwrap();
        assert_eq!(asked, format!("question {number}"));
        down.send_data(format!("answer {number}").into(), false)
            .unwrap();
        let told = soon(from_service.data()).await.unwrap().unwrap();
        assert_eq!(told, format!("answer {number}"));
    }
    up.send_data(Bytes::new(), true).unwrap();
    assert!(
        soon(from_client.data())
            .await
            .is_none_or(|last| last.unwrap().is_empty())
    );
    assert!(from_client.is_end_stream());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "5".parse().unwrap());
    trailers.insert("set-cookie", "a=b".parse().unwrap());
    down.send_trailers(trailers).unwrap();
    assert_eq!(rest_of(&mut from_service).await, (Vec::new(), Ok(())));
    let trailers = soon(from_service.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "5");
    assert!(!trailers.contains_key("set-cookie"), "rule 20");
    assert_eq!(site.opened(), ["tcp:grpc.shop.svc:50051"]);
    until(|| world.budgets.occupancy().is_empty()).await;
}

/// gRPC's server answers a call that it refuses, and reads no more of it (RFC 9113, section 8.1).
#[tokio::test]
async fn an_answer_before_the_calls_end_is_whole() {
    let site = Site::new();
    let world = World::over(site.clone()).await;
    let (response, mut up) = call(&world).await;
    let (request, mut respond, _driving) = accept(&site).await;
    up.send_data("question".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "7".parse().unwrap());
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    down.send_trailers(trailers).unwrap();
    // h2 resets the stream with NO_ERROR, once the answer is sent.
    drop((request, respond, down));
    let mut answer = soon(response).await.unwrap().into_body();
    assert_eq!(rest_of(&mut answer).await, (Vec::new(), Ok(())));
    let trailers = soon(answer.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "7");
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn rule_1_a_call_that_is_reset_is_reset_at_both_ends() {
    let site = Site::new();
    let world = World::over(site.clone()).await;
    // hyper takes some resets for ends.
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        // By the service.
        let (response, _up) = call(&world).await;
        let (_request, mut respond, _driving) = accept(&site).await;
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        down.send_data("half".into(), false).unwrap();
        let mut answer = soon(response).await.unwrap().into_body();
        assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "half");
        down.send_reset(reason);
        assert!(
            rest_of(&mut answer).await.1.is_err(),
            "{reason}: a clean end"
        );
        // By the client.
        let (response, mut up) = call(&world).await;
        up.send_data("half".into(), false).unwrap();
        let (request, _respond, _driving) = accept(&site).await;
        let mut from_client = request.into_body();
        assert_eq!(soon(from_client.data()).await.unwrap().unwrap(), "half");
        up.send_reset(reason);
        drop(response);
        let ended = soon(from_client.data()).await;
        assert!(
            ended.is_some_and(|end| end.is_err()),
            "{reason}: a clean end"
        );
    }
    // A service that is gone.
    let (response, _up) = call(&world).await;
    let (_request, mut respond, driving) = accept(&site).await;
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    down.send_data("half".into(), false).unwrap();
    let mut answer = soon(response).await.unwrap().into_body();
    drop(driving);
    assert!(rest_of(&mut answer).await.1.is_err(), "a clean end");
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn a_service_that_does_not_speak_http_2_is_told_from_one_that_is_gone() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let site = Site::new();
    let world = World::over(site.clone()).await;
    let request = head(&world, "GET", &format!("{GRPC}/"), "Connection: close\r\n");
    let answering = async {
        let mut stream = site.next().await;
        stream.read_u8().await.unwrap();
        let refused = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refused).await.unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(world.raw(&request), answering);
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(
        answer.contains("does not speak HTTP/2 without TLS"),
        "{answer}"
    );
    let (answer, ()) = tokio::join!(world.raw(&request), async { drop(site.next().await) });
    assert_eq!(code(&answer), 502, "{answer}");
    assert!(answer.contains("closed the connection"), "{answer}");
    // HTTP/2 has no upgrades.
    let request = head(&world, "GET", &format!("{GRPC}/"), WEBSOCKET);
    let answer = world.raw(&request).await;
    assert_eq!(code(&answer), 400, "{answer}");
    let message = status(&answer)["message"].to_string();
    assert!(message.contains("write http or https"), "{message}");
    assert_eq!(site.opened().len(), 2);
}
