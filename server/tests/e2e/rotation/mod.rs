//! Keys of agents that give way to others, while everything goes on.

mod course;
mod disturbed;
mod holder;
mod holders;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use underpass_testenv::Transport;
use underpass_testenv::testing::eventually;
use underpass_tunnel::AgentKey;

use crate::join::{JOINED, Site};

/// Short: keys are rotated each second or two.
const SHORT: (&str, &str) = ("--key-lifetime", "2s");

const NEVER: (&str, &str) = ("--key-lifetime", "never");

/// The lines of a key file.
struct KeyFile {
    key: String,
    next: Option<String>,
}

impl KeyFile {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let next = text.lines().find_map(|line| line.strip_prefix("next "));
        Self {
            key: text.lines().next().unwrap().to_owned(),
            next: next.map(str::to_owned),
        }
    }
}

fn public(key: &str) -> String {
    let key: AgentKey = key.parse().unwrap();
    key.public_key().to_string()
}

fn new_key() -> AgentKey {
    AgentKey::from_seed(rand::random()).unwrap()
}

/// A site whose agent has joined.
async fn joined(transport: Transport, flags: &[(&str, &str)]) -> (Site, PathBuf) {
    let site = Site::new(transport).await;
    fs::write(&site.token, site.administer(&["cluster", "add", JOINED])).unwrap();
    let token = site.token.to_str().unwrap();
    let log = site.start(&[flags, &[("--join-token-file", token)]].concat());
    site.connected().await;
    (site, log)
}

/// Whether a next key of the site's agent waits at the server.
fn waits(site: &Site) -> bool {
    let agents = site.administer(&["agent", "list", "--cluster", JOINED]);
    let row = agents.lines().nth(1).unwrap();
    row.contains("(rotating)")
}

/// Waits until the file has a key that is none of these, and no next one.
async fn rotated(site: &Site, before: &BTreeSet<String>) -> String {
    eventually("another key is in the file", async || {
        let file = KeyFile::read(&site.key);
        let is_new = !before.contains(&file.key) && file.next.is_none();
        is_new.then(|| file.key.clone()).ok_or(file.next)
    })
    .await
}
