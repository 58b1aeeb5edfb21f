//! A server that goes away, and comes back.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use underpass_forward::State;

use crate::world::{World, echo, soon, target, until};

async fn echoed(address: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    let mut here = TcpStream::connect(address).await?;
    here.write_all(b"x").await?;
    let mut heard = [0];
    soon(here.read_exact(&mut heard)).await?;
    Ok(here)
}

fn words(states: &[State]) -> Vec<&'static str> {
    let word = |state: &State| match state {
        State::Connected => "connected",
        State::Lost => "lost",
        State::Away(_) => "away",
        _ => "other",
    };
    states.iter().map(word).collect()
}

#[tokio::test]
async fn a_lost_server_is_found_again() {
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.port_to(&name).await;
    let mut before = echoed(address).await.unwrap();
    world.stop();
    // An open connection is reset, and sees no clean end.
    let cut = soon(before.read_u8()).await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
    until(|| words(&world.states.lock().unwrap()) == ["lost", "away"]).await;
    // One that comes meanwhile waits.
    let waiting = tokio::spawn(echoed(address));
    world.start_again().await;
    soon(waiting).await.unwrap().unwrap();
    let states = words(&world.states.lock().unwrap());
    assert_eq!(states, ["lost", "away", "connected"]);
    echoed(address).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_server_that_stays_away_learns_why() {
    let world = World::new().await;
    world.stop();
    let (address, _running) = world.port_to("web.shop:80").await;
    let mut here = TcpStream::connect(address).await.unwrap();
    let mut heard = Vec::new();
    let _ = soon(here.read_to_end(&mut heard)).await;
    assert_eq!(heard, b"");
    until(|| !world.heard().is_empty()).await;
    let told = &world.heard()[0];
    assert!(told.contains("the server cannot be reached"), "{told}");
    assert_eq!(words(&world.states.lock().unwrap()), ["away"]);
}

#[tokio::test]
async fn a_draining_server_keeps_what_is_open_and_new_connections_go_elsewhere() {
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.port_to(&name).await;
    let mut before = echoed(address).await.unwrap();
    world.front.drain(Duration::from_secs(60));
    before.write_all(b"y").await.unwrap();
    assert_eq!(soon(before.read_u8()).await.unwrap(), b'y');
    // Until the GOAWAY is there, a stream may be opened beside it.
    soon(async {
        while world.accepted.load(Ordering::SeqCst) == 1 {
            let _ = echoed(address).await;
        }
    })
    .await;
    before.write_all(b"z").await.unwrap();
    assert_eq!(soon(before.read_u8()).await.unwrap(), b'z');
}

#[tokio::test]
async fn the_last_bytes_of_a_connection_that_takes_no_more_streams_arrive() {
    let world = World::new().await;
    let (there, name) = target().await;
    let (address, _running) = world.port_to(&name).await;
    let mut here = TcpStream::connect(address).await.unwrap();
    let (mut far, _) = soon(there.accept()).await.unwrap();
    far.write_all(b"x").await.unwrap();
    assert_eq!(soon(here.read_u8()).await.unwrap(), b'x');
    // The server says GOAWAY, and new streams go elsewhere.
    world.front.drain(Duration::from_secs(60));
    soon(async {
        while world.accepted.load(Ordering::SeqCst) == 1 {
            let next = TcpStream::connect(address).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(next);
        }
    })
    .await;
    // This side ends last, and with it the stream and its connection.
    far.shutdown().await.unwrap();
    let mut heard = Vec::new();
    assert_eq!(soon(here.read_to_end(&mut heard)).await.unwrap(), 0);
    let last = vec![b'y'; 100_000];
    here.write_all(&last).await.unwrap();
    here.shutdown().await.unwrap();
    soon(far.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, last);
}
