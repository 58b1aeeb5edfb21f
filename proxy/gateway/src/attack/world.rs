//! A front in memory, senders of several kinds, and a recorder in the agent's place.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::{Builder, Runtime},
};

use crate::{Budgets, Front, FrontConfig, IdleTimeout, NoServiceRoots, NotFound};
use underpass_audit::AuditLog;
use underpass_authenticate::{Chain, Step, Token, TokenAuthenticator};
use underpass_core::{
    Access, AuthorizeError, Authorizer, BoxedIo, ClusterDomains, ClusterName, Clusters,
    ConnectError, ConnectionInfo, Identity, ImpersonationPolicy, Nobody, Open, Protocol,
    RequestInfo, Revocation, Scope, Target,
};
use underpass_directory::{
    AccessToken, Cluster, Directory, Draft, Expect, MemoryStore, Name, Owner, Role, Subject, User,
};

/// The cluster that senders may reach, as far as they may.
pub(super) const CLUSTER: &str = "edge";

/// The domain of names that only TLS knows.
pub(super) const TLS_DOMAIN: &str = "clusters.underpass.internal";

/// Longer than every bound in time; the clock is turned.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A sender without a token.
    Stranger,
    /// An expired token, of the operator.
    Expired,
    /// May look.
    Viewer,
    /// May write, and open no shell.
    Writer,
    /// May open shells.
    Operator,
    /// The same, with a token that only reads.
    ReadOnly,
    /// The same, with a token for another cluster.
    Elsewhere,
}

impl Sender {
    pub(super) const ALL: [Self; 7] = [
        Self::Stranger,
        Self::Expired,
        Self::Viewer,
        Self::Writer,
        Self::Operator,
        Self::ReadOnly,
        Self::Elsewhere,
    ];

    /// The token's user.
    pub(super) fn user(self) -> Option<&'static str> {
        match self {
            Self::Stranger => None,
            Self::Viewer => Some("viewer"),
            Self::Writer => Some("writer"),
            Self::Expired | Self::Operator | Self::ReadOnly | Self::Elsewhere => Some("operator"),
        }
    }

    fn scope(self) -> Scope {
        let elsewhere = (self == Self::Elsewhere).then(|| {
            let name = ClusterName::new("other");
            name.into_iter().collect::<BTreeSet<_>>()
        });
        Scope {
            clusters: elsewhere,
            read_only: self == Self::ReadOnly,
        }
    }
}

/// A request as the agent gets it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) cluster: String,
    pub(super) identity: Identity,
    /// The request line and headers, with the empty line behind them.
    pub(super) head: String,
}

/// A request that was decided upon.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) user: String,
    pub(super) cluster: String,
    pub(super) request: Option<RequestInfo>,
}

/// The bytes sent, and their effect.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) sent: Vec<u8>,
    pub(super) received: Vec<Received>,
    pub(super) decided: Vec<Decided>,
}

#[derive(Default)]
struct Log {
    received: Mutex<Vec<Received>>,
    decided: Mutex<Vec<Decided>>,
}

fn take<T>(log: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner))
}

fn note<T>(log: &Mutex<Vec<T>>, item: T) {
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(item);
}

/// The recorder in the agent's place.
struct Recorder(Arc<Log>);

#[async_trait]
impl Clusters for Recorder {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        // No sender's role has services: CONNECT opens nothing.
        assert_eq!(open.target, Target::KubeApi, "a stream to another target");
        let (front, agent) = duplex(64 * 1024);
        let identity = Identity::decode(&open.identity)
            .unwrap_or_else(|error| panic!("an agent cannot read the identity: {error}"));
        let (log, cluster) = (Arc::clone(&self.0), cluster.to_string());
        tokio::spawn(async move {
            let Some((head, agent)) = read_head(agent).await else {
                return;
            };
            let received = Received {
                cluster,
                identity,
                head: String::from_utf8_lossy(&head).into_owned(),
            };
            note(&log.received, received);
            answer(agent).await;
        });
        Ok(Box::new(front))
    }
}

async fn read_head(mut agent: DuplexStream) -> Option<(Vec<u8>, DuplexStream)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(agent.read_u8().await.ok()?);
    }
    Some((head, agent))
}

async fn answer(mut agent: DuplexStream) {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    // The front may have left.
    let _ = agent.write_all(answer).await;
    let _ = tokio::io::copy(&mut agent, &mut tokio::io::sink()).await;
}

/// The directory decides, and what it decides upon is noted.
struct Noted(Arc<Directory>, Arc<Log>);

#[async_trait]
impl Authorizer for Noted {
    async fn authorize(&self, access: &Access<'_>) -> Result<Revocation, AuthorizeError> {
        let authorized = self.0.authorize(access).await?;
        let decided = Decided {
            user: access.identity().user().to_owned(),
            cluster: access.cluster().to_string(),
            request: access.request().cloned(),
        };
        note(&self.1.decided, decided);
        Ok(authorized)
    }
}

/// A front, and what gets through it.
pub(super) struct World {
    front: Arc<Front>,
    log: Arc<Log>,
    tokens: Vec<Option<Token>>,
}

impl World {
    /// Runs something in this thread's world, on a clock that is turned.
    pub(super) fn with<T>(run: impl FnOnce(&Self, &Runtime) -> T) -> T {
        thread_local! {
            static WORLD: (World, Runtime) = {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .start_paused(true)
                    .build()
                    .unwrap_or_else(|error| panic!("no runtime: {error}"));
                (runtime.block_on(World::new()), runtime)
            };
        }
        WORLD.with(|(world, runtime)| run(world, runtime))
    }

    async fn new() -> Self {
        let opened = Directory::open(Arc::new(MemoryStore::default())).await;
        let directory = opened.unwrap_or_else(|error| panic!("no directory: {error}"));
        let tokens: Vec<_> = Sender::ALL
            .iter()
            .map(|sender| sender.user().and_then(|_| Token::generate().ok()))
            .collect();
        let filled = directory.change(|draft| fill(draft, &tokens)).await;
        filled.unwrap_or_else(|error| panic!("the directory stays empty: {error}"));
        let log = Arc::new(Log::default());
        let authenticator = TokenAuthenticator::new("tokens", Arc::clone(&directory) as _);
        let step = Step::new("tokens", Arc::new(authenticator), LONG);
        let front = Front::new(FrontConfig {
            authenticator: Arc::new(Chain::new(vec![step], Arc::clone(&directory) as _)),
            authorizer: Arc::new(Noted(directory, Arc::clone(&log))),
            impersonation: Arc::new(Nobody),
            clusters: Arc::new(Recorder(Arc::clone(&log))),
            domains: ClusterDomains::default(),
            fallback: Arc::new(NotFound),
            policy: ImpersonationPolicy::default(),
            audit: AuditLog::default(),
            budgets: Budgets::default(),
            service_roots: Arc::new(NoServiceRoots),
            idle_timeout: IdleTimeout::default(),
        });
        Self {
            front: Arc::new(front),
            log,
            tokens,
        }
    }

    /// Sends a head, with the sender's credential behind its first line, and waits until the front is done with it.
    pub(super) async fn send(&self, sender: Sender, head: &[u8]) -> Outcome {
        let end = head.windows(2).position(|two| two == b"\r\n");
        let (line, rest) = match end {
            Some(end) => head.split_at(end + 2),
            None => (head, &[][..]),
        };
        let mut sent = line.to_vec();
        if end.is_none() {
            sent.extend(b"\r\n");
        }
        let at = Sender::ALL.iter().position(|other| *other == sender);
        if let Some(Some(token)) = at.and_then(|at| self.tokens.get(at)) {
            sent.extend(format!("Authorization: Bearer {}\r\n", token.expose()).bytes());
        }
        sent.extend(rest);
        sent.extend(b"\r\n\r\n");

        let info = ConnectionInfo {
            peer: IpAddr::from([127, 0, 0, 1]).into(),
            protocol: Protocol::Http1,
            server_name: None,
            certificates: vec![],
            unusable_certificate: None,
        };
        let (mut client, server) = duplex(64 * 1024);
        let front = Arc::clone(&self.front);
        let serving = tokio::spawn(async move { front.serve_connection(server, info).await });
        let mut answer = [0; 4096];
        // The front may close before it has read everything.
        let _ = client.write_all(&sent).await;
        let conversation = async { while let Ok(1..) = client.read(&mut answer).await {} };
        // An idle connection is closed in time; the clock is turned, so that this takes none.
        let _ = tokio::time::timeout(LONG, conversation).await;
        drop(client);
        let served = serving.await;
        assert!(served.is_ok(), "the front panicked: {served:?}");
        Outcome {
            sent,
            received: take(&self.log.received),
            decided: take(&self.log.decided),
        }
    }
}

fn fill(
    draft: &mut Draft,
    tokens: &[Option<Token>],
) -> Result<(), underpass_directory::ChangeError> {
    for cluster in [CLUSTER, "other"] {
        let cluster_object = Cluster::new(draft.now());
        draft.put(cluster, cluster_object, Expect::Absent)?;
    }
    for (user, role) in [
        ("viewer", Role::View),
        ("writer", Role::Access),
        ("operator", Role::Shell),
    ] {
        draft.put(user, User::new(draft.now()), Expect::Absent)?;
        let (name, cluster) = (Name::new(user), ClusterName::new(CLUSTER));
        if let (Ok(name), Ok(cluster)) = (name, cluster) {
            draft.grant(&Subject::user(name), &[cluster], false, role)?;
        }
    }
    for (number, (sender, token)) in Sender::ALL.iter().zip(tokens).enumerate() {
        let owner = sender.user().and_then(|user| Name::new(user).ok());
        let (Some(owner), Some(token)) = (owner, token) else {
            continue;
        };
        let object = AccessToken {
            created: draft.now(),
            sha256: token.hash(),
            owner: Owner::User(owner),
            expires: (*sender == Sender::Expired).then_some(OffsetDateTime::UNIX_EPOCH),
            renewable_until: None,
            parent: None,
            scope: sender.scope(),
            description: String::new(),
        };
        draft.put(&format!("token-{number}"), object, Expect::Absent)?;
    }
    Ok(())
}
