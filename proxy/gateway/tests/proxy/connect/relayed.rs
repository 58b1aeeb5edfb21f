//! The bytes of a connection, and its ends.

use std::sync::Arc;

use h2::Reason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    agent::Agent,
    client::{Http2, Stream, as_alice, http1, rest, rest_of, send_all},
};
use crate::{
    upgrades::read_head,
    world::{World, soon, until},
};

async fn world() -> (Arc<Agent>, World) {
    let agent = Arc::<Agent>::default();
    let world = World::over(Arc::clone(&agent) as _).await;
    (agent, world)
}

fn many(count: u32) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_and_ends_are_carried_over_http_1() {
    let (agent, world) = world().await;
    // The client ends first.
    let mut socket = http1(&world, "held:1").await;
    let mut end = agent.end();
    socket.write_all(b"question").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(end.rest().await, (b"question".to_vec(), true));
    end.write("answer").await;
    end.finish();
    assert_eq!(rest(&mut socket).await, b"answer");
    // The target does.
    let mut socket = http1(&world, "held:1").await;
    let mut end = agent.end();
    end.write("bye").await;
    end.finish();
    assert_eq!(rest(&mut socket).await, b"bye");
    socket.write_all(b"still here").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(end.rest().await, (b"still here".to_vec(), true));
    assert_eq!(agent.opened(), ["c tcp:held:1 alice"; 2]);
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn bytes_and_ends_are_carried_over_http_2() {
    let (agent, world) = world().await;
    let connection = Http2::new(&world).await;
    let mut stream = connection.connect(&world, "held:1").await;
    let mut end = agent.end();
    stream.write("question");
    stream.finish();
    assert_eq!(end.rest().await, (b"question".to_vec(), true));
    end.write("answer").await;
    end.finish();
    assert_eq!(stream.rest().await, (b"answer".to_vec(), Ok(())));
    let mut stream = connection.connect(&world, "held:1").await;
    let mut end = agent.end();
    end.write("bye").await;
    end.finish();
    assert_eq!(stream.rest().await, (b"bye".to_vec(), Ok(())));
    stream.write("still here");
    stream.finish();
    assert_eq!(end.rest().await, (b"still here".to_vec(), true));
    until(|| world.budgets.occupancy().is_empty()).await;
}

#[tokio::test]
async fn much_is_carried_on_many_streams_at_once() {
    let (_, world) = world().await;
    let sent = many(3_000_000);
    let mut all = JoinSet::new();
    let connection = Arc::new(Http2::new(&world).await);
    for _ in 0..4 {
        let Stream { mut send, mut recv } = connection.connect(&world, "echo:1").await;
        let sent = sent.clone();
        all.spawn(async move {
            let writing = send_all(&mut send, sent.clone().into());
            let ((heard, ended), ()) = tokio::join!(rest_of(&mut recv), writing);
            assert_eq!(ended, Ok(()));
            assert!(heard == sent, "{} of {}", heard.len(), sent.len());
        });
    }
    let mut socket = http1(&world, "echo:1").await;
    all.spawn(async move {
        let (mut read, mut write) = socket.split();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (heard_all, ()) = tokio::join!(read.read_to_end(&mut heard), writing);
        heard_all.unwrap();
        assert!(heard == sent, "{} of {}", heard.len(), sent.len());
    });
    while let Some(done) = soon(all.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn rule_1_the_200_comes_once_the_agent_has_accepted() {
    let (agent, world) = world().await;
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    // Bytes that are sent ahead are the target's, and only then.
    let ahead = as_alice(&world, "late:1") + "ahead";
    socket.write_all(ahead.as_bytes()).await.unwrap();
    until(|| !agent.opened().is_empty()).await;
    let mut byte = [0];
    let early = socket.try_read(&mut byte);
    assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    agent.late.0.add_permits(1);
    let answer = read_head(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    for absent in ["content-length", "transfer-encoding", "connection: close"] {
        assert!(!lower.contains(absent), "{answer}");
    }
    assert_eq!(agent.end().read(5).await, b"ahead");
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_200_leaves_nothing() {
    let (agent, world) = world().await;
    let mut socket = TcpStream::connect(world.http1).await.unwrap();
    let request = as_alice(&world, "late:1");
    socket.write_all(request.as_bytes()).await.unwrap();
    let connection = Http2::new(&world).await;
    let asking = connection.connect(&world, "late:1");
    let gave_up = tokio::time::timeout(std::time::Duration::from_millis(50), asking);
    assert!(gave_up.await.is_err());
    until(|| agent.opened().len() == 2).await;
    drop((socket, connection));
    until(|| world.budgets.occupancy().is_empty()).await;
}

/// A download that was cut must not look complete.
#[tokio::test]
async fn a_targets_reset_is_no_clean_end() {
    let (agent, world) = world().await;
    let connection = Http2::new(&world).await;
    for _ in 0..50 {
        let mut stream = connection.connect(&world, "held:1").await;
        let mut end = agent.end();
        end.write("half of").await;
        end.reset().await;
        let (heard, ended) = stream.rest().await;
        assert!(b"half of".starts_with(&heard[..]), "{heard:?}");
        assert!(ended.is_err(), "a clean end");
        let (_, clean) = end.rest().await;
        assert!(!clean, "the target was told of a clean end");
    }
}

/// Neither must an upload: hyper takes CANCEL for a clean end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clients_reset_is_no_clean_end() {
    let (agent, world) = world().await;
    let connection = Http2::new(&world).await;
    for round in 0..300 {
        let reason = match round % 3 {
            0 => Reason::CANCEL,
            1 => Reason::NO_ERROR,
            _ => Reason::CONNECT_ERROR,
        };
        let mut stream = connection.connect(&world, "held:1").await;
        let mut end = agent.end();
        stream.write("half of");
        assert_eq!(end.read(7).await, b"half of");
        // Sometimes the other direction is busy meanwhile.
        if round % 2 == 0 {
            end.write("x").await;
        }
        stream.send.send_reset(reason);
        let (_, clean) = end.rest().await;
        assert!(!clean, "{reason:?} in round {round} was a clean end");
    }
    until(|| world.budgets.occupancy().is_empty()).await;
}

/// The same once the target has ended its half, when hyper looks at no reset any more.
#[tokio::test]
async fn a_clients_reset_behind_its_targets_end_is_no_clean_end() {
    let (agent, world) = world().await;
    let connection = Http2::new(&world).await;
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let mut stream = connection.connect(&world, "held:1").await;
        let mut end = agent.end();
        end.finish();
        assert_eq!(stream.rest().await, (Vec::new(), Ok(())));
        stream.write("half of");
        assert_eq!(end.read(7).await, b"half of");
        stream.send.send_reset(reason);
        let (_, clean) = end.rest().await;
        assert!(!clean, "{reason:?} was a clean end");
    }
    until(|| world.budgets.occupancy().is_empty()).await;
}

/// GOAWAY says NO_ERROR, which hyper takes for a clean end as well. Behind the target's end, its writer of the stream is gone.
#[tokio::test]
async fn a_client_that_says_goodbye_in_the_middle_is_no_clean_end() {
    /// RFC 9113, section 6.8: no stream of the server's, no error.
    const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

    let (agent, world) = world().await;
    for round in 0..40 {
        let socket = std::net::TcpStream::connect(world.http2).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut other = socket.try_clone().unwrap();
        let connection = Http2::over(TcpStream::from_std(socket).unwrap()).await;
        let mut stream = connection.connect(&world, "held:1").await;
        let mut end = agent.end();
        let target_ended = round % 2 == 0;
        if target_ended {
            end.finish();
            assert_eq!(stream.rest().await, (Vec::new(), Ok(())));
        }
        stream.write("half of");
        assert_eq!(end.read(7).await, b"half of");
        std::io::Write::write_all(&mut other, GOAWAY).unwrap();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        let (_, clean) = end.rest().await;
        assert!(!clean, "target ended: {target_ended}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_resets_its_connections() {
    let (agent, world) = world().await;
    let mut socket = http1(&world, "held:1").await;
    let mut first = agent.end();
    socket.write_all(b"half of").await.unwrap();
    assert_eq!(first.read(7).await, b"half of");
    let connection = Http2::new(&world).await;
    let mut stream = connection.connect(&world, "held:1").await;
    let mut second = agent.end();
    stream.write("half of");
    assert_eq!(second.read(7).await, b"half of");
    // A socket that is reset, and one that is closed in the middle of HTTP/2.
    socket.set_zero_linger().unwrap();
    drop(socket);
    connection.driver.abort();
    for end in [&mut first, &mut second] {
        let (_, clean) = end.rest().await;
        assert!(!clean);
    }
    drop(stream);
    until(|| world.budgets.occupancy().is_empty()).await;
}

/// The relay waits for the target alone then, and looks at no end of the client's.
#[tokio::test]
async fn rule_23_a_client_that_leaves_while_its_target_stands_still_leaves_nothing() {
    let (agent, world) = world().await;
    let ways = [(true, false), (true, true), (false, false), (false, true)];
    let ways = ways.map(|(stalled, loses_all)| (false, stalled, loses_all));
    let behind_its_end = [(true, true, false), (true, true, true)];
    for (target_ended, stalled, loses_all) in ways.into_iter().chain(behind_its_end) {
        let connection = Http2::new(&world).await;
        let mut stream = connection.connect(&world, "held:1").await;
        let mut end = agent.end();
        if target_ended {
            end.finish();
            assert_eq!(stream.rest().await, (Vec::new(), Ok(())));
        }
        if stalled {
            stream.write(many(2 * 1024 * 1024));
            // Beyond all buffers on the way; the target reads no more.
            end.read(128 * 1024).await;
        } else {
            stream.write("question");
            stream.finish();
            assert_eq!(end.rest().await, (b"question".to_vec(), true));
        }
        assert!(!world.budgets.occupancy().is_empty());
        if loses_all {
            connection.driver.abort();
        } else {
            stream.send.send_reset(Reason::CANCEL);
        }
        until(|| world.budgets.occupancy().is_empty()).await;
        drop(end);
    }
}

#[tokio::test]
async fn an_upload_that_is_whole_arrives_though_its_client_has_left() {
    let (agent, world) = world().await;
    let connection = Http2::new(&world).await;
    let mut stream = connection.connect(&world, "held:1").await;
    let mut end = agent.end();
    end.finish();
    assert_eq!(stream.rest().await, (Vec::new(), Ok(())));
    let sent = many(200 * 1024);
    stream.write(sent.clone());
    stream.finish();
    drop((stream, connection));
    let (heard, clean) = end.rest().await;
    assert!(heard == sent, "{} of {}", heard.len(), sent.len());
    assert!(clean);
    until(|| world.budgets.occupancy().is_empty()).await;
}
