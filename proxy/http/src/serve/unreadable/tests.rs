use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// An API server, or a stream behind an upgrade, may say the same as hyper: that stays as it is.
#[tokio::test]
async fn answers_of_others_are_not_touched() {
    const OTHERS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let activity = Arc::<Activity>::default();
    let upgraded = Arc::<AtomicBool>::default();
    let written = async |io: &mut Explained<DuplexStream>, client: &mut DuplexStream| {
        io.write_all(OTHERS).await.unwrap();
        let mut came = vec![0; OTHERS.len()];
        client.read_exact(&mut came).await.unwrap();
        assert_eq!(
            came.escape_ascii().to_string(),
            OTHERS.escape_ascii().to_string()
        );
    };
    let (mut client, server) = tokio::io::duplex(4096);
    let mut io = Explained::new(server, Arc::clone(&activity), Arc::clone(&upgraded));
    // In the midst of a request, and when all of the answer is in hyper's buffers.
    let request = crate::serve::Active::new(&activity);
    io.flush().await.unwrap();
    written(&mut io, &mut client).await;
    io.flush().await.unwrap();
    drop(request);
    written(&mut io, &mut client).await;
    // Vectored as well.
    let slices = [
        io::IoSlice::new(&OTHERS[..20]),
        io::IoSlice::new(&OTHERS[20..]),
    ];
    let mut count = 0;
    while count < OTHERS.len() {
        count += io.write_vectored(&slices).await.unwrap();
    }
    client.read_exact(&mut vec![0; count]).await.unwrap();
    upgraded.store(true, Ordering::Release);
    io.flush().await.unwrap();
    written(&mut io, &mut client).await;
    // The same words are hyper's own only now.
    upgraded.store(false, Ordering::Release);
    io.write_all(OTHERS).await.unwrap();
    io.shutdown().await.unwrap();
    drop(io);
    let mut came = String::new();
    client.read_to_string(&mut came).await.unwrap();
    assert!(came.starts_with("HTTP/1.1 400 "), "{came}");
    assert!(came.contains("RFC 9112"), "{came}");
}
