//! Kubeconfig files. They are written as JSON, which every reader of YAML takes.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certs::Identity;

/// How a kubeconfig's user proves who they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credential<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

impl Credential<'_> {
    fn to_json(self) -> Value {
        match self {
            Self::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate),
                "client-key-data": STANDARD.encode(&identity.key),
            }),
            Self::Token(token) => json!({ "token": token }),
        }
    }
}

/// A kubeconfig with one cluster, one user and one context.
pub(crate) fn document(server: &str, ca_pem: &str, credential: Credential<'_>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "testenv",
            "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(ca_pem) },
        }],
        "users": [{ "name": "user", "user": credential.to_json() }],
        "contexts": [{ "name": "testenv", "context": { "cluster": "testenv", "user": "user" } }],
        "current-context": "testenv",
    })
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(content)
}

/// A file name for a user of any name.
pub(crate) fn file_for(dir: &Path, number: usize, name: &str) -> PathBuf {
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .take(40)
        .collect();
    dir.join(format!("{number}-{safe}.kubeconfig"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_cannot_leave_the_folder() {
        let path = file_for(Path::new("/dir"), 7, "../system:node/é");
        assert_eq!(path, Path::new("/dir/7-___system_node__.kubeconfig"));
    }
}
