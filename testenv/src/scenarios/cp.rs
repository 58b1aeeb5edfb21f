//! `kubectl cp`

use tempfile::TempDir;

use super::turn;
use crate::testing::{Client, noise, succeed, text};

const LARGE: usize = 64 << 20;

async fn copy(client: &Client<'_>, from: &str, to: &str) {
    client.run(&["cp", from, to]).await;
}

/// Byte for byte, there and back again (k/k#60140: a stream that is closed before it is flushed loses its end).
pub async fn a_file_of_64_mib_both_ways(client: &Client<'_>) {
    let file = LargeFile::prepare(client).await;
    let _turn = turn().await;
    file.copy_there().await;
    file.copy_back().await;
}

/// A file of 64 MiB, and a pod to copy it to.
pub struct LargeFile<'a> {
    client: &'a Client<'a>,
    pod: String,
    dir: TempDir,
    bytes: Vec<u8>,
}

impl<'a> LargeFile<'a> {
    /// Nothing is copied yet.
    pub async fn prepare(client: &'a Client<'a>) -> Self {
        let pod = client.target("cp").await;
        let dir = tempfile::tempdir().unwrap();
        let bytes = noise(LARGE);
        std::fs::write(dir.path().join("there"), &bytes).unwrap();
        Self {
            client,
            pod,
            dir,
            bytes,
        }
    }

    /// Into the pod.
    pub async fn copy_there(&self) {
        let there = self.dir.path().join("there");
        let remote = format!("{}:copied", self.pod);
        copy(self.client, there.to_str().unwrap(), &remote).await;
        let mut count = self.client.exec(&self.pod, &[], &["wc", "-c", "copied"]);
        let size = succeed(&mut count, b"").await;
        assert_eq!(text(&size), format!("{LARGE} copied\n"));
    }

    /// Out of the pod, where it was copied to before.
    pub async fn copy_back(&self) {
        let back = self.dir.path().join("back");
        let remote = format!("{}:copied", self.pod);
        copy(self.client, &remote, back.to_str().unwrap()).await;
        assert!(
            std::fs::read(&back).unwrap() == self.bytes,
            "what came back differs"
        );
    }
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
