//! The floor over QUIC: a bare stream of quinn for each user, with Underpass's own settings of quinn,
//! on connections that the exit dials. Keystrokes have a connection of their own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quinn::{Connection, Endpoint};
use tokio::io::join;
use tokio::net::{TcpListener, TcpStream};
use underpass_tunnel::transport::Transport as _;
use underpass_tunnel::transport::quic::{self, QuicConfig, QuicTransport, ResetKey};

use super::{Identity, Trust, Users, pump};

/// As often as a session sends PINGs.
const KEEPALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct EntryOptions {
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    identity: Identity,
    /// Where the exit connects
    #[arg(long)]
    exits: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExitOptions {
    #[command(flatten)]
    trust: Trust,
    #[arg(long)]
    entry: SocketAddr,
    #[arg(long)]
    target: SocketAddr,
}

pub(super) async fn entry(options: &EntryOptions) -> Result<()> {
    let endpoint = quic::server(
        options.exits,
        options.identity.tls()?,
        &ResetKey::random(),
        &QuicConfig::default(),
    )?;
    // The exit dials them one after the other.
    let users = accept(&endpoint).await?;
    let keys = accept(&endpoint).await?;
    tokio::try_join!(
        keep_alive(&users),
        keep_alive(&keys),
        serve(options.users.users, &users),
        serve(options.users.keys, &keys)
    )?;
    Ok(())
}

/// A connection with the windows that one has on which an agent has proven who it is.
async fn accept(endpoint: &Endpoint) -> Result<Connection> {
    let incoming = endpoint.accept().await.context("the endpoint is closed")?;
    let connection = incoming.await?;
    authenticated(&connection);
    Ok(connection)
}

fn authenticated(connection: &Connection) {
    QuicTransport::new(connection.clone()).authenticated();
}

/// Sends a byte now and then, as a session sends PINGs: an idle connection ends after 30 s.
async fn keep_alive(connection: &Connection) -> Result<()> {
    // The exit takes its first stream for this one.
    let (mut stream, _recv) = connection.open_bi().await?;
    loop {
        stream.write_all(b"p").await?;
        tokio::time::sleep(KEEPALIVE).await;
    }
}

async fn serve(users: SocketAddr, connection: &Connection) -> Result<()> {
    let users = TcpListener::bind(users).await?;
    loop {
        let (user, _) = users.accept().await?;
        let connection = connection.clone();
        // A user who leaves in the midst of it is how a measurement ends.
        tokio::spawn(async move {
            user.set_nodelay(true)?;
            let (send, recv) = connection.open_bi().await?;
            pump::join(user, join(recv, send)).await?;
            anyhow::Ok(())
        });
    }
}

pub(super) async fn exit(options: &ExitOptions) -> Result<()> {
    let users = dial(options).await?;
    let keys = dial(options).await?;
    tokio::try_join!(
        lead_out(&users, options.target),
        lead_out(&keys, options.target)
    )?;
    Ok(())
}

async fn dial(options: &ExitOptions) -> Result<Connection> {
    let config = QuicConfig::default();
    let client = quic::client_config(options.trust.tls()?, &config)?;
    let endpoint = quic::client(options.entry, &config)?;
    let connection = endpoint
        .connect_with(client, options.entry, "localhost")?
        .await?;
    authenticated(&connection);
    Ok(connection)
}

async fn lead_out(connection: &Connection, target: SocketAddr) -> Result<()> {
    // The entry's first bytes are no user's.
    let (_send, mut pings) = connection.accept_bi().await?;
    tokio::spawn(async move { while let Ok(Some(_)) = pings.read(&mut [0]).await {} });
    loop {
        let (send, recv) = connection.accept_bi().await?;
        tokio::spawn(async move {
            let target = TcpStream::connect(target).await?;
            target.set_nodelay(true)?;
            pump::join(target, join(recv, send)).await?;
            anyhow::Ok(())
        });
    }
}
