//! Connections to services, by every way, while the agent's connections to its server are cut each second: they notice nothing.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use underpass_testenv::{CLUSTER_NAME, Transport};

use super::calls::{head, soon, websocket};
use super::forward::Forward;
use super::programs::{curl, output, serve_pages};
use super::site::Site;
use crate::cutter::{Cuts, Forgetful};
use crate::over_both_transports;

over_both_transports!(connections_by_every_way_survive_cuts_each_second);

/// From one cut to the next.
const SECOND: Duration = Duration::from_secs(1);

/// Cuts that each connection has to outlive.
const CUTS: usize = 4;

async fn connections_by_every_way_survive_cuts_each_second(transport: Transport) {
    let site = Site::start(transport).await;
    let path = Forgetful::start(site.server()).await;
    site.lead_through(path.port).await;
    let cuts = Cuts::default();
    let _serving = [
        serve_echoes(site.listen("echo", 9000).await),
        serve_pages(site.listen("web", 80).await),
        serve_events(site.listen("events", 80).await, cuts.clone()),
    ];
    let socks = ["--socks5", "0", &format!("0:{}:9000", site.host("echo"))];
    let mut forward = Forward::start(&site.deployment, &site.token, &socks);
    let (mut ports, mut said) = (Vec::new(), String::new());
    for _ in 0..2 {
        let (port, what) = forward.port().await;
        // The way to any host has no host in it.
        match what.contains("leads to any host") {
            true => said = port.to_string(),
            false => ports.push(port),
        }
    }
    let through_socks = ["--socks5-hostname", said.as_str()];
    let all = async {
        tokio::join!(
            a_long_transfer(ports[0], &cuts),
            new_connections(&site, &said, &cuts),
            a_websocket(&site, &cuts),
            events(&site, &through_socks),
            events_through_connect(&site),
            events_through_the_reverse_proxy(&site, "--http1.1"),
            events_through_the_reverse_proxy(&site, "--http2"),
        );
    };
    tokio::select! {
        () = all => {}
        never = path.forget_each(SECOND, &cuts) => match never {},
    }
    assert!(cuts.count() >= CUTS, "{} cuts", cuts.count());
    forward.interrupt().await;
}

fn serve_echoes(listener: TcpListener) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    }))
}

/// Answers with numbered events, and with the last one after some cuts.
fn serve_events(listener: TcpListener, cuts: Cuts) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let cuts = cuts.clone();
            tokio::spawn(async move {
                head(&mut tcp).await;
                let begin = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
                tcp.write_all(begin).await.unwrap();
                let mut enough = std::pin::pin!(cuts.wait_for(CUTS));
                let mut ticks = tokio::time::interval(Duration::from_millis(20));
                for number in 0.. {
                    tokio::select! {
                        () = &mut enough => break,
                        _ = ticks.tick() => {}
                    }
                    let event = format!("data: {number}\n\n");
                    tcp.write_all(event.as_bytes()).await.unwrap();
                }
                tcp.write_all(b"data: end\n\n").await.unwrap();
                let _ = tcp.shutdown().await;
            });
        }
    }))
}

/// Bytes there and back, as fast as they go, until there were cuts enough. The hash of those that are back is that of those that
/// were sent.
async fn a_long_transfer(port: std::net::SocketAddr, cuts: &Cuts) {
    const BLOCK: usize = 64 * 1024;
    let connection = soon(TcpStream::connect(port)).await.unwrap();
    let (mut read, mut write) = connection.into_split();
    let sending = async {
        let (mut hash, mut sent, mut block) = (Context::new(&SHA256), 0_u64, vec![0; BLOCK]);
        let mut enough = std::pin::pin!(cuts.wait_for(CUTS));
        loop {
            rand::fill(&mut block[..]);
            tokio::select! {
                () = &mut enough => break,
                written = write.write_all(&block) => written.expect("the forwarded connection takes bytes"),
            }
            hash.update(&block);
            sent += block.len() as u64;
        }
        write.shutdown().await.unwrap();
        // A block may have been taken in part.
        (hash, sent, block)
    };
    let receiving = async {
        let mut received = Vec::new();
        read.read_to_end(&mut received)
            .await
            .expect("an end in order");
        received
    };
    let ((hash, sent, part), received) = soon(async { tokio::join!(sending, receiving) }).await;
    let sent = usize::try_from(sent).unwrap();
    assert!(sent > 16 * BLOCK, "{sent} bytes are no long transfer");
    let (whole, rest) = received.split_at(sent);
    let mut back = Context::new(&SHA256);
    back.update(whole);
    assert_eq!(
        back.finish().as_ref(),
        hash.finish().as_ref(),
        "of {sent} bytes"
    );
    assert_eq!(rest, &part[..rest.len()], "the last block, in part");
}

/// Short connections, one after the other: each is made, and answered, though it may come while there is no connection.
async fn new_connections(site: &Site, socks: &str, cuts: &Cuts) {
    let url = format!("http://{}/hello", site.host("web"));
    let mut enough = std::pin::pin!(cuts.wait_for(CUTS));
    for number in 0.. {
        let ask = curl(["--socks5-hostname", socks, "--data", "form", &url]);
        tokio::select! {
            answer = output(ask) => assert_eq!(answer, "POST /hello form", "number {number}"),
            () = &mut enough => return assert!(number > 4, "{number} connections"),
        }
    }
}

async fn a_websocket(site: &Site, cuts: &Cuts) {
    let mut socket = websocket(site, "web").await;
    let mut enough = std::pin::pin!(cuts.wait_for(CUTS));
    let mut piece = [0; 1000];
    let mut heard = [0; 1000];
    loop {
        rand::fill(&mut piece[..]);
        let echo = async {
            socket.write_all(&piece).await.unwrap();
            socket.flush().await.unwrap();
            soon(socket.read_exact(&mut heard)).await.unwrap();
        };
        tokio::select! {
            biased;
            () = echo => assert_eq!(heard, piece),
            () = &mut enough => break,
        }
    }
}

async fn events_through_connect(site: &Site) {
    let (ca, cluster) = (site.ca_file(), format!("Underpass-Cluster: {CLUSTER_NAME}"));
    let bearer = format!("Proxy-Authorization: Bearer {}", site.bearer());
    let proxy = ["--proxytunnel", "--proxy", site.deployment.url()];
    let trust = ["--proxy-cacert", ca.to_str().unwrap()];
    let headers = ["--proxy-header", &cluster, "--proxy-header", &bearer];
    events(site, &[&proxy[..], &trust, &headers].concat()).await;
}

async fn events_through_the_reverse_proxy(site: &Site, version: &str) {
    let (ca, url) = (site.ca_file(), site.url("http", "events", 80, "/"));
    let bearer = format!("Authorization: Bearer {}", site.bearer());
    let way = [
        version,
        "--cacert",
        ca.to_str().unwrap(),
        "--header",
        &bearer,
    ];
    all_events(&[&way[..], &[&url]].concat()).await;
}

async fn events(site: &Site, way: &[&str]) {
    let url = format!("http://{}/", site.host("events"));
    all_events(&[way, &[&url]].concat()).await;
}

/// None is missing, none is there twice, and the last one is the end.
async fn all_events(arguments: &[&str]) {
    let answer = output(curl(arguments)).await;
    let mut events = answer.split_terminator("\n\n").collect::<Vec<_>>();
    assert_eq!(events.pop(), Some("data: end"), "{arguments:?}");
    for (number, event) in events.iter().enumerate() {
        assert_eq!(*event, format!("data: {number}"), "{arguments:?}");
    }
    assert!(events.len() > 50, "{} events", events.len());
}
