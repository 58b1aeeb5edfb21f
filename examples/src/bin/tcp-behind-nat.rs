//! A port here that leads to a TCP service beside an agent, as `ssh -L` does.
//!
//! `cargo run -p underpass-examples --bin tcp-behind-nat -- 127.0.0.1:5432`, then connect to the port that
//! it prints. Without an address it makes a service of its own, and asks it for a word.
#![allow(clippy::print_stdout, reason = "it says where to connect")]

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use underpass_examples::{Server, agent, connected, join_tcp};
use underpass_tunnel::{AgentKey, Dialer, IncomingStream, ResetCode, Session, copy_bidirectional};

const TARGET: &str = "tcp";

#[tokio::main]
async fn main() -> Result<()> {
    let asked = std::env::args().nth(1);
    let service: SocketAddr = match &asked {
        Some(address) => address.parse().context("not HOST:PORT")?,
        None => greeter().await?,
    };
    let key = AgentKey::from_seed([7; 32])?;
    let server = Server::start(key.public_key(), "edge").await?;
    agent(&server, key, move |session| {
        tokio::spawn(serve(session, service));
    })?;
    connected(&server, "edge").await;

    let dialer = Dialer::to_agent(server.agents.clone(), "edge", TARGET);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let here = listener.local_addr()?;
    let forward = tokio::spawn(forward(listener, dialer));
    if asked.is_some() {
        println!("{here} leads to {service}");
        return forward.await?;
    }
    let mut greeting = String::new();
    let mut connection = TcpStream::connect(here).await?;
    connection.read_to_string(&mut greeting).await?;
    println!("{greeting}");
    Ok(())
}

/// At the server: a stream for each connection.
async fn forward(listener: TcpListener, dialer: Dialer) -> Result<()> {
    loop {
        let (connection, _) = listener.accept().await?;
        let dialer = dialer.clone();
        tokio::spawn(async move {
            let stream = dialer.dial().await?;
            copy_bidirectional(stream, connection).await?;
            anyhow::Ok(())
        });
    }
}

/// At the agent: a connection for each stream. It decides what its targets are.
async fn serve(session: Session, service: SocketAddr) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(connect(incoming, service));
    }
}

async fn connect(incoming: IncomingStream, service: SocketAddr) -> Result<()> {
    if incoming.target() != TARGET {
        incoming.refuse(ResetCode::UnknownTarget, "this agent serves `tcp` only");
        return Ok(());
    }
    join_tcp(incoming, service).await
}

/// A service that greets each client.
async fn greeter() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            connection.write_all(b"hello from a TCP service").await?;
        }
        std::io::Result::Ok(())
    });
    Ok(address)
}
