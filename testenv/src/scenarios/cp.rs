//! `kubectl cp`

use super::turn;
use crate::testing::{Client, noise, succeed, text};

const LARGE: usize = 64 << 20;

async fn copy(client: &Client<'_>, from: &str, to: &str) {
    client.run(&["cp", from, to]).await;
}

/// Byte for byte, there and back again (k/k#60140: what is closed before it is flushed loses its end).
pub async fn a_file_of_64_mib_both_ways(client: &Client<'_>) {
    let pod = client.target("cp").await;
    let _turn = turn().await;
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes = noise(LARGE);
    std::fs::write(&there, &bytes).unwrap();
    let remote = format!("{pod}:copied");
    copy(client, there.to_str().unwrap(), &remote).await;
    let size = succeed(&mut client.exec(&pod, &[], &["wc", "-c", "copied"]), b"").await;
    assert_eq!(text(&size), format!("{LARGE} copied\n"));
    copy(client, &remote, back.to_str().unwrap()).await;
    assert!(
        std::fs::read(&back).unwrap() == bytes,
        "what came back differs"
    );
}

/// A folder of files, an empty one among them.
pub async fn a_folder(client: &Client<'_>) {
    let pod = client.target("cp-folder").await;
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    std::fs::create_dir_all(there.join("deep/er")).unwrap();
    std::fs::write(there.join("empty"), b"").unwrap();
    std::fs::write(there.join("deep/er/file"), b"content").unwrap();
    copy(client, there.to_str().unwrap(), &format!("{pod}:folder")).await;
    copy(client, &format!("{pod}:folder"), back.to_str().unwrap()).await;
    assert_eq!(std::fs::read(back.join("empty")).unwrap(), b"");
    assert_eq!(
        std::fs::read(back.join("deep/er/file")).unwrap(),
        b"content"
    );
}
