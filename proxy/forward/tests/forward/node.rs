//! Targets at nodes, and sockets of this machine.

use std::os::unix::fs::FileTypeExt;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::world::{NODE, World, soon, target, until};

#[tokio::test]
async fn a_socket_of_this_machine_leads_to_a_node() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("near.sock");
    let (there, name) = target().await;
    let running = world.socket_to(&path, NODE, &name).await;
    let mut here = UnixStream::connect(&path).await.unwrap();
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
    assert_eq!(world.asked(), [format!("edge/{NODE} tcp:{name}")]);
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    drop(running);
    until(|| !path.exists()).await;
}

#[tokio::test]
async fn a_node_that_is_away_is_named_and_its_socket_stays() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("near.sock");
    let _running = world.socket_to(&path, "worker-2", "here.test:1").await;
    for times in 1..3 {
        let mut here = UnixStream::connect(&path).await.unwrap();
        let mut heard = Vec::new();
        soon(here.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"");
        until(|| world.heard().len() == times).await;
    }
    let heard = world.heard();
    for words in ["worker-2", "is not connected", "underpass node list edge"] {
        assert!(heard[0].contains(words), "{heard:?}");
    }
}
