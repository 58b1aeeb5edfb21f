//! The target: does what users order.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::Order;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    listen: SocketAddr,
}

/// Bytes that are written or read at once.
const CHUNK: usize = 256 * 1024;

/// The size of one write of a stream that keeps to a rate.
const RATED_CHUNK: usize = 64 * 1024;

pub(super) async fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        // A user who leaves in the midst of it is how a measurement ends.
        tokio::spawn(async { serve(connection).await.ok() });
    }
}

async fn serve(mut connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut order = [0; 9];
    connection.read_exact(&mut order).await?;
    match Order::decode(order).context("no order")? {
        Order::Echo => echo(connection).await,
        Order::Sink => sink(connection).await,
        Order::Pour(0) => pour(connection).await,
        Order::Pour(rate) => pour_at(connection, rate).await,
        Order::Tick(pause) => tick(connection, pause).await,
    }
}

async fn tick(mut connection: TcpStream, pause: Duration) -> Result<()> {
    loop {
        connection.write_all(b"e").await?;
        tokio::time::sleep(pause).await;
    }
}

async fn echo(mut connection: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(()),
            length => {
                connection
                    .write_all(buffer.get(..length).unwrap_or_default())
                    .await?
            }
        }
    }
}

async fn sink(mut connection: TcpStream) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    while connection.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn pour(mut connection: TcpStream) -> Result<()> {
    let buffer = vec![7; CHUNK];
    loop {
        connection.write_all(&buffer).await?;
    }
}

async fn pour_at(mut connection: TcpStream, rate: u64) -> Result<()> {
    let buffer = vec![7; RATED_CHUNK];
    let length = u64::try_from(RATED_CHUNK)?;
    let begun = Instant::now();
    let mut sent = 0;
    loop {
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        tokio::time::sleep_until((begun + due).into()).await;
        connection.write_all(&buffer).await?;
        sent += length;
    }
}
