//! The floor over TLS: the path without a session, and without a multiplexer.
//!
//! Each user's connection has a TLS connection of its own from the entry to the exit. Where connections
//! are kept open, a direction's end is a length of zero, and the connection serves the next user; to know
//! the end there must be lengths.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Identity, Trust, Users, framed, pump};

#[derive(Debug, clap::Args)]
pub(crate) struct EntryOptions {
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    trust: Trust,
    /// Where the exit listens
    #[arg(long)]
    exit: SocketAddr,
    /// Keep connections open for the next user
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExitOptions {
    #[command(flatten)]
    identity: Identity,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    target: SocketAddr,
    /// Connections are kept open for the next user
    #[arg(long)]
    keep: bool,
}

struct Entry {
    tls: TlsConnector,
    exit: SocketAddr,
    /// Those that no user has now; `None` where none is kept.
    kept: Option<Mutex<Vec<TlsStream<TcpStream>>>>,
}

pub(super) async fn entry(options: EntryOptions) -> Result<()> {
    let entry = Arc::new(Entry {
        tls: TlsConnector::from(Arc::new(options.trust.tls()?)),
        exit: options.exit,
        kept: options.keep.then(Mutex::default),
    });
    let users = TcpListener::bind(options.users.users).await?;
    let keys = TcpListener::bind(options.users.keys).await?;
    tokio::try_join!(serve(users, &entry), serve(keys, &entry))?;
    Ok(())
}

async fn serve(users: TcpListener, entry: &Arc<Entry>) -> Result<()> {
    loop {
        let (user, _) = users.accept().await?;
        let entry = Arc::clone(entry);
        // A user who leaves in the midst of it is how a measurement ends.
        tokio::spawn(async move { entry.lead(user).await.ok() });
    }
}

impl Entry {
    async fn lead(&self, mut user: TcpStream) -> Result<()> {
        user.set_nodelay(true)?;
        let Some(kept) = &self.kept else {
            return Ok(pump::join(user, self.connect().await?).await?);
        };
        let idle = kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut through = match idle {
            Some(idle) => idle,
            None => self.connect().await?,
        };
        framed::join(&mut user, &mut through).await?;
        kept.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(through);
        Ok(())
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.exit).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        Ok(self.tls.connect(name, socket).await?)
    }
}

pub(super) async fn exit(options: ExitOptions) -> Result<()> {
    let tls = TlsAcceptor::from(Arc::new(options.identity.tls()?));
    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let tls = tls.clone();
        let (target, keep) = (options.target, options.keep);
        tokio::spawn(async move { lead_out(socket, &tls, target, keep).await.ok() });
    }
}

async fn lead_out(
    socket: TcpStream,
    tls: &TlsAcceptor,
    target: SocketAddr,
    keep: bool,
) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut through = tls.accept(socket).await?;
    if !keep {
        return Ok(pump::join(connect(target).await?, through).await?);
    }
    loop {
        // The target is dialled for each user, and not before there is one.
        let Some(first) = framed::first(&mut through).await? else {
            return Ok(());
        };
        let mut target = connect(target).await?;
        framed::join_after(first, &mut target, &mut through).await?;
    }
}

async fn connect(target: SocketAddr) -> Result<TcpStream> {
    let target = TcpStream::connect(target).await?;
    target.set_nodelay(true)?;
    Ok(target)
}
