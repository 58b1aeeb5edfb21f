//! A server speaks to an agent that nobody can dial, and hears its words again.
//!
//! `cargo run -p underpass-examples --bin echo`
#![allow(clippy::print_stdout, reason = "it shows what came back")]

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_examples::{Server, agent, connected};
use underpass_tunnel::{AgentKey, Dialer, IncomingStream, Session};

#[tokio::main]
async fn main() -> Result<()> {
    // Random bytes in earnest, made once and kept by the agent alone.
    let key = AgentKey::from_seed([7; 32])?;
    let server = Server::start(key.public_key(), "edge").await?;
    agent(&server, key, |session| {
        tokio::spawn(serve(session));
    })?;
    connected(&server, "edge").await;

    let mut stream = Dialer::to_agent(server.agents, "edge", "echo")
        .dial()
        .await?;
    stream.write_all(b"hello from behind NAT").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("{answer}");
    Ok(())
}

async fn serve(session: Session) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(echo(incoming));
    }
}

async fn echo(incoming: IncomingStream) -> std::io::Result<()> {
    let mut stream = incoming.accept().await?;
    // Bytes as they came, without a copy.
    while let Some(bytes) = stream.read_bytes().await? {
        stream.write_bytes(bytes).await?;
        stream.flush().await?;
    }
    stream.shutdown().await
}
