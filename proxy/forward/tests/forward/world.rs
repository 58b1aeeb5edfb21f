//! A server's front behind TLS, and a cluster whose agent has TCP targets on this machine.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use underpass_audit::AuditLog;
use underpass_authenticate::{
    AuthenticateError, Authenticated, Authenticator, Caller, CredentialError,
};
use underpass_core::{
    Access, AuthorizeError, Authorizer, BoxError, BoxedIo, ClusterDomains, ClusterName, Clusters,
    ConnectError, ConnectionInfo, Decline, Identity, ImpersonationPolicy, Nobody, NodeName, Open,
    Protocol, Revocation, Target,
};
use underpass_forward::{Credentials, Event, Events, Listen, Listener, Server, State, Tunnel};
use underpass_gateway::{
    BudgetConfig, Budgets, Front, FrontConfig, IdleTimeout, NoServiceRoots, NotFound,
};
use underpass_https::Roots;
use zeroize::Zeroizing;

/// Everything must happen within this.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), what)
        .await
        .expect("did not happen in time")
}

/// Waits for a condition that nothing signals.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The token that counts, which may change.
#[derive(Clone, Default)]
pub(crate) struct Word(pub(crate) Arc<Mutex<String>>);

#[async_trait]
impl Authenticator for Word {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        if caller.bearer() != Some(self.0.lock().unwrap().as_str()) {
            return Err(CredentialError::Unknown.into());
        }
        let identity = Identity::new("alice".to_owned(), None, vec![], [].into()).unwrap();
        Ok(Some(Authenticated::new(identity, Revocation::never())))
    }
}

#[async_trait]
impl Credentials for Word {
    async fn bearer(&self) -> Result<Zeroizing<String>, BoxError> {
        Ok(self.0.lock().unwrap().clone().into())
    }
}

struct Everybody;

#[async_trait]
impl Authorizer for Everybody {
    async fn authorize(&self, _: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        Ok(Revocation::never())
    }
}

/// Connects targets by name to sockets of this machine.
#[derive(Default)]
struct Agent(Mutex<Vec<String>>);

/// The agent of this node, and of no other.
pub(crate) const NODE: &str = "worker-1";

#[async_trait]
impl Clusters for Agent {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        self.0
            .lock()
            .unwrap()
            .push(format!("{cluster} {}", open.target));
        let declined = |decline, reason: &str| {
            let reason = reason.to_owned();
            Err(ConnectError::Declined { decline, reason })
        };
        match &open.target {
            Target::Tcp(tcp) if tcp.name() == Some("here.test") => {
                match TcpStream::connect(("127.0.0.1", tcp.port())).await {
                    Ok(tcp) => Ok(Box::new(Honest(tcp))),
                    Err(_) => declined(Decline::Unreachable, "connection refused"),
                }
            }
            _ => declined(Decline::Forbidden, "no rule allows \u{1b}[2Jthis"),
        }
    }

    async fn connect_node(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        open: &Open,
    ) -> Result<BoxedIo, ConnectError> {
        let asked = format!("{cluster}/{node} {}", open.target);
        self.0.lock().unwrap().push(asked);
        match &open.target {
            Target::Tcp(tcp) if node.as_str() == NODE => {
                let tcp = TcpStream::connect(("127.0.0.1", tcp.port())).await;
                Ok(Box::new(Honest(tcp.unwrap())))
            }
            _ => Err(ConnectError::NodeAway(node.clone())),
        }
    }
}

/// A socket that is reset where it is dropped in the middle, as streams of the tunnel are.
struct Honest(TcpStream);

impl Drop for Honest {
    fn drop(&mut self) {
        self.0.set_zero_linger().unwrap();
    }
}

impl tokio::io::AsyncRead for Honest {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Honest {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A server, and what its clients hear.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) front: Arc<Front>,
    pub(crate) budgets: Budgets,
    pub(crate) word: Word,
    acceptor: TlsAcceptor,
    roots: Roots,
    agent: Arc<Agent>,
    /// Connections that were accepted.
    pub(crate) accepted: Arc<AtomicUsize>,
    listening: Mutex<Option<AbortOnDropHandle<()>>>,
    pub(crate) states: Arc<Mutex<Vec<State>>>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        tls.alpn_protocols = Protocol::ALPN.map(<[u8]>::to_vec).to_vec();
        let agent = Arc::<Agent>::default();
        let budgets = Budgets::new(BudgetConfig::default());
        let word = Word::default();
        *word.0.lock().unwrap() = "first".to_owned();
        let front = Arc::new(Front::new(FrontConfig {
            authenticator: Arc::new(word.clone()),
            authorizer: Arc::new(Everybody),
            impersonation: Arc::new(Nobody),
            clusters: Arc::clone(&agent) as _,
            domains: ClusterDomains::default(),
            fallback: Arc::new(NotFound),
            policy: ImpersonationPolicy::default(),
            audit: AuditLog::default(),
            budgets: budgets.clone(),
            service_roots: Arc::new(NoServiceRoots),
            idle_timeout: IdleTimeout::default(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = Self {
            address: listener.local_addr().unwrap(),
            front,
            budgets,
            word,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            roots: Roots::from_pem(made.cert.pem().as_bytes()).unwrap(),
            agent,
            accepted: Arc::default(),
            listening: Mutex::default(),
            states: Arc::default(),
            events: Arc::default(),
        };
        world.serve(listener);
        world
    }

    /// Ends the server, and all of its connections.
    pub(crate) fn stop(&self) {
        *self.listening.lock().unwrap() = None;
    }

    /// Serves at the same address again.
    pub(crate) async fn start_again(&self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        soon(async {
            while socket.bind(self.address).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self.serve(socket.listen(1024).unwrap());
    }

    fn serve(&self, listener: TcpListener) {
        let (front, acceptor) = (Arc::clone(&self.front), self.acceptor.clone());
        let accepted = Arc::clone(&self.accepted);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, peer)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (front, acceptor) = (Arc::clone(&front), acceptor.clone());
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let info = ConnectionInfo {
                        peer: peer.ip().into(),
                        protocol: Protocol::from_alpn(tls.get_ref().1.alpn_protocol()),
                        server_name: tls.get_ref().1.server_name().map(Into::into),
                        certificates: vec![],
                        unusable_certificate: None,
                    };
                    let _ = front.serve_connection(tls, info).await;
                });
            }
        });
        *self.listening.lock().unwrap() = Some(AbortOnDropHandle::new(listening));
    }

    pub(crate) fn tunnel(&self) -> Tunnel {
        let url = format!("https://localhost:{}", self.address.port());
        let server = Server::new(&url, &self.roots, None, Arc::new(self.word.clone())).unwrap();
        let states = Arc::clone(&self.states);
        let cluster = ClusterName::new("edge").unwrap();
        Tunnel::new(server, &cluster, move |state| {
            states.lock().unwrap().push(state);
        })
    }

    pub(crate) fn events(&self) -> Events {
        let events = Arc::clone(&self.events);
        Arc::new(move |event| events.lock().unwrap().push(event))
    }

    /// A port of this machine that leads to this target.
    pub(crate) async fn port_to(&self, target: &str) -> (SocketAddr, AbortOnDropHandle<()>) {
        let rule = format!("0:{target}").parse().unwrap();
        let listener = Listener::bind(&rule, self.tunnel(), self.events());
        run(listener.await.unwrap())
    }

    /// A socket of this machine that leads to this target at a node.
    pub(crate) async fn socket_to(
        &self,
        path: &Path,
        node: &str,
        target: &str,
    ) -> AbortOnDropHandle<()> {
        let rule = format!("{}:{target}", path.display()).parse().unwrap();
        let tunnel = self.tunnel().at_node(&node.parse().unwrap());
        let listener = Listener::bind(&rule, tunnel, self.events());
        AbortOnDropHandle::new(tokio::spawn(listener.await.unwrap().run()))
    }

    /// A port for clients that name their targets.
    pub(crate) async fn proxy(&self) -> (SocketAddr, AbortOnDropHandle<()>) {
        let address = "0".parse().unwrap();
        let listener = Listener::bind_proxy(address, self.tunnel(), self.events());
        run(listener.await.unwrap())
    }

    /// `CLUSTER TARGET` of each stream that was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.agent.0.lock().unwrap().clone()
    }

    /// In a few words each.
    pub(crate) fn heard(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let words = |event: &Event| match event {
            Event::Opened { .. } => "opened".to_owned(),
            Event::Closed {
                sent,
                received,
                complete,
                ..
            } => format!("closed {sent} {received} {complete}"),
            Event::Refused { error, .. } => format!("refused {error}"),
            other => format!("{other:?}"),
        };
        events.iter().map(words).collect()
    }
}

fn run(listener: Listener) -> (SocketAddr, AbortOnDropHandle<()>) {
    let Listen::Address(address) = listener.place().unwrap() else {
        panic!("no address");
    };
    let running = tokio::spawn(listener.run());
    (address.0, AbortOnDropHandle::new(running))
}

/// A target in the cluster.
pub(crate) async fn target() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("here.test:{}", listener.local_addr().unwrap().port());
    (listener, name)
}

/// A target that sends everything back.
pub(crate) async fn echo() -> (AbortOnDropHandle<()>, String) {
    let (listener, name) = target().await;
    let echoing = tokio::spawn(async move {
        let mut all = JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            all.spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            });
        }
    });
    (AbortOnDropHandle::new(echoing), name)
}
