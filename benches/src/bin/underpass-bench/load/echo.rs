//! One message after the other, each when the last one has come back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Connection, Door, Order, REQUEST};

/// An echo that takes longer is none.
const DEADLINE: Duration = Duration::from_secs(20);

/// A connection whose bytes come back.
pub(crate) struct Echo(Connection);

impl Echo {
    /// Connects, and has had an echo.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) async fn start(door: &Door) -> Result<Self> {
        let mut connection = door.connect().await?;
        connection.write_all(&Order::Echo.encode()).await?;
        let mut echo = Self(connection);
        echo.round_trip(&mut [1]).await?;
        Ok(echo)
    }

    /// Sends `message` and waits until as much has come back, which is in it then.
    ///
    /// # Errors
    /// Where it does not come.
    pub(crate) async fn round_trip(&mut self, message: &mut [u8]) -> Result<()> {
        let round_trip = async {
            self.0.write_all(message).await?;
            self.0.read_exact(message).await?;
            anyhow::Ok(())
        };
        tokio::time::timeout(DEADLINE, round_trip)
            .await
            .context("no echo comes back")?
    }
}

/// Microseconds that each message of 1 KiB took, one after the other for so long.
///
/// # Errors
/// Where one does not come back.
pub(crate) async fn ping_pong(door: &Door, time: Duration) -> Result<Vec<f64>> {
    let mut echo = Echo::start(door).await?;
    let mut message = vec![7; REQUEST];
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let sent = Instant::now();
        echo.round_trip(&mut message).await?;
        times.push(micros(sent));
    }
    Ok(times)
}

/// Microseconds that each of so many keystrokes took: a byte, with a pause before it.
///
/// # Errors
/// Where one does not come back.
pub(crate) async fn type_keys(echo: &mut Echo, count: usize, pause: Duration) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        tokio::time::sleep(pause).await;
        let pressed = Instant::now();
        echo.round_trip(&mut [b'k']).await?;
        times.push(micros(pressed));
    }
    Ok(times)
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
