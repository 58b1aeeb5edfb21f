//! Two ends of a session over each transport, and every test's last check: nothing is left.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use underpass_tunnel::transport::websocket::Subprotocol;
use underpass_tunnel::transport::{Transport, memory};
use underpass_tunnel::{
    Accepted, Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, AttemptError, ConnectError,
    Connector, ConnectorConfig, Denied, DialError, Proven, PublicKey, ResumeWindow, RouteError,
    Session, Transports,
};

use crate::server::{Pki, Server};
use underpass_http_proxy::testing::HttpProxy;

/// How long anything may take that happens at once.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How long tasks may outlive a test: quinn forgets a connection whose first packet already closed
/// it only with the idle timeout, which is 30 s.
const GONE: Duration = Duration::from_secs(45);

/// How long a test may take as a whole.
const TEST_DEADLINE: Duration = Duration::from_secs(120);

/// The transports that tests run over, and the ways to them that treat bytes differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Quic,
    WebSocket,
    /// WebSocket through an HTTP proxy that wants a password.
    Proxied,
    /// A WebSocket whose client offers no multiplexer but yamux.
    Yamux,
}

pub(crate) fn key(seed: u8) -> AgentKey {
    AgentKey::from_seed([seed; 32]).unwrap()
}

/// The second key of the agent that has [`key(1)`](key).
pub(crate) fn second_key() -> AgentKey {
    key(101)
}

/// Lets in the one agent whose key it holds, and which has a [second one](second_key).
pub(crate) struct OnlyOne(pub(crate) PublicKey);

impl Admission for OnlyOne {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        let known = [self.0, second_key().public_key()].contains(&proven.key);
        Box::pin(async move {
            if known {
                Ok("edge-1".try_into()?)
            } else {
                Err(Denied::unknown_key())
            }
        })
    }

    fn owner(&self, _: &Proven, _: &AgentName) -> String {
        "the agent".to_owned()
    }
}

pub(crate) fn acceptor(config: AcceptorConfig) -> Arc<Acceptor> {
    Arc::new(Acceptor::new(
        config,
        Arc::new(OnlyOne(key(1).public_key())),
    ))
}

pub(crate) fn acceptor_config() -> AcceptorConfig {
    AcceptorConfig {
        max_streams: 1000.try_into().unwrap(),
        ..AcceptorConfig::default()
    }
}

pub(crate) fn connector_config(port: u16, pki: &Pki) -> ConnectorConfig {
    ConnectorConfig {
        max_streams: 1000.try_into().unwrap(),
        backoff_initial: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        // Sessions end with their transport, except where a test is about that.
        resume_window: ResumeWindow::ZERO,
        ..ConnectorConfig::new("127.0.0.1", port, pki.ca_pem.clone(), key(1))
    }
}

pub(crate) fn transports(kind: Kind) -> Transports {
    match kind {
        Kind::Quic => Transports::Quic,
        Kind::WebSocket | Kind::Proxied | Kind::Yamux => Transports::WebSocket,
        Kind::Memory => Transports::Auto,
    }
}

/// The multiplexers that a client of this kind offers.
pub(crate) fn offers(kind: Kind) -> &'static [Subprotocol] {
    match kind {
        Kind::Yamux => &[Subprotocol::Yamux],
        _ => &Subprotocol::ALL,
    }
}

/// A session, seen from both ends.
pub(crate) struct Pair {
    pub(crate) agent: Session,
    pub(crate) server: Session,
    _listener: Option<Server>,
    _proxy: Option<HttpProxy>,
}

pub(crate) async fn pair(kind: Kind) -> Pair {
    pair_with(kind, acceptor_config()).await
}

pub(crate) async fn pair_with(kind: Kind, config: AcceptorConfig) -> Pair {
    let pki = Pki::new();
    if kind == Kind::Memory {
        let connector = Connector::new(connector_config(1, &pki)).unwrap();
        let (here, there) = memory::pair();
        let (agent, server) = join(&connector, Arc::new(here), config, Arc::new(there)).await;
        return Pair {
            agent,
            server,
            _listener: None,
            _proxy: None,
        };
    }
    // A connector offers every multiplexer.
    if kind == Kind::Yamux {
        let (raw, mut server) = raw(kind, config).await;
        let connector = Connector::new(connector_config(1, &pki)).unwrap();
        let (agent, session) = tokio::join!(connector.establish(raw), server.session());
        return Pair {
            agent: agent.unwrap(),
            server: session,
            _listener: server.listener,
            _proxy: None,
        };
    }
    let mut listener = Server::start(&pki, config).await;
    let proxy = proxy(kind).await;
    let connector = Connector::new(ConnectorConfig {
        transports: transports(kind),
        proxy: proxy.as_ref().map(HttpProxy::config),
        ..connector_config(listener.port, &pki)
    })
    .unwrap();
    let (agent, server) = listener.connected(&connector).await;
    Pair {
        agent,
        server,
        _listener: Some(listener),
        _proxy: proxy,
    }
}

pub(crate) async fn proxy(kind: Kind) -> Option<HttpProxy> {
    match kind {
        Kind::Proxied => Some(HttpProxy::start().await.unwrap()),
        Kind::Memory | Kind::Quic | Kind::WebSocket | Kind::Yamux => None,
    }
}

async fn join(
    connector: &Connector,
    here: Arc<dyn Transport>,
    config: AcceptorConfig,
    there: Arc<dyn Transport>,
) -> (Session, Session) {
    let acceptor = acceptor(config);
    let (agent, server) = tokio::join!(connector.establish(here), acceptor.accept(there));
    (agent.unwrap(), server.unwrap().into_session().unwrap())
}

/// A session whose agent's transport the test can reach, to cut it.
pub(crate) struct Cuttable {
    pub(crate) agent: Session,
    pub(crate) server: Session,
    pub(crate) transport: Arc<dyn Transport>,
    _listener: Option<Server>,
}

pub(crate) async fn cuttable(kind: Kind) -> Cuttable {
    let (raw, mut server) = raw(kind, acceptor_config()).await;
    let pki = Pki::new();
    let connector = Connector::new(connector_config(1, &pki)).unwrap();
    let (agent, session) = tokio::join!(connector.establish(Arc::clone(&raw)), server.session());
    Cuttable {
        agent: agent.unwrap(),
        server: session,
        transport: raw,
        _listener: server.listener,
    }
}

/// Where the session of a raw transport comes out.
pub(crate) struct RawServer {
    listener: Option<Server>,
    memory: Option<(Arc<Acceptor>, Arc<dyn Transport>)>,
}

impl RawServer {
    pub(crate) async fn result(&mut self) -> Result<Accepted, underpass_tunnel::AcceptError> {
        match (&mut self.listener, self.memory.take()) {
            (Some(listener), _) => listener.result().await,
            (None, Some((acceptor, transport))) => acceptor.accept(transport).await,
            (None, None) => panic!("memory connects once"),
        }
    }

    pub(crate) async fn session(&mut self) -> Session {
        self.result().await.unwrap().into_session().unwrap()
    }
}

/// A transport to a real acceptor, without a session yet.
pub(crate) async fn raw(kind: Kind, config: AcceptorConfig) -> (Arc<dyn Transport>, RawServer) {
    if kind == Kind::Memory {
        let (here, there) = memory::pair();
        let server = RawServer {
            listener: None,
            memory: Some((acceptor(config), Arc::new(there))),
        };
        return (Arc::new(here), server);
    }
    let pki = Pki::new();
    let listener = Server::start(&pki, config).await;
    let transport: Arc<dyn Transport> = match kind {
        Kind::Quic => Arc::new(crate::dial::quic(&pki, listener.port).await),
        Kind::Proxied => {
            let proxy = HttpProxy::start().await.unwrap();
            let tcp = proxy.connect(listener.port).await.unwrap();
            crate::dial::websocket_on(&pki, listener.port, tcp, offers(kind)).await
        }
        _ => crate::dial::websocket(&pki, listener.port, offers(kind)).await,
    };
    let server = RawServer {
        listener: Some(listener),
        memory: None,
    };
    (transport, server)
}

/// Runs a test on a pair, then looks for leaks.
pub(crate) fn run_pair(kind: Kind, test: impl AsyncFn(&Pair)) {
    run(async move {
        let pair = pair(kind).await;
        test(&pair).await;
        released(&pair.agent, &pair.server).await;
        pair.agent
            .close(underpass_tunnel::CloseCode::Shutdown, "test over");
        within("the other side hears of the end", pair.server.closed()).await;
    });
}

/// Runs a test that makes its own sessions, then waits until all its tasks are gone.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        within_time(TEST_DEADLINE, "the test ends", Box::pin(test)).await;
        let metrics = tokio::runtime::Handle::current().metrics();
        until_within(GONE, "every task is gone", || {
            metrics.num_alive_tasks() == 0
        })
        .await;
    });
}

/// Both sides have given back every stream.
pub(crate) async fn released(agent: &Session, server: &Session) {
    until("the agent's streams are released", || {
        agent.open_streams() == 0
    })
    .await;
    until("the server's streams are released", || {
        server.open_streams() == 0
    })
    .await;
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    until_within(DEADLINE, what, condition).await;
}

async fn until_within(time: Duration, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Fails where `future` takes too long.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(DEADLINE, what, future).await
}

async fn within_time<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(time, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}

/// The error that must come.
pub(crate) async fn fails<T: Debug, E>(
    what: &str,
    future: impl Future<Output = Result<T, E>>,
) -> E {
    match within(what, future).await {
        Ok(value) => panic!("{what}: no error but {value:?}"),
        Err(error) => error,
    }
}

/// Why the only way fails that there is to a server.
pub(crate) async fn way_error(config: ConnectorConfig) -> RouteError {
    let error = dial_error(config).await;
    let [AttemptError::Failed { error, .. }] = <[_; 1]>::try_from(error.attempts).unwrap() else {
        panic!("no way was tried");
    };
    error
}

/// Why no way leads to a server.
pub(crate) async fn dial_error(config: ConnectorConfig) -> DialError {
    let connector = Connector::new(config).unwrap();
    match fails("dialling", connector.connect()).await {
        ConnectError::Dial(error) => error,
        error => panic!("dialling went well, and then {error:?}"),
    }
}
