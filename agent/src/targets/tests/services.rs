//! Services, as an API server over plain HTTP knows them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use underpass_tunnel::ResetCode;

use super::world::*;

/// An API server over plain HTTP that knows services by their paths; it counts the questions.
struct Api {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Api {
    async fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
                tokio::spawn(async move {
                    let mut tcp = BufReader::new(tcp);
                    while let Some(path) = request(&mut tcp).await {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let (status, body) = answer(&path);
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        tcp.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self { url, asked }
    }
}

/// The path of the next request, unless its client has gone.
async fn request(tcp: &mut BufReader<TcpStream>) -> Option<String> {
    let mut path = None;
    loop {
        let mut line = String::new();
        if tcp.read_line(&mut line).await.unwrap_or(0) <= 2 {
            return path;
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
}

fn service(port: u16) -> String {
    format!(
        r#"{{"kind": "Service", "apiVersion": "v1", "spec": {{"ports": [{{"port": {port}, "name": "db"}}]}}}}"#
    )
}

fn slices(addresses: &[SocketAddr]) -> String {
    let slice = |address: &SocketAddr| {
        format!(
            r#"{{"addressType": "IPv4", "metadata": {{}}, "ports": [{{"name": "db", "port": {}}}],
                 "endpoints": [{{"addresses": ["{}"]}}]}}"#,
            address.port(),
            address.ip()
        )
    };
    let slices: Vec<_> = addresses.iter().map(slice).collect();
    format!(
        r#"{{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {{}}, "items": [{}]}}"#,
        slices.join(",")
    )
}

const SERVICES: &str =
    "tcp: [{name: services, services: [prod/*]}, {name: own, addresses: [127.0.0.0/8]}]";

#[tokio::test]
async fn a_service_leads_to_its_ready_endpoints_in_turn() {
    let (one, two) = (listener().await.0, listener().await.0);
    let addresses = [&one, &two].map(|listener| listener.local_addr().unwrap());
    let api = Api::start(move |path| match path {
        "/api/v1/namespaces/prod/services/db" => (200, service(5432)),
        "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices\
         ?labelSelector=kubernetes.io%2Fservice-name%3Ddb&limit=32" => (200, slices(&addresses)),
        _ => (404, "{}".to_owned()),
    })
    .await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let target = "tcp:db.prod.svc:5432";
    for listener in [&one, &two, &one] {
        joined(&world, listener, target).await;
    }
    let asked = api.asked.load(Ordering::Relaxed);
    assert_eq!(asked, 2, "the service and its slices, once");
    let (code, reason) = world.refused("tcp:db.prod:22").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("no TCP port of this number"), "{reason}");
    let (_, reason) = world.refused("tcp:redis.prod:1").await;
    assert!(reason.contains("there is no such service"), "{reason}");
    let (code, _) = world.refused("tcp:db.dev:5432").await;
    assert_eq!(code, ResetCode::Forbidden);
}

#[tokio::test]
async fn a_service_whose_endpoints_are_gone_is_looked_up_again() {
    let (listener, _) = listener().await;
    let there = listener.local_addr().unwrap();
    let gone = closed().await;
    let first = AtomicUsize::new(0);
    let api = Api::start(move |path| match path.contains("endpointslices") {
        false => (200, service(5432)),
        true => match first.fetch_add(1, Ordering::Relaxed) {
            0 => (200, slices(&[gone])),
            _ => (200, slices(&[there])),
        },
    })
    .await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let (code, reason) = world.refused("tcp:db.prod:5432").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("refuses connections"), "{reason}");
    joined(&world, &listener, "tcp:db.prod:5432").await;
}

#[tokio::test]
async fn rule_17_an_endpoint_at_a_special_address_is_not_dialled() {
    let (listener, _) = listener().await;
    let address = listener.local_addr().unwrap();
    let api = Api::start(move |path| match path.contains("endpointslices") {
        false => (200, service(5432)),
        true => (200, slices(&[address])),
    })
    .await;
    // The second has a rule for the address at the service's port, which is not the one that would be dialled.
    for policy in [
        "tcp: [{name: services, services: [prod/*]}]",
        "tcp: [{name: services, services: [prod/*]}, {name: own, addresses: [127.0.0.1], ports: [5432]}]",
    ] {
        let differs = Differs {
            api_server: api.url.clone(),
            ..Differs::default()
        };
        let world = World::differing(policy, differs).await;
        let (code, reason) = world.refused("tcp:db.prod:5432").await;
        assert_eq!(code, ResetCode::Forbidden);
        assert!(
            reason.contains("allows prod/db, but it leads to"),
            "{reason}"
        );
    }
    let mut accepting = std::pin::pin!(listener.accept());
    assert!(futures_util::poll!(&mut accepting).is_pending());
}

#[tokio::test]
async fn an_agent_without_the_right_to_read_services_says_so() {
    let api = Api::start(|_| (403, "{}".to_owned())).await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let (code, reason) = world.refused("tcp:db.prod:5432").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("--read-services"), "{reason}");
}

#[tokio::test]
async fn rule_19_an_answer_about_a_service_has_an_end() {
    let long = "x".repeat(crate::limits::SERVICE_BYTES);
    // As a service it would do: it has no port.
    let long = format!(
        r#"{{"kind": "Service", "apiVersion": "v1", "spec": {{"ports": []}}, "x": "{long}"}}"#
    );
    let api = Api::start(move |_| (200, long.clone())).await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let (code, reason) = world.refused("tcp:db.prod:5432").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("could not look the service up"), "{reason}");
}
