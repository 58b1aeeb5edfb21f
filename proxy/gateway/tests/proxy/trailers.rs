//! Trailers of answers, over every protocol of the API server's and of the client's.

use http::{HeaderMap, Request, Response, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use underpass_core::{Body, empty, full};

use crate::{
    api::{Api, channel},
    world::{World, code, soon},
};

const PROXY: &str = "/api/v1/namespaces/a/services/http:s:80/proxy/x";

/// Trailers that a workload sends behind `body`: one may pass, one is no header of ours to pass, and one was not announced.
fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "841".parse().unwrap());
    trailers.insert("set-cookie", "a=b".parse().unwrap());
    trailers
}

/// Answers with a body of unknown length, or of a known one (`…/length`), and trailers behind it.
pub(crate) async fn with_trailers(request: Request<Incoming>) -> Response<Body> {
    let body = match request.uri().path().ends_with("/length") {
        true => full("body"),
        false => {
            let (chunks, body) = channel();
            tokio::spawn(async move { chunks.send(Ok("body".into())).await });
            body
        }
    };
    let body = body.with_trailers(async { Some(Ok(trailers())) });
    let mut response = Response::new(body.boxed_unsync());
    let announced = "X-Sum, Set-Cookie".parse().unwrap();
    response.headers_mut().insert(header::TRAILER, announced);
    response
}

/// Asks over both protocols, and finds the trailer that may pass.
pub(crate) async fn come_over_both(world: &World, path: &str) {
    let answer = world.get(path, "TE: trailers\r\n").await;
    assert_eq!(code(&answer), 200, "{path}: {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\ntrailer: x-sum\r\n"), "{path}: {answer}");
    assert_eq!(body, "4\r\nbody\r\n0\r\nx-sum: 841\r\n\r\n", "{path}");

    let mut http2 = world.http2().await;
    let request = world.request("GET", path, empty());
    let answer = soon(http2.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    let body = soon(answer.into_body().collect()).await.unwrap();
    let trailers = body.trailers().unwrap_or_else(|| panic!("{path}"));
    assert_eq!(trailers.len(), 1, "{path}: {trailers:?}");
    assert_eq!(trailers["x-sum"], "841", "{path}");
    assert_eq!(body.to_bytes(), "body", "{path}");
}

#[tokio::test]
async fn trailers_of_an_answer_reach_every_client_that_takes_them() {
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let api = Api::start_with(&[alpn], with_trailers).await;
        let world = World::new(&api).await;
        for path in [PROXY, "/apis/example.org/v1/things"] {
            come_over_both(&world, path).await;
        }
        for seen in api.seen() {
            assert_eq!(seen.version, version);
            assert_eq!(seen.all("te"), ["trailers"]);
        }
    }
}

/// HTTP/2 has both, and HTTP/1.1 has trailers behind chunks alone.
#[tokio::test]
async fn a_length_does_not_cost_the_trailers() {
    let api = Api::start_with(&["h2"], with_trailers).await;
    let world = World::new(&api).await;
    come_over_both(&world, &format!("{PROXY}/length")).await;
}

#[tokio::test]
async fn a_client_that_takes_no_trailers_gets_none() {
    for alpn in ["h2", "http/1.1"] {
        let api = Api::start_with(&[alpn], with_trailers).await;
        let world = World::new(&api).await;
        let answer = world.get(PROXY, "TE: gzip\r\n").await;
        assert!(answer.ends_with("4\r\nbody\r\n0\r\n\r\n"), "{answer}");
        assert_eq!(api.only().all("te"), [""; 0]);
    }
}
