//! Between a stream and a connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use underpass_tunnel::{
    Copied, CopyError, ResetCode, Stream, StreamError, copy_bidirectional, copy_until,
};

use crate::bytes::{Pattern, finish, open, pour, read_whole, stream, write_until_error};
use crate::harness::{Pair, within};

/// A connection's buffer in bytes: less than a chunk.
const PIPE: usize = 10_000;

/// The far end of a connection that is being joined to `stream`.
fn join(stream: Stream) -> (DuplexStream, JoinHandle<Result<Copied, CopyError>>) {
    let (near, far) = duplex(PIPE);
    (far, tokio::spawn(copy_bidirectional(stream, near)))
}

async fn end(copying: JoinHandle<Result<Copied, CopyError>>) -> Result<Copied, CopyError> {
    within("the copy ends", copying).await.unwrap()
}

/// A connection, a stream, and a connection.
pub(crate) async fn a_copy_carries_both_directions_to_their_ends(pair: &Pair) {
    const DOWN: usize = 3 << 20;
    const UP: usize = 1_000_001;
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let ((user, at_server), (service, at_agent)) = (join(here), join(there));
    let (mut from_user, mut to_user) = tokio::io::split(user);
    let (mut from_service, mut to_service) = tokio::io::split(service);
    let (down, up) = (Pattern::new(1).piece(DOWN), Pattern::new(2).piece(UP));
    let (mut came_down, mut came_up) = (Vec::new(), Vec::new());
    let (sent_down, sent_up, got_down, got_up) = within("the bytes come", async {
        tokio::join!(
            async {
                to_service.write_all(&down).await?;
                to_service.shutdown().await
            },
            to_user.write_all(&up),
            from_user.read_to_end(&mut came_down),
            async {
                came_up.resize(UP, 0);
                from_service.read_exact(&mut came_up).await
            },
        )
    })
    .await;
    sent_down.and(sent_up).unwrap();
    assert_eq!((got_down.unwrap(), got_up.unwrap()), (DOWN, UP));
    assert!(came_down == down && came_up == up);
    // Down has ended; up goes on.
    to_user.write_all(b"more").await.unwrap();
    to_user.shutdown().await.unwrap();
    let mut more = Vec::new();
    within("the rest comes", from_service.read_to_end(&mut more))
        .await
        .unwrap();
    assert_eq!(more, b"more");
    let (up, down) = (UP as u64 + 4, DOWN as u64);
    let copied = end(at_server).await.unwrap();
    assert_eq!((copied.to_stream, copied.from_stream), (up, down));
    let copied = end(at_agent).await.unwrap();
    assert_eq!((copied.to_stream, copied.from_stream), (down, up));
}

pub(crate) async fn a_copy_passes_a_keystroke_on_at_once(pair: &Pair) {
    let (here, mut there) = stream(&pair.server, &pair.agent).await;
    let (mut user, copying) = join(here);
    for _ in 0..100 {
        let mut key = [0];
        user.write_all(b"k").await.unwrap();
        within("it comes", there.read_exact(&mut key))
            .await
            .unwrap();
        there.write_all(&key).await.unwrap();
        there.flush().await.unwrap();
        within("and its echo", user.read_exact(&mut key))
            .await
            .unwrap();
    }
    drop(user);
    within("the end comes", read_whole(&mut there))
        .await
        .unwrap();
    there.shutdown().await.unwrap();
    end(copying).await.unwrap();
}

pub(crate) async fn a_copy_whose_connection_breaks_resets_the_stream(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (user, copying) = join(here);
    let (mut reads, mut writes) = there.into_split();
    // The user is gone: nothing can be written to it, and its direction has ended.
    drop(user);
    let error = write_until_error(&mut writes).await;
    assert!(
        matches!(error, StreamError::Stopped(ResetCode::Cancelled)),
        "{error:?}"
    );
    let error = end(copying).await.unwrap_err();
    assert!(matches!(error, CopyError::Connection(_)), "{error:?}");
    let _ = within("this one, too", reads.read_bytes()).await;
}

pub(crate) async fn a_copy_whose_stream_is_reset_closes_the_connection(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (mut user, copying) = join(here);
    there.reset(ResetCode::Internal);
    let error = end(copying).await.unwrap_err();
    assert!(
        matches!(
            error,
            CopyError::Stream(StreamError::Reset(ResetCode::Internal))
        ),
        "{error:?}"
    );
    let read = within("the user hears of it", user.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

/// A connection that takes nothing more, and gives nothing.
pub(crate) async fn a_copy_that_stands_still_hears_that_its_peer_has_gone(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (user, copying) = join(here);
    let (_reads, mut writes) = there.into_split();
    let stalled = async {
        loop {
            writes.write_bytes(vec![0; 8192].into()).await.unwrap();
        }
    };
    // More than the connection's buffer, and less than the peer may send ahead.
    let waited = std::time::Duration::from_millis(500);
    tokio::time::timeout(waited, stalled).await.unwrap_err();
    writes.reset(ResetCode::Cancelled);
    let error = end(copying).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Stream(StreamError::Reset(_))),
        "{error:?}"
    );
    drop(user);
}

/// The peer has ended its direction, and then goes away; the connection stays open and is silent.
pub(crate) async fn a_copy_in_one_direction_hears_that_its_peer_has_gone(pair: &Pair) {
    let (here, mut there) = stream(&pair.server, &pair.agent).await;
    let (mut user, copying) = join(here);
    there.shutdown().await.unwrap();
    let read = within("the user hears the end", user.read(&mut [0; 1])).await;
    assert_eq!(read.unwrap(), 0);
    drop(there);
    let error = end(copying).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Stream(StreamError::Stopped(_))),
        "{error:?}"
    );
    drop(user);
}

pub(crate) async fn a_refused_stream_is_the_copys_error(pair: &Pair) {
    let here = open(&pair.server).await;
    let (_user, copying) = join(here);
    let incoming = crate::bytes::incoming(&pair.agent).await;
    incoming.refuse(ResetCode::TargetUnreachable, "nobody listens");
    let error = end(copying).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "stream refused by the peer: {}: nobody listens",
            ResetCode::TargetUnreachable
        )
    );
}

/// One after the other and many at once are the same bytes.
pub(crate) async fn chunks_come_in_order_and_to_the_end(pair: &Pair) {
    let (here, there) = stream(&pair.server, &pair.agent).await;
    let (mut reads, mut writes) = there.into_split();
    let pouring = tokio::spawn(async move { pour(&mut writes, 3, 2 << 20, 5000).await });
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut chunks = vec![bytes::Bytes::new(); 3];
    let (mut recv, mut send) = here.into_split();
    loop {
        let read = std::future::poll_fn(|cx| recv.poll_read_chunks(cx, &mut chunks));
        match within("chunks come", read).await.unwrap() {
            Some(filled) => {
                assert!((1..=3).contains(&filled));
                for chunk in &chunks[..filled] {
                    assert!(!chunk.is_empty());
                    hash.update(chunk);
                }
            }
            None => break,
        }
    }
    let none = std::future::poll_fn(|cx| recv.poll_read_chunks(cx, &mut chunks)).await;
    assert!(matches!(none, Ok(None)), "the end stays");
    assert_eq!(
        hash.finish().as_ref(),
        pouring.await.unwrap().unwrap().as_ref()
    );
    finish(&mut send).await;
    assert!(matches!(
        within("its end", reads.read_bytes()).await,
        Ok(None)
    ));
}

pub(crate) async fn a_copy_that_is_given_up_ends_both_sides_and_tells_its_bytes(pair: &Pair) {
    let (here, mut there) = stream(&pair.server, &pair.agent).await;
    let (mut near, mut far) = duplex(PIPE);
    let (give_up, given_up) = tokio::sync::oneshot::channel();
    let copying = tokio::spawn(async move {
        let given_up = async { given_up.await.unwrap_or(ResetCode::Internal) };
        copy_until(here, &mut near, given_up).await
    });
    there.write_all(b"four").await.unwrap();
    there.flush().await.unwrap();
    within("it comes", far.read_exact(&mut [0; 4]))
        .await
        .unwrap();
    far.write_all(b"sixsix").await.unwrap();
    within("and so does that", there.read_exact(&mut [0; 6]))
        .await
        .unwrap();
    give_up.send(ResetCode::Forbidden).unwrap();
    let (copied, ended) = within("the copy ends", copying).await.unwrap();
    assert_eq!((copied.from_stream, copied.to_stream), (4, 6));
    assert!(
        matches!(ended, Err(CopyError::GivenUp(ResetCode::Forbidden))),
        "{ended:?}"
    );
    let read = within("the peer hears why", there.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{read:?}"
    );
    let (_, mut writes) = there.into_split();
    let error = write_until_error(&mut writes).await;
    assert!(
        matches!(error, StreamError::Stopped(ResetCode::Forbidden)),
        "{error:?}"
    );
}
