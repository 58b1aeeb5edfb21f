//! Other roles of this program: the processes of the floor and of Underpass, and the target.

mod crowd;
mod firewall;
mod floor_quic;
mod floor_tls;
mod framed;
mod link;
mod pump;
mod questions;
mod target;
mod underpass;
mod websocket;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A process that a benchmark starts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    /// The users' target
    Target(target::Options),
    /// A link that is slow and long
    Link(link::Options),
    /// A TLS connection for each user's: where users connect
    FloorTlsEntry(floor_tls::EntryOptions),
    /// A TLS connection for each user's: beside the target
    FloorTlsExit(floor_tls::ExitOptions),
    /// A QUIC stream for each user's connection: where users connect
    FloorQuicEntry(floor_quic::EntryOptions),
    /// A QUIC stream for each user's connection: beside the target
    FloorQuicExit(floor_quic::ExitOptions),
    /// A stream of a session for each user's connection: where users connect
    UnderpassServer(underpass::ServerOptions),
    /// A stream of a session for each user's connection: beside the target
    UnderpassAgent(underpass::AgentOptions),
    /// Many of the product's agents on nodes
    Crowd(crowd::Options),
}

/// A server's certificate.
#[derive(Debug, clap::Args)]
pub(crate) struct Identity {
    /// Certificate chain (PEM)
    #[arg(long)]
    cert: PathBuf,
    /// Private key (PEM)
    #[arg(long)]
    key: PathBuf,
}

impl Identity {
    /// The TLS configuration that Underpass's server has, too.
    fn tls(&self) -> Result<rustls::ServerConfig> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.cert)
            .with_context(|| format!("cannot read {}", self.cert.display()))?
            .collect();
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("cannot read {}", self.key.display()))?;
        Ok(underpass_tunnel::tls::server(chain?, key)?)
    }
}

/// A client's CA.
#[derive(Debug, clap::Args)]
pub(crate) struct Trust {
    /// The CA of the other side (PEM)
    #[arg(long)]
    ca: PathBuf,
}

impl Trust {
    fn pem(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.ca).with_context(|| format!("cannot read {}", self.ca.display()))
    }

    /// The TLS configuration that Underpass's agent has, too.
    fn tls(&self) -> Result<rustls::ClientConfig> {
        Ok(underpass_tunnel::tls::pinned_client(&self.pem()?)?)
    }
}

/// Where users connect.
#[derive(Debug, clap::Args)]
pub(crate) struct Users {
    /// Where users connect
    #[arg(long)]
    users: SocketAddr,
    /// Where users connect who type
    #[arg(long)]
    keys: SocketAddr,
}

/// Runs until it is killed.
pub(crate) fn run(role: Role) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match role {
            Role::Target(options) => target::run(&options).await,
            Role::Link(options) => link::run(&options),
            Role::FloorTlsEntry(options) => floor_tls::entry(options).await,
            Role::FloorTlsExit(options) => floor_tls::exit(options).await,
            Role::FloorQuicEntry(options) => floor_quic::entry(&options).await,
            Role::FloorQuicExit(options) => floor_quic::exit(&options).await,
            Role::UnderpassServer(options) => underpass::server(options).await,
            Role::UnderpassAgent(options) => underpass::agent(options).await,
            Role::Crowd(options) => crowd::run(options).await,
        }
    })
}
