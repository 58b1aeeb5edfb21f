//! rathole's own program, without its log.

use clap::Parser;
use rathole::{Cli, run};
use tokio::sync::broadcast;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (_stop, stopped) = broadcast::channel(1);
    run(Cli::parse(), stopped).await
}
