//! PostgreSQL beside an agent, asked by an unmodified client library: a stream of the tunnel is its connection, and no port is opened.
//!
//! `cargo run -p underpass-examples --bin postgres -- 127.0.0.1:5432 postgres`: the agent reaches PostgreSQL at that address, and this
//! side logs in as that user, without a password, to the database of the same name.
#![allow(clippy::print_stdout, reason = "it says what the database answers")]

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio_postgres::{Config, NoTls};
use tokio_util::task::AbortOnDropHandle;
use underpass_examples::{Server, agent, connected, join_tcp};
use underpass_tunnel::{AgentKey, Dialer, IncomingStream, ResetCode, Session};

const TARGET: &str = "postgres";

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("no HOST:PORT is named")?;
    let address: SocketAddr = address.parse().context("not HOST:PORT")?;
    let user = arguments.next().context("no user is named")?;
    let key = AgentKey::from_seed([7; 32])?;
    let server = Server::start(key.public_key(), "edge").await?;
    agent(&server, key, move |session| {
        tokio::spawn(serve(session, address));
    })?;
    connected(&server, "edge").await;

    // Each connection of a pool is a stream of its own.
    let dialer = Dialer::to_agent(server.agents.clone(), "edge", TARGET);
    let mut config = Config::new();
    config.user(&user).dbname(&user);
    let stream = dialer.dial().await?;
    // Over TLS, the tunnel carries it sealed: give the library a connector in place of `NoTls`.
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    // The library moves the bytes in this task. It ends with the client.
    let _moving = AbortOnDropHandle::new(tokio::spawn(connection));

    let version = client.query_one("show server_version", &[]).await?;
    println!("PostgreSQL {}", version.try_get::<_, &str>(0)?);
    let rows = client
        .query("select n, n * n from generate_series(1, $1::int) n", &[&3])
        .await?;
    for row in rows {
        println!(
            "{} {}",
            row.try_get::<_, i32>(0)?,
            row.try_get::<_, i32>(1)?
        );
    }
    Ok(())
}

/// At the agent: a connection to PostgreSQL for each stream.
async fn serve(session: Session, address: SocketAddr) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(connect(incoming, address));
    }
}

async fn connect(incoming: IncomingStream, address: SocketAddr) -> Result<()> {
    if incoming.target() != TARGET {
        incoming.refuse(
            ResetCode::UnknownTarget,
            "this agent serves `postgres` only",
        );
        return Ok(());
    }
    join_tcp(incoming, address).await
}
