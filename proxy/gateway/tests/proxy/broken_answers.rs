//! Answers that break off: all that came before the break arrives, and no end is taken for a proper one.

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    api::Api,
    world::{World, soon},
};

const PATH: &str = "/api/v1/namespaces/n/pods/p/proxy/x";

/// Heads and bodies without their ends.
const CUT: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhalf",
    "HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\nhalf",
];

/// An API server that answers so, and closes its connection.
async fn api(answer: &'static str) -> Api {
    Api::scripted(&["http/1.1"], move |_, mut tls| async move {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if tls.read_buf(&mut head).await.unwrap_or_default() == 0 {
                return;
            }
        }
        tls.write_all(answer.as_bytes()).await.unwrap();
        tls.shutdown().await.unwrap();
    })
    .await
}

/// Everything that a client gets that sends these bytes behind its request.
async fn came(world: &World, behind: &str) -> String {
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let request = world.head("GET", PATH, "") + behind;
    soon(socket.write_all(request.as_bytes())).await.unwrap();
    let mut came = Vec::new();
    soon(socket.read_to_end(&mut came)).await.unwrap();
    String::from_utf8_lossy(&came).into_owned()
}

#[tokio::test]
async fn an_answer_that_breaks_off_arrives_as_far_as_it_came_over_http1() {
    for cut in CUT {
        let api = api(cut).await;
        let world = World::new(&api).await;
        let unreadable = "GET /version HTTP/1.1\r\nHost: x\r\nX-A: b\r\n  folded\r\n\r\n";
        // More than hyper reads ahead: it is unread where the connection is closed.
        let large = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(4 << 20));
        for behind in ["", unreadable, &large] {
            for _ in 0..4 {
                let came = came(&world, behind).await;
                let code = cut.split_whitespace().nth(1).unwrap();
                assert!(came.starts_with(&format!("HTTP/1.1 {code} ")), "{came:?}");
                let (_, body) = came.split_once("\r\n\r\n").unwrap();
                assert!(body.contains("half"), "{cut:?}: {came:?}");
                assert!(!body.ends_with("0\r\n\r\n"), "{cut:?}: {came:?}");
                assert_eq!(came.matches("HTTP/1.1 ").count(), 1, "{came:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_arrives_as_far_as_it_came_over_http2() {
    for cut in CUT {
        let api = api(cut).await;
        let world = World::new(&api).await;
        for _ in 0..4 {
            let request = world.request("GET", PATH, underpass_core::empty());
            let answer = soon(world.http2().await.send_request(request)).await;
            let mut body = answer.expect("the head arrives").into_body();
            let mut came = Vec::new();
            loop {
                let frame = soon(body.frame()).await.expect("no proper end");
                let Ok(frame) = frame else { break };
                came.extend_from_slice(frame.data_ref().unwrap());
            }
            assert_eq!(String::from_utf8_lossy(&came), "half", "{cut:?}");
        }
    }
}

#[tokio::test]
async fn no_answer_at_all_is_a_status() {
    for nothing in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "NOT HTTP AT ALL\r\n\r\n",
    ] {
        let api = api(nothing).await;
        let world = World::new(&api).await;
        let came = came(
            &world,
            "GET /version HTTP/1.1\r\nHost: x\r\nX-A: b\r\n  folded\r\n\r\n",
        )
        .await;
        assert!(came.starts_with("HTTP/1.1 502 "), "{nothing:?}: {came:?}");
        assert!(
            came.contains("\"kind\":\"Status\""),
            "{nothing:?}: {came:?}"
        );
        assert!(came.contains("HTTP/1.1 400 "), "{nothing:?}: {came:?}");
    }
}
