//! A thief's finds in the server's data directory.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Attacker, deployment};
use crate::deployment::{AGENT_KUBECONFIG, token_of};

/// The files below `folder` that hold these bytes.
fn holding(folder: &Path, secret: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            // Written anew by somebody else meanwhile, it may be gone.
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let mut windows = bytes.windows(secret.len());
            if windows.any(|window| window == secret.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// That the secret is where its owner keeps it, and neither in the data directory nor in the server's log.
fn assert_not_kept(secret: &str, owners: &Path) {
    assert!(secret.len() > 20, "{owners:?}");
    let own = std::fs::read_to_string(owners).unwrap();
    assert!(own.contains(secret), "{owners:?}");
    let kept = holding(&deployment().data_dir(), secret);
    assert!(kept.is_empty(), "{kept:?} hold what {owners:?} does");
    assert!(!deployment().server_log().unwrap().contains(secret));
}

#[tokio::test]
async fn rule_9_the_server_keeps_no_credential_of_the_cluster() {
    let attacker = Attacker::new("rule-9");
    attacker.assert_seen(&[]).await;
    let config: Value =
        serde_json::from_slice(&std::fs::read(&*AGENT_KUBECONFIG).unwrap()).unwrap();
    let token = config["users"][0]["user"]["token"].as_str().unwrap();
    assert_not_kept(token, &AGENT_KUBECONFIG);
}

#[tokio::test]
async fn rule_14_tokens_are_kept_by_their_owners_only() {
    let attacker = Attacker::new("rule-14");
    attacker.assert_seen(&[]).await;
    assert_not_kept(&token_of(&attacker.kubeconfig), &attacker.kubeconfig);
    let agents = deployment().token_file();
    let agents_token = std::fs::read_to_string(&agents).unwrap();
    assert_not_kept(agents_token.trim(), &agents);
    // A secret scanner finds them.
    assert!(attacker.token.starts_with("upt_"), "no prefix");
}
