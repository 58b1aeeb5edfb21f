//! As many bytes as go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::{Connection, Door, Order};

/// Bytes that a user writes or reads at once.
const CHUNK: usize = 256 * 1024;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the target to the user.
    Down,
    /// From the user to the target.
    Up,
}

/// Streams that carry what they can until this is dropped.
#[derive(Debug)]
pub(crate) struct Bulk {
    moved: Arc<AtomicU64>,
    streams: JoinSet<Result<()>>,
}

impl Bulk {
    /// Starts them. `rate` is in bytes in a second and of each stream; zero is no limit, and the only one
    /// for what goes up.
    ///
    /// # Errors
    /// Where the system lets no user in.
    pub(crate) async fn start(
        door: &Door,
        streams: usize,
        direction: Direction,
        rate: u64,
    ) -> Result<Self> {
        ensure!(
            direction == Direction::Down || rate == 0,
            "the target is who keeps to a rate"
        );
        let mut bulk = Self {
            moved: Arc::default(),
            streams: JoinSet::new(),
        };
        for _ in 0..streams {
            let mut connection = door.connect().await?;
            let moved = Arc::clone(&bulk.moved);
            let order = match direction {
                Direction::Down => Order::Pour(rate),
                Direction::Up => Order::Sink,
            };
            connection.write_all(&order.encode()).await?;
            bulk.streams.spawn(async move {
                match direction {
                    Direction::Down => read(connection, &moved).await,
                    Direction::Up => write(connection, &moved).await,
                }
            });
        }
        Ok(bulk)
    }

    /// Bytes so far. Up it is what the system has taken: in a steady state, as much as the target gets.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Fails where a stream has ended.
    ///
    /// # Errors
    /// Why.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.streams.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.context("a stream has ended"),
        }
    }
}

async fn read(mut connection: Connection, moved: &AtomicU64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = connection.read(&mut buffer).await?;
        ensure!(length > 0, "the target sends no more");
        moved.fetch_add(u64::try_from(length)?, Ordering::Relaxed);
    }
}

async fn write(mut connection: Connection, moved: &AtomicU64) -> Result<()> {
    let buffer = vec![7; CHUNK];
    loop {
        let length = connection.write(&buffer).await?;
        ensure!(length > 0, "the system takes no more");
        moved.fetch_add(u64::try_from(length)?, Ordering::Relaxed);
    }
}
