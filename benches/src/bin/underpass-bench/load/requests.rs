//! A connection for each request.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::{Door, Order, REQUEST};

/// A request that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// The outcome of requests.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Microseconds from the user's connect to the last byte of the answer, of each.
    pub(crate) times: Vec<f64>,
    /// Answers in a second.
    pub(crate) rate: f64,
}

/// Sends requests for so long, `in_flight` at a time, each on a connection of its own.
///
/// # Errors
/// Where one is not answered.
pub(crate) async fn requests(door: &Door, in_flight: usize, time: Duration) -> Result<Requests> {
    let begun = Instant::now();
    let mut users = JoinSet::new();
    for _ in 0..in_flight {
        let door = door.clone();
        users.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                request(&door).await?;
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(user) = users.join_next().await {
        times.extend(user??);
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok(Requests { times, rate })
}

async fn request(door: &Door) -> Result<()> {
    let exchange = async {
        let mut connection = door.connect().await?;
        // As one write: a client has the whole request at hand.
        let mut message = Order::Echo.encode().to_vec();
        message.resize(message.len() + REQUEST, 7);
        connection.write_all(&message).await?;
        let mut answer = [0; REQUEST];
        connection.read_exact(&mut answer).await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .context("a request is not answered")?
}
