//! Underpass: a session, and a stream of it for each user's connection.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use futures_util::future::BoxFuture;
use quinn::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use underpass_tunnel::transport::quic::{self, QuicConfig, ResetKey};
use underpass_tunnel::{
    Accepted, Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Class, Connector,
    ConnectorConfig, Denied, Dialer, IncomingStream, Proven, Registry, ResetCode, Session,
    Transports, copy_bidirectional,
};

use super::{Identity, Trust, Users, questions, websocket};

/// The agents' target.
pub(super) const TARGET: &str = "tcp";

#[derive(Debug, clap::Args)]
pub(crate) struct ServerOptions {
    #[command(flatten)]
    users: Users,
    #[command(flatten)]
    identity: Identity,
    /// Where agents connect, over TCP and UDP
    #[arg(long)]
    agents: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AgentOptions {
    #[command(flatten)]
    trust: Trust,
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, value_enum)]
    transport: Transport,
    /// How many agents this process is
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// The number of the first one; users are led to agent 0
    #[arg(long, default_value_t = 0)]
    first: u32,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Transport {
    Quic,
    Websocket,
    /// QUIC first, and both where both get through
    Auto,
}

/// Lets everybody in, under a name that follows from their key.
struct Anybody;

impl Admission for Anybody {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async { Ok(proven.key.to_string().try_into()?) })
    }
}

fn key(agent: u32) -> Result<AgentKey> {
    let mut seed = [7; 32];
    for (byte, of_number) in seed.iter_mut().zip(agent.to_be_bytes()) {
        *byte = of_number;
    }
    Ok(AgentKey::from_seed(seed)?)
}

pub(super) async fn server(options: ServerOptions) -> Result<()> {
    let tls = options.identity.tls()?;
    // The same after a restart, as the product's: agents hear at once that their connection is gone.
    let reset_key = ResetKey::derive(b"underpass-bench");
    let quic = quic::server(
        options.agents,
        tls.clone(),
        &reset_key,
        &QuicConfig::default(),
    )?;
    let websockets = TcpListener::bind(options.agents).await?;
    let acceptor = Arc::new(Acceptor::new(AcceptorConfig::default(), Arc::new(Anybody)));
    let agents = Registry::new();
    tokio::spawn(accept_quic(quic, Arc::clone(&acceptor), agents.clone()));
    let upgraded = {
        let agents = agents.clone();
        move |accepted| admit(&agents, accepted)
    };
    let tls = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(websocket::serve(websockets, tls, acceptor, upgraded));
    questions::answer(agents.clone());
    let dialer = Dialer::to_agent(agents, key(0)?.public_key().to_string(), TARGET);
    let keys = dialer.clone().class(Class::Interactive);
    tokio::try_join!(
        forward(options.users.users, dialer),
        forward(options.users.keys, keys)
    )?;
    Ok(())
}

async fn accept_quic(endpoint: Endpoint, acceptor: Arc<Acceptor>, agents: Registry) {
    while let Some(incoming) = endpoint.accept().await {
        let (acceptor, agents) = (Arc::clone(&acceptor), agents.clone());
        tokio::spawn(async move {
            if let Ok(accepted) = acceptor.accept_quic(incoming).await {
                admit(&agents, accepted);
            }
        });
    }
}

fn admit(agents: &Registry, accepted: Accepted) {
    // One that is resumed stands there already.
    if let Accepted::New(session) = accepted {
        agents.insert(session);
    }
}

/// Where users connect: a stream for each.
async fn forward(users: SocketAddr, dialer: Dialer) -> Result<()> {
    let users = TcpListener::bind(users).await?;
    loop {
        let (user, _) = users.accept().await?;
        let dialer = dialer.clone();
        // A user who leaves in the midst of it is how a measurement ends.
        tokio::spawn(async move {
            user.set_nodelay(true)?;
            let stream = dialer.dial().await?;
            copy_bidirectional(stream, user).await?;
            anyhow::Ok(())
        });
    }
}

pub(super) async fn agent(options: AgentOptions) -> Result<()> {
    let pem = options.trust.pem()?;
    for number in options.first..options.first + options.count {
        let (host, port) = (options.server.ip().to_string(), options.server.port());
        let mut config = ConnectorConfig::new(host, port, pem.clone(), key(number)?);
        config.transports = match options.transport {
            Transport::Quic => Transports::Quic,
            Transport::Websocket => Transports::WebSocket,
            Transport::Auto => Transports::Auto,
        };
        // It shall stay where it is.
        config.quic_probe = std::time::Duration::ZERO;
        let connector = Connector::new(config)?;
        let target = options.target;
        tokio::spawn(async move {
            let serve = move |session| drop(tokio::spawn(serve(session, target)));
            connector.run(serve, |_| {}).await
        });
    }
    std::future::pending().await
}

async fn serve(session: Session, target: SocketAddr) {
    while let Ok(incoming) = session.accept().await {
        tokio::spawn(lead_out(incoming, target));
    }
}

async fn lead_out(incoming: IncomingStream, target: SocketAddr) -> Result<()> {
    if incoming.target() != TARGET {
        incoming.refuse(ResetCode::UnknownTarget, "there is one target");
        return Ok(());
    }
    let connection = match TcpStream::connect(target).await {
        Ok(connection) => connection,
        Err(error) => {
            incoming.refuse(ResetCode::TargetUnreachable, &error.to_string());
            return Ok(());
        }
    };
    connection.set_nodelay(true)?;
    // The server sends a user's bytes without waiting for the answer.
    copy_bidirectional(incoming.accept_coalesced().await?, connection).await?;
    Ok(())
}
