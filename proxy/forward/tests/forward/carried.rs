//! Bytes, ends and resets.

use std::{io::ErrorKind, sync::atomic::Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::world::{World, echo, soon, target, until};

#[tokio::test]
async fn bytes_and_ends_arrive_as_what_they_are() {
    let world = World::new().await;
    let (there, name) = target().await;
    let (address, _running) = world.port_to(&name).await;
    // This side ends first.
    let mut here = TcpStream::connect(address).await.unwrap();
    here.write_all(b"question").await.unwrap();
    here.shutdown().await.unwrap();
    let (mut far, _) = soon(there.accept()).await.unwrap();
    let mut heard = String::new();
    soon(far.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "question");
    far.write_all(b"an answer").await.unwrap();
    drop(far);
    let mut heard = String::new();
    soon(here.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "an answer");
    until(|| world.heard() == ["opened", "closed 8 9 true"]).await;
    // The other one does.
    let mut here = TcpStream::connect(address).await.unwrap();
    let (mut far, _) = soon(there.accept()).await.unwrap();
    far.write_all(b"bye").await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(here.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "bye");
    here.write_all(b"still here").await.unwrap();
    here.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(far.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "still here");
    until(|| world.budgets.occupancy().is_empty()).await;
    assert_eq!(
        world.asked(),
        [format!("edge tcp:{name}"), format!("edge tcp:{name}")]
    );
}

#[tokio::test]
async fn a_reset_is_a_reset_on_either_side() {
    let world = World::new().await;
    let (there, name) = target().await;
    let (address, _running) = world.port_to(&name).await;
    for _ in 0..20 {
        let mut here = TcpStream::connect(address).await.unwrap();
        here.write_all(b"half of").await.unwrap();
        let (mut far, _) = soon(there.accept()).await.unwrap();
        let mut half = [0; 7];
        soon(far.read_exact(&mut half)).await.unwrap();
        here.set_zero_linger().unwrap();
        drop(here);
        let cut = soon(far.read_u8()).await.unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
        let mut here = TcpStream::connect(address).await.unwrap();
        let (mut far, _) = soon(there.accept()).await.unwrap();
        far.write_all(b"half of").await.unwrap();
        soon(here.read_exact(&mut half)).await.unwrap();
        far.set_zero_linger().unwrap();
        drop(far);
        let cut = soon(here.read_u8()).await.unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    }
    until(|| {
        world
            .heard()
            .iter()
            .filter(|line| line.ends_with("false"))
            .count()
            == 40
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_with_the_agents_words() {
    let world = World::new().await;
    let (address, _running) = world.port_to("db.prod:5432").await;
    let mut here = TcpStream::connect(address).await.unwrap();
    let mut heard = Vec::new();
    let _ = soon(here.read_to_end(&mut heard)).await;
    assert_eq!(heard, b"");
    until(|| !world.heard().is_empty()).await;
    let told = &world.heard()[0];
    assert!(told.contains("no rule allows"), "{told}");
    assert!(told.ends_with("(403 Forbidden)"), "{told}");
}

#[tokio::test]
async fn each_connection_has_the_token_of_its_time() {
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.port_to(&name).await;
    let ask = async || {
        let mut here = TcpStream::connect(address).await.unwrap();
        here.write_all(b"x").await.unwrap();
        let mut heard = [0];
        soon(here.read(&mut heard)).await.unwrap_or_default()
    };
    assert_eq!(ask().await, 1);
    // The listener's source of credentials and the server change at the same moment.
    *world.word.0.lock().unwrap() = "second".to_owned();
    assert_eq!(ask().await, 1);
    assert_eq!(world.accepted.load(Ordering::SeqCst), 1);
}

/// More than the server allows on one connection.
#[tokio::test]
async fn many_connections_take_few_connections_to_the_server() {
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.port_to(&name).await;
    let mut open = Vec::new();
    for _ in 0..300 {
        let mut here = TcpStream::connect(address).await.unwrap();
        here.write_all(b"x").await.unwrap();
        let mut heard = [0];
        soon(here.read_exact(&mut heard)).await.unwrap();
        open.push(here);
    }
    assert_eq!(world.accepted.load(Ordering::SeqCst), 2);
    drop(open);
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn a_thousand_connections_that_come_and_go_leave_nothing_behind() {
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let world = World::new().await;
    let (_echo, name) = echo().await;
    let (address, _running) = world.port_to(&name).await;
    let round = async |count: usize| {
        let mut all = JoinSet::new();
        for number in 0..count {
            all.spawn(async move {
                let mut here = TcpStream::connect(address).await.unwrap();
                here.write_all(b"hello").await.unwrap();
                let mut heard = [0; 5];
                soon(here.read_exact(&mut heard)).await.unwrap();
                assert_eq!(&heard, b"hello");
                // Some end, others vanish.
                match number % 3 {
                    0 => here.shutdown().await.unwrap(),
                    1 => here.set_zero_linger().unwrap(),
                    _ => {}
                }
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        until(|| world.budgets.occupancy().is_empty()).await;
    };
    round(50).await;
    until(|| {
        world
            .heard()
            .iter()
            .filter(|line| line.starts_with("closed"))
            .count()
            == 50
    })
    .await;
    let (tasks_before, files_before) = (tasks(), files());
    for _ in 0..20 {
        round(50).await;
    }
    until(|| {
        world
            .heard()
            .iter()
            .filter(|line| line.starts_with("closed"))
            .count()
            == 1050
    })
    .await;
    until(|| tasks() <= tasks_before && files() <= files_before).await;
    assert_eq!(world.accepted.load(Ordering::SeqCst), 1);
}

/// More than a connection's window was once.
#[tokio::test]
async fn streams_that_nobody_reads_stop_no_others() {
    let world = World::new().await;
    let (there, flooding) = target().await;
    let (_echo, echoing) = echo().await;
    let tunnel = world.tunnel();
    let sent = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let mut held = Vec::new();
    let mut floods = JoinSet::new();
    for _ in 0..20 {
        let target = format!("tcp:{flooding}").parse().unwrap();
        held.push(soon(tunnel.open(&target)).await.unwrap());
        let (mut far, _) = soon(there.accept()).await.unwrap();
        let sent = sent.clone();
        floods.spawn(async move {
            while let Ok(count) = far.write(&[0; 64 * 1024]).await {
                sent.fetch_add(count, Ordering::SeqCst);
            }
        });
    }
    // Until no flood gets anything through any more.
    let (mut seen, mut unchanged) = (0, 0);
    until(|| {
        let now = sent.load(Ordering::SeqCst);
        unchanged = if now == seen { unchanged + 1 } else { 0 };
        seen = now;
        unchanged == 50 && now > held.len() << 20
    })
    .await;
    let mut stream = soon(tunnel.open(&format!("tcp:{echoing}").parse().unwrap()))
        .await
        .unwrap();
    stream.write_all(b"through").await.unwrap();
    let mut heard = [0; 7];
    soon(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"through");
    assert_eq!(world.accepted.load(Ordering::SeqCst), 1);
}
