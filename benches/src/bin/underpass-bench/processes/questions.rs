//! The harness's questions to running processes: a line of JSON for each.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Handle;
use underpass_tunnel::{Dialer, Registry};

use super::underpass::TARGET;
use crate::load::Order;

/// Answers from a thread of its own, until nobody asks any more.
pub(super) fn answer(agents: Registry) {
    let runtime = Handle::current();
    answer_with(move |question| runtime.block_on(answer_to(question, &agents)));
}

/// The same with other answers.
pub(super) fn answer_with(answers: impl Fn(&str) -> Result<Value> + Send + 'static) {
    std::thread::spawn(move || {
        for question in std::io::stdin().lock().lines() {
            let Ok(question) = question else { return };
            let answer =
                answers(&question).unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
            let mut output = std::io::stdout().lock();
            if writeln!(output, "{answer}").is_err() {
                return;
            }
        }
    });
}

async fn answer_to(question: &str, agents: &Registry) -> Result<Value> {
    if question == "sessions" {
        return Ok(json!({ "sessions": agents.sessions().len() }));
    }
    if question == "links" {
        // Users are led to the newest.
        let newest = agents.sessions().pop();
        let stand_by = newest.is_some_and(|session| session.stats().standby.is_some());
        return Ok(json!({ "stand_by": stand_by }));
    }
    let count = question.strip_prefix("open ").context("no such question")?;
    let mut times = Vec::new();
    let sessions = agents.sessions();
    for _ in 0..count.parse::<usize>()? {
        let random = rand::rng().random_range(0..sessions.len().max(1));
        let session = sessions.get(random).context("no agent is here")?;
        let dialer = Dialer::new(session.clone(), TARGET);
        let begun = Instant::now();
        echo(&dialer).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(json!({ "opened_us": times }))
}

/// Opens a stream and hears an echo on it.
async fn echo(dialer: &Dialer) -> Result<()> {
    let mut stream = dialer.dial().await?;
    let mut message = Order::Echo.encode().to_vec();
    message.push(b'k');
    stream.write_all(&message).await?;
    stream.flush().await?;
    stream.read_u8().await?;
    Ok(())
}
