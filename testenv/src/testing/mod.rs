//! Building blocks of tests against a cluster. Everything here states expectations as tests do, and panics where one
//! does not hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "code for tests; the lints know only functions that are marked as tests"
)]

mod client;
mod process;
pub mod providers;
mod reading;
mod terminal;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use client::{Client, Wire};
pub use process::{alive, family, install_script, run, run_within, spawn, succeed, text};
pub use reading::Reading;
pub use terminal::Terminal;

/// Longer than anything takes on a busy machine; a longer wait fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(50);

/// Asks until there is an answer.
pub async fn eventually<T, E: Debug>(what: &str, ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(DEADLINE, what, ask).await
}

/// Asks until there is an answer, which has to be there before `limit` is over.
pub async fn within<T, E: Debug>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begin = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if begin.elapsed() > limit => panic!("{what}: {last:?}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// An error and its sources.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = sources.map(ToString::to_string).collect();
    texts.join(": ")
}

/// A pod that runs a shell script.
#[must_use]
pub fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": "main",
                "image": "none",
                "command": ["sh", "-c", script],
            }],
        },
    })
}

/// Bytes that repeat in no short period, so that what is lost or doubled shows.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
