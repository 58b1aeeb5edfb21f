//! A front on sockets, an agent, and everything between.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::Request;
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use underpass_audit::AuditLog;
use underpass_authenticate::{
    AuthenticateError, Authenticated, Authenticator, Caller, Chain, Step, StoreError, Token,
    TokenAuthenticator, TokenHash, TokenRecord, TokenStore, Unowned,
};
use underpass_core::{
    Access, AuthenticationMethod, Authority, AuthorizeError, Authorizer, Body, BoxedIo,
    ClusterDomains, ClusterName, Clusters, ConnectError, ConnectionInfo, Identity,
    ImpersonationAuthorizer, ImpersonationPolicy, Network, Networks, Nobody, Open, Peer, Protocol,
    Provenance, Rejection, Revocation,
};
use underpass_gateway::{
    AccessReviews, BudgetConfig, Budgets, Front, FrontConfig, IdleTimeout, NoServiceRoots,
    NotFound, ServiceRoots,
};
use underpass_upstream::{ApiServer, ApiServerOptions};

use crate::api::Api;

/// Everything must happen within this.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what)
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

/// The agent of a fake API server.
pub(crate) async fn agent(api: &Api) -> Arc<ApiServer> {
    let mut config = kube::Config::new(format!("https://{}", api.address).parse().unwrap());
    config.root_cert = Some(vec![api.certificate.clone()]);
    config.auth_info.token = Some("agent-token".to_owned().into());
    Arc::new(
        ApiServer::new(config, ApiServerOptions::default())
            .await
            .unwrap(),
    )
}

#[derive(Default)]
struct Store(HashMap<TokenHash, TokenRecord>);

#[async_trait]
impl TokenStore for Store {
    async fn find(&self, hash: &TokenHash) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.0.get(hash).cloned())
    }
}

/// Everybody but `mallory` may reach everything.
struct Rules(CancellationToken);

#[async_trait]
impl Authorizer for Rules {
    async fn authorize(&self, access: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        if access.identity().user() == "mallory" {
            return Err(AuthorizeError::Denied { reason: None });
        }
        Ok(Revocation::when(self.0.clone()))
    }
}

/// Somebody whose browser remembers a password, and attaches it by itself.
pub(crate) const BROWSER: &str = "Basic YnJvd3Nlcjp4";

struct Remembered;

#[async_trait]
impl Authenticator for Remembered {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let remembered = caller.password().filter(|login| login.user() == "browser");
        Ok(remembered.map(|_| {
            let method = AuthenticationMethod::Ldap;
            let provenance = Provenance::new(method, "remembered", Authority::default());
            let identity = Identity::new("browser".to_owned(), None, vec![], [].into()).unwrap();
            Authenticated::new(identity.vouched_for(provenance), Revocation::never())
        }))
    }
}

/// `alice` may act as `bob`.
struct AliceAsBob;

#[async_trait]
impl ImpersonationAuthorizer for AliceAsBob {
    async fn may(&self, access: &Access<'_>, target: &Identity) -> Result<Revocation, Rejection> {
        if access.identity().user() == "alice" && target.user() == "bob" {
            return Ok(Revocation::never());
        }
        Nobody.may(access, target).await
    }
}

/// Cluster `c` has an agent, and `two` and `away` have another one, which has died; the others fail in a way that their name tells.
struct Tunnel {
    agent: Arc<ApiServer>,
    /// Streams to the cluster `two` that nobody has taken.
    not_taken: AtomicUsize,
    /// A stream to the cluster `away` has failed, and the next one has not come yet.
    has_failed: AtomicBool,
}

impl Tunnel {
    fn new(agent: Arc<ApiServer>) -> Arc<Self> {
        Arc::new(Self {
            agent,
            not_taken: AtomicUsize::default(),
            has_failed: AtomicBool::default(),
        })
    }
}

#[async_trait]
impl Clusters for Tunnel {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        match cluster.as_str() {
            "two"
                if self
                    .not_taken
                    .fetch_add(1, Ordering::Relaxed)
                    .is_multiple_of(2) =>
            {
                Ok(failing(io::ErrorKind::NotConnected))
            }
            // As the server's: the stream of a call that may be repeated fails, and the next one is another agent's.
            "away" if open.may_be_repeated => {
                self.has_failed.store(true, Ordering::Relaxed);
                Ok(failing(io::ErrorKind::ConnectionAborted))
            }
            "away" if !self.has_failed.swap(false, Ordering::Relaxed) => {
                Ok(failing(io::ErrorKind::ConnectionAborted))
            }
            "c" | "two" | "away" => {
                let (server, client) = tokio::io::duplex(64 * 1024);
                let (agent, identity) = (Arc::clone(&self.agent), open.identity.clone());
                tokio::spawn(async move { agent.serve_stream(client, &identity).await });
                Ok(Box::new(server))
            }
            "no-agent" => Err(ConnectError::NoAgent),
            "refused" => Err(ConnectError::AgentRefused {
                reason: "secret reason".to_owned(),
            }),
            "lost" => Err(ConnectError::Lost("10.0.0.7 reset".into())),
            "vanishing" => Ok(Box::new(tokio::io::duplex(64).0)),
            "silent" => Ok(failing(io::ErrorKind::NotConnected)),
            "declined" => Ok(failing(io::ErrorKind::ConnectionRefused)),
            "garbage" => {
                let (server, mut client) = tokio::io::duplex(1024);
                tokio::spawn(async move {
                    let _ = client.read_u8().await;
                    client.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.unwrap();
                    let _ = client.read_to_end(&mut Vec::new()).await;
                });
                Ok(Box::new(server))
            }
            _ => Err(ConnectError::UnknownCluster),
        }
    }

    fn has_another_way(&self, cluster: &ClusterName) -> bool {
        matches!(cluster.as_str(), "two" | "away")
    }
}

/// A stream that takes a request and fails where the answer should come.
fn failing(kind: io::ErrorKind) -> BoxedIo {
    let (write, mut taken) = tokio::io::duplex(1024);
    let answer = tokio_util::io::StreamReader::new(futures_util::stream::once(async move {
        taken.read_u8().await?;
        Err::<bytes::Bytes, _>(io::Error::new(kind, "10.0.0.7 secret"))
    }));
    Box::new(tokio::io::join(Box::pin(answer), write))
}

/// A front with tokens for `alice`, `bob` and `mallory`, listening for both versions of HTTP.
pub(crate) struct World {
    pub(crate) http1: SocketAddr,
    pub(crate) http2: SocketAddr,
    pub(crate) alice: String,
    pub(crate) bob: String,
    pub(crate) mallory: String,
    pub(crate) front: Arc<Front>,
    pub(crate) budgets: Budgets,
    /// Takes every authorization back.
    pub(crate) revoke: CancellationToken,
    _listening: [AbortOnDropHandle<()>; 2],
}

/// The differences between worlds.
struct Setup {
    /// Of alice.
    groups: Vec<String>,
    audit: AuditLog,
    proxies: Networks,
    impersonation: Arc<dyn ImpersonationAuthorizer>,
    budgets: BudgetConfig,
    service_roots: Arc<dyn ServiceRoots>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            groups: vec!["dev".to_owned()],
            audit: AuditLog::default(),
            proxies: Networks::default(),
            impersonation: Arc::new(AliceAsBob),
            budgets: BudgetConfig::default(),
            service_roots: Arc::new(NoServiceRoots),
        }
    }
}

impl World {
    pub(crate) async fn new(api: &Api) -> Self {
        Self::with_groups(api, vec!["dev".to_owned()]).await
    }

    pub(crate) async fn with_groups(api: &Api, groups: Vec<String>) -> Self {
        Self::with_agent(agent(api).await, groups).await
    }

    pub(crate) async fn with_agent(agent: Arc<ApiServer>, groups: Vec<String>) -> Self {
        let setup = Setup {
            groups,
            ..Setup::default()
        };
        Self::set_up(agent, setup).await
    }

    /// One whose audit log goes to `audit`.
    pub(crate) async fn audited(api: &Api, audit: AuditLog) -> Self {
        let setup = Setup {
            audit,
            ..Setup::default()
        };
        Self::set_up(agent(api).await, setup).await
    }

    /// One in which the cluster says who may act as whom.
    pub(crate) async fn reviewed(api: &Api, groups: Vec<String>) -> Self {
        let agent = agent(api).await;
        let reviews = AccessReviews::new(Tunnel::new(Arc::clone(&agent)));
        let setup = Setup {
            groups,
            impersonation: Arc::new(reviews),
            ..Setup::default()
        };
        Self::set_up(agent, setup).await
    }

    /// One behind proxies of this network.
    pub(crate) async fn behind(api: &Api, audit: AuditLog, proxies: &str) -> Self {
        let setup = Setup {
            audit,
            proxies: [proxies.parse::<Network>().unwrap()].into_iter().collect(),
            ..Setup::default()
        };
        Self::set_up(agent(api).await, setup).await
    }

    /// One with other budgets.
    pub(crate) async fn with_budgets(api: &Api, audit: AuditLog, budgets: BudgetConfig) -> Self {
        let setup = Setup {
            audit,
            budgets,
            ..Setup::default()
        };
        Self::set_up(agent(api).await, setup).await
    }

    /// One that reaches clusters otherwise.
    pub(crate) async fn over(clusters: Arc<dyn Clusters>) -> Self {
        Self::assemble(clusters, Setup::default()).await
    }

    /// The same with other bounds, and an audit log.
    pub(crate) async fn bounded_over(
        clusters: Arc<dyn Clusters>,
        audit: AuditLog,
        budgets: BudgetConfig,
    ) -> Self {
        let setup = Setup {
            audit,
            budgets,
            ..Setup::default()
        };
        Self::assemble(clusters, setup).await
    }

    /// One whose clusters' services have these CAs.
    pub(crate) async fn with_service_roots(
        clusters: Arc<dyn Clusters>,
        service_roots: Arc<dyn ServiceRoots>,
    ) -> Self {
        let setup = Setup {
            service_roots,
            ..Setup::default()
        };
        Self::assemble(clusters, setup).await
    }

    /// The same with other bounds.
    pub(crate) async fn bounded_with_service_roots(
        clusters: Arc<dyn Clusters>,
        service_roots: Arc<dyn ServiceRoots>,
        budgets: BudgetConfig,
    ) -> Self {
        let setup = Setup {
            service_roots,
            budgets,
            ..Setup::default()
        };
        Self::assemble(clusters, setup).await
    }

    async fn set_up(agent: Arc<ApiServer>, setup: Setup) -> Self {
        Self::assemble(Tunnel::new(agent), setup).await
    }

    async fn assemble(clusters: Arc<dyn Clusters>, setup: Setup) -> Self {
        let Setup {
            groups,
            audit,
            proxies,
            impersonation,
            budgets,
            service_roots,
        } = setup;
        let mut store = Store::default();
        let mut token = |user: &str, groups: Vec<String>| {
            let token = Token::generate().unwrap();
            let user = user.to_owned();
            let uid = Some("uid-1".to_owned());
            let extra = [("team".to_owned(), vec!["ops".to_owned()])].into();
            let record = TokenRecord {
                user,
                uid,
                groups,
                extra,
                ..TokenRecord::default()
            };
            store.0.insert(token.hash(), record);
            token.expose().to_owned()
        };
        let (alice, mallory) = (token("alice", groups), token("mallory", vec![]));
        let bob = token("bob", vec![]);
        let revoke = CancellationToken::new();
        let tokens = Arc::new(TokenAuthenticator::new("tokens", Arc::new(store)));
        let step = |name, authenticator| Step::new(name, authenticator, Duration::from_secs(5));
        let steps = vec![
            step("tokens", tokens),
            step("remembered", Arc::new(Remembered)),
        ];
        let budgets = Budgets::new(budgets);
        let front = Arc::new(Front::new(FrontConfig {
            authenticator: Arc::new(Chain::new(steps, Arc::new(Unowned))),
            authorizer: Arc::new(Rules(revoke.clone())),
            impersonation,
            clusters,
            domains: ClusterDomains::new(&["k8s.example.org".parse().unwrap()]).unwrap(),
            fallback: Arc::new(NotFound),
            policy: ImpersonationPolicy::default(),
            audit,
            budgets: budgets.clone(),
            service_roots,
            idle_timeout: IdleTimeout::default(),
        }));
        let (http1, first) = listen(&front, Protocol::Http1, &proxies).await;
        let (http2, second) = listen(&front, Protocol::Http2, &proxies).await;
        Self {
            http1,
            http2,
            alice,
            bob,
            mallory,
            front,
            budgets,
            revoke,
            _listening: [first, second],
        }
    }

    /// Sends raw bytes as an HTTP/1.1 client and reads until the front closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.http1).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(socket.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A GET as alice with further header lines (each ends in CRLF).
    pub(crate) async fn get(&self, path: &str, lines: &str) -> String {
        self.raw(&self.head("GET", path, &format!("{lines}Connection: close\r\n")))
            .await
    }

    /// A request's head as alice.
    pub(crate) fn head(&self, method: &str, path: &str, lines: &str) -> String {
        let token = &self.alice;
        format!(
            "{method} /k8s/clusters/c{path} HTTP/1.1\r\nHost: front\r\n\
             Authorization: Bearer {token}\r\n{lines}\r\n"
        )
    }

    /// A connection for HTTP/2 requests.
    pub(crate) async fn http2(&self) -> conn::http2::SendRequest<Body> {
        self.http2_with_window(1 << 20).await
    }

    /// The same of a client that takes so many bytes of each answer before it has read them.
    pub(crate) async fn http2_with_window(&self, bytes: u32) -> conn::http2::SendRequest<Body> {
        let socket = TcpStream::connect(self.http2).await.unwrap();
        let (sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(bytes)
            .initial_connection_window_size(8 << 20)
            .max_header_list_size(2 << 20)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A connection for HTTP/1.1 requests.
    pub(crate) async fn http1(&self) -> conn::http1::SendRequest<Body> {
        let socket = TcpStream::connect(self.http1).await.unwrap();
        let (sender, connection) = conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A request as alice.
    pub(crate) fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(format!("http://front/k8s/clusters/c{path}"))
            .header("host", "front")
            .header("authorization", format!("Bearer {}", self.alice))
            .body(body)
            .unwrap()
    }
}

pub(crate) async fn listen(
    front: &Arc<Front>,
    protocol: Protocol,
    proxies: &Networks,
) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (front, proxies) = (Arc::clone(front), proxies.clone());
    let listening = tokio::spawn(async move {
        while let Ok((socket, peer)) = listener.accept().await {
            let front = Arc::clone(&front);
            let info = ConnectionInfo {
                peer: Peer::new(peer.ip(), &proxies),
                protocol,
                server_name: None,
                certificates: vec![],
                unusable_certificate: None,
            };
            tokio::spawn(async move { front.serve_connection(socket, info).await });
        }
    });
    (address, AbortOnDropHandle::new(listening))
}

/// The status code of a raw answer.
pub(crate) fn code(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// The `metav1.Status` of a raw answer.
pub(crate) fn status(answer: &str) -> serde_json::Value {
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// Reads a whole body.
pub(crate) async fn collect(body: Incoming) -> bytes::Bytes {
    use http_body_util::BodyExt;
    soon(body.collect()).await.unwrap().to_bytes()
}
