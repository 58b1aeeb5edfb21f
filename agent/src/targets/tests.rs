//! Streams over a session in memory, to sockets of this machine.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use underpass_agent_policy::Policy;
use underpass_core::{Identity, ImpersonationPolicy};
use underpass_dial::Resolve;
use underpass_dial::testing::{Addresses, SilentAddress};
use underpass_tunnel::transport::memory;
use underpass_tunnel::{
    Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Connector, ConnectorConfig, Denied,
    OpenRequest, Proven, PublicKey, ResetCode, Session, Stream, StreamError,
};
use underpass_upstream::{ApiServer, ApiServerOptions};

use super::{OwnFiles, Targets};
use crate::policy::Policies;
use crate::serve::Sessions;

const SOON: Duration = Duration::from_secs(30);

async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

struct Known(PublicKey);

impl Admission for Known {
    fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
        Box::pin(async {
            match proven.key == self.0 {
                true => Ok("edge".try_into()?),
                false => Err(Denied::unknown_key()),
            }
        })
    }
}

/// An agent and its server.
struct World {
    policies: Arc<Policies>,
    server: Session,
    _sessions: Sessions,
}

/// How the agent differs from the usual one.
struct Differs {
    resolver: Option<Arc<dyn Resolve>>,
    open_files: Option<u64>,
    own: Vec<PathBuf>,
    api_server: String,
    /// The policy's file, without which it never changes.
    file: Option<PathBuf>,
}

impl Default for Differs {
    fn default() -> Self {
        Self {
            resolver: None,
            open_files: None,
            own: Vec::new(),
            file: None,
            api_server: "http://127.0.0.1:1".to_owned(),
        }
    }
}

impl World {
    async fn new(policy: &str) -> Self {
        Self::differing(policy, Differs::default()).await
    }

    async fn differing(policy: &str, differs: Differs) -> Self {
        let flags = ImpersonationPolicy::default().deny_user("mallory");
        let policies = Arc::new(Policies::read(differs.file, flags).unwrap());
        policies.enforce(Policy::from_yaml(policy).unwrap());
        let own = OwnFiles::new(differs.own);
        let mut targets = Targets::new(Arc::clone(&policies), own, differs.open_files);
        if let Some(resolver) = differs.resolver {
            targets.resolver = resolver;
        }
        let config = kube::Config::new(differs.api_server.parse().unwrap());
        let options = ApiServerOptions {
            insecure: true,
            ..ApiServerOptions::default()
        };
        let api_server = ApiServer::new(config, options).await.unwrap();
        let sessions = Sessions::new(
            Arc::new(api_server),
            Arc::clone(&policies),
            Arc::new(targets),
        );
        let (agent, server) = pair().await;
        sessions.serve(agent);
        Self {
            policies,
            server,
            _sessions: sessions,
        }
    }

    async fn open(&self, target: &str) -> Result<Stream, StreamError> {
        self.open_as("alice", target).await
    }

    async fn open_as(&self, user: &str, target: &str) -> Result<Stream, StreamError> {
        let identity = Identity::new(user.to_owned(), None, vec![], Default::default());
        self.open_with(identity.unwrap().encode().unwrap(), target)
            .await
    }

    async fn open_with(&self, header: Bytes, target: &str) -> Result<Stream, StreamError> {
        let request = OpenRequest {
            target: target.to_owned(),
            header,
            ..OpenRequest::default()
        };
        let mut stream = self.server.open(request).await.unwrap();
        within(stream.accepted()).await?;
        Ok(stream)
    }

    async fn refused(&self, target: &str) -> (ResetCode, String) {
        sentence(self.open(target).await)
    }
}

fn sentence(opened: Result<Stream, StreamError>) -> (ResetCode, String) {
    match opened {
        Err(StreamError::Refused { code, reason }) => (code, reason),
        other => panic!("not refused: {other:?}"),
    }
}

/// The agent's end of a session, and the server's.
async fn pair() -> (Session, Session) {
    let key = AgentKey::from_seed([1; 32]).unwrap();
    let known = Arc::new(Known(key.public_key()));
    let acceptor = Acceptor::new(AcceptorConfig::default(), known);
    let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let ca = ca.cert.pem().into_bytes();
    let connector = Connector::new(ConnectorConfig::new("x", 1, ca, key)).unwrap();
    let (here, there) = memory::pair();
    let (agent, server) = tokio::join!(
        connector.establish(Arc::new(here)),
        acceptor.accept(Arc::new(there))
    );
    (agent.unwrap(), server.unwrap().into_session().unwrap())
}

const OWN: &str = "tcp: [{name: own, addresses: [127.0.0.0/8]}]";

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp:{}", listener.local_addr().unwrap());
    (listener, target)
}

/// A port on which nothing listens.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn half_close_passes_in_both_directions() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let serving = async {
        let mut tcp = listener.accept().await.unwrap().0;
        let mut asked = String::new();
        tcp.read_to_string(&mut asked).await.unwrap();
        // The peer's half has ended, and this one goes on.
        tcp.write_all(asked.repeat(3).as_bytes()).await.unwrap();
    };
    let asking = async {
        let mut stream = world.open(&target).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = within(async { tokio::join!(serving, asking) }).await;
    assert_eq!(answer, "abcabcabc");
}

/// The connection that the agent makes for a stream, and the stream.
async fn joined(world: &World, listener: &TcpListener, target: &str) -> (TcpStream, Stream) {
    let (accepted, stream) =
        within(async { tokio::join!(listener.accept(), world.open(target)) }).await;
    (accepted.unwrap().0, stream.unwrap())
}

#[tokio::test]
async fn a_stream_that_breaks_does_not_end_cleanly_at_its_target() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (mut tcp, mut stream) = joined(&world, &listener, &target).await;
    stream.write_all(b"half of it").await.unwrap();
    stream.flush().await.unwrap();
    let mut read = [0; 10];
    within(tcp.read_exact(&mut read)).await.unwrap();
    drop(stream);
    let error = within(tcp.read(&mut read)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_target_that_breaks_resets_its_stream() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (tcp, mut stream) = joined(&world, &listener, &target).await;
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    let read = within(stream.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::TargetFailed))),
        "{read:?}"
    );
}

#[tokio::test]
async fn rule_12_a_stream_ends_with_its_permission() {
    let (listener, target) = listener().await;
    let policy =
        "tcp: [{name: own, addresses: [127.0.0.0/8]}, {name: more, addresses: [10.0.0.1]}]";
    let world = World::new(policy).await;
    let (mut tcp, mut stream) = joined(&world, &listener, &target).await;
    // One that allows it still ends nothing, whatever the rule's name.
    world
        .policies
        .enforce(Policy::from_yaml("tcp: [{name: x, addresses: [127.0.0.1]}]").unwrap());
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    within(tcp.read_exact(&mut [0; 1])).await.unwrap();
    world.policies.enforce(Policy::default());
    let read = within(stream.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{read:?}"
    );
    within(tcp.read(&mut [0; 1])).await.unwrap_err();
}

#[tokio::test]
async fn rule_12_a_stream_ends_with_its_identity() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let (_tcp, mut stream) = joined(&world, &listener, &target).await;
    let denied = format!("{OWN}\nimpersonation: {{deniedUsers: [alice]}}");
    world.policies.enforce(Policy::from_yaml(&denied).unwrap());
    let read = within(stream.read_bytes()).await;
    assert!(
        matches!(read, Err(StreamError::Reset(ResetCode::Forbidden))),
        "{read:?}"
    );
}

#[tokio::test]
async fn rule_12_a_call_of_the_api_ends_with_its_identity() {
    let (listener, target) = listener().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, "{}").unwrap();
    let differs = Differs {
        api_server: target.replace("tcp:", "http://"),
        file: Some(file),
        ..Differs::default()
    };
    let world = World::differing("{}", differs).await;
    let asking = async {
        let mut stream = world.open("kube-api").await.unwrap();
        let request = b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    // The API server has the request, and never answers.
    let (accepted, mut stream) = within(async { tokio::join!(listener.accept(), asking) }).await;
    let mut tcp = BufReader::new(accepted.unwrap().0);
    let mut line = String::new();
    within(tcp.read_line(&mut line)).await.unwrap();
    let denied = "impersonation: {deniedUsers: [alice]}";
    world.policies.enforce(Policy::from_yaml(denied).unwrap());
    within(stream.read_bytes()).await.unwrap_err();
}

#[tokio::test]
async fn rule_17_the_identity_is_held_against_the_policy() {
    let (_listener, target) = listener().await;
    let world = World::new(OWN).await;
    for user in ["mallory", "system:node:n1"] {
        let (code, reason) = sentence(world.open_as(user, &target).await);
        assert_eq!(code, ResetCode::Forbidden);
        assert!(reason.contains("may not be impersonated"), "{reason}");
    }
    let unreadable = Bytes::from_static(b"{\"v\":1}");
    let (code, _) = sentence(world.open_with(unreadable, &target).await);
    assert_eq!(code, ResetCode::HeaderInvalid);
}

#[tokio::test]
async fn each_failure_has_a_sentence_of_its_own() {
    let silent = SilentAddress::new().await.unwrap();
    let policy = format!("{OWN}\nunix: [{{name: u, paths: [/nonexistent/x.sock]}}]");
    let world = World::new(&policy).await;
    let refusing = format!("tcp:{}", closed().await);
    let silent = format!("tcp:{}", silent.address());
    let (refusing, silent, missing) = tokio::join!(
        world.refused(&refusing),
        world.refused(&silent),
        world.refused("unix:/nonexistent/x.sock"),
    );
    for ((code, reason), says) in [
        (refusing, "refuses connections"),
        (silent, "did not answer within 2 s"),
        (missing, "there is no such socket"),
    ] {
        assert_eq!(code, ResetCode::TargetUnreachable);
        assert!(reason.contains(says), "{reason}");
    }
}

#[derive(Debug)]
enum Broken {
    Nothing,
    Hanging,
}

impl Resolve for Broken {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        match self {
            Self::Nothing => Box::pin(async { Ok(Vec::new()) }),
            Self::Hanging => Box::pin(std::future::pending()),
        }
    }
}

const NAMES: &str = "tcp: [{name: names, names: ['*.example.org']}]";

async fn resolving(policy: &str, resolver: impl Resolve) -> World {
    let differs = Differs {
        resolver: Some(Arc::new(resolver)),
        ..Differs::default()
    };
    World::differing(policy, differs).await
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    for (resolver, says) in [
        (Broken::Nothing, "the name does not resolve"),
        (Broken::Hanging, "looking it up takes longer than 2 s"),
    ] {
        let world = resolving(NAMES, resolver).await;
        let (code, reason) = world.refused("tcp:db.example.org:1").await;
        assert_eq!(code, ResetCode::TargetUnreachable);
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn rule_17_a_name_that_leads_to_the_agents_machine_is_not_dialled() {
    let (listener, _) = listener().await;
    let address = listener.local_addr().unwrap();
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), address.port());
    let target = format!("tcp:db.example.org:{}", address.port());
    for address in [address, mapped] {
        let world = resolving(NAMES, Addresses(vec![address])).await;
        let (code, reason) = world.refused(&target).await;
        assert_eq!(code, ResetCode::Forbidden);
        assert!(reason.contains("a loopback address"), "{reason}");
    }
    let mut accepting = std::pin::pin!(listener.accept());
    assert!(futures_util::poll!(&mut accepting).is_pending());
    // A rule for that very address lets it in.
    let both =
        "tcp: [{name: names, names: ['*.example.org']}, {name: own, addresses: [127.0.0.1]}]";
    let world = resolving(both, Addresses(vec![address])).await;
    let (accepted, stream) = within(async { tokio::join!(accepting, world.open(&target)) }).await;
    accepted.unwrap();
    stream.unwrap();
}

#[tokio::test]
async fn rule_17_of_a_names_addresses_the_allowed_ones_are_dialled() {
    let (listener, _) = listener().await;
    let own = listener.local_addr().unwrap();
    let elsewhere = SocketAddr::new("169.254.169.254".parse().unwrap(), own.port());
    let both =
        "tcp: [{name: names, names: ['*.example.org']}, {name: own, addresses: [127.0.0.1]}]";
    let world = resolving(both, Addresses(vec![elsewhere, own])).await;
    let target = format!("tcp:db.example.org:{}", own.port());
    joined(&world, &listener, &target).await;
}

#[tokio::test]
async fn rule_17_a_socket_is_opened_by_its_own_path_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let _listening = UnixListener::bind(path("a.sock")).unwrap();
    let _other = UnixListener::bind(path("b.sock")).unwrap();
    let _secret = UnixListener::bind(path("secret.sock")).unwrap();
    std::os::unix::fs::symlink(path("b.sock"), path("link.sock")).unwrap();
    let policy = format!(
        "unix: [{{name: u, paths: [{}, {}, {}]}}]",
        text("a.sock"),
        text("link.sock"),
        text("secret.sock")
    );
    let differs = Differs {
        own: vec![path("secret.sock")],
        ..Differs::default()
    };
    let world = World::differing(&policy, differs).await;
    within(world.open(&format!("unix:{}", text("a.sock"))))
        .await
        .unwrap();
    for (name, says) in [
        ("b.sock", "no rule of the agent's policy"),
        ("link.sock", "by a symbolic link"),
        ("secret.sock", "belongs to the agent itself"),
    ] {
        let (code, reason) = world.refused(&format!("unix:{}", text(name))).await;
        assert_eq!(code, ResetCode::Forbidden);
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn rule_19_streams_to_targets_are_bounded() {
    let (listener, target) = listener().await;
    let differs = Differs {
        // Two places.
        open_files: Some(4),
        ..Differs::default()
    };
    let world = World::differing(OWN, differs).await;
    let (_first_tcp, first) = joined(&world, &listener, &target).await;
    let _second = joined(&world, &listener, &target).await;
    let (code, reason) = world.refused(&target).await;
    assert_eq!(code, ResetCode::Overloaded);
    assert!(reason.contains("2 streams"), "{reason}");
    drop(first);
    let again = async {
        loop {
            match world.open(&target).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    within(again).await;
}

#[tokio::test]
async fn rule_19_a_thousand_streams_that_come_and_go_leave_no_task() {
    let (listener, target) = listener().await;
    let world = World::new(OWN).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let one = joined(&world, &listener, &target).await;
    let with_one = tasks();
    drop(one);
    for number in 0..1000 {
        let (tcp, mut stream) = joined(&world, &listener, &target).await;
        match number % 3 {
            0 => drop(stream),
            1 => drop(tcp),
            _ => {
                drop(tcp);
                stream.shutdown().await.unwrap();
            }
        }
    }
    within(async {
        while tasks() >= with_one {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// An API server over plain HTTP that knows services by their paths; it counts the questions.
struct Api {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Api {
    async fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
                tokio::spawn(async move {
                    let mut tcp = BufReader::new(tcp);
                    while let Some(path) = request(&mut tcp).await {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let (status, body) = answer(&path);
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        tcp.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self { url, asked }
    }
}

/// The path of the next request, unless its client has gone.
async fn request(tcp: &mut BufReader<TcpStream>) -> Option<String> {
    let mut path = None;
    loop {
        let mut line = String::new();
        if tcp.read_line(&mut line).await.unwrap_or(0) <= 2 {
            return path;
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
}

fn service(port: u16) -> String {
    format!(
        r#"{{"kind": "Service", "apiVersion": "v1", "spec": {{"ports": [{{"port": {port}, "name": "db"}}]}}}}"#
    )
}

fn slices(addresses: &[SocketAddr]) -> String {
    let slice = |address: &SocketAddr| {
        format!(
            r#"{{"addressType": "IPv4", "metadata": {{}}, "ports": [{{"name": "db", "port": {}}}],
                 "endpoints": [{{"addresses": ["{}"]}}]}}"#,
            address.port(),
            address.ip()
        )
    };
    let slices: Vec<_> = addresses.iter().map(slice).collect();
    format!(
        r#"{{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {{}}, "items": [{}]}}"#,
        slices.join(",")
    )
}

const SERVICES: &str =
    "tcp: [{name: services, services: [prod/*]}, {name: own, addresses: [127.0.0.0/8]}]";

#[tokio::test]
async fn a_service_leads_to_its_ready_endpoints_in_turn() {
    let (one, two) = (listener().await.0, listener().await.0);
    let addresses = [&one, &two].map(|listener| listener.local_addr().unwrap());
    let api = Api::start(move |path| match path {
        "/api/v1/namespaces/prod/services/db" => (200, service(5432)),
        "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices\
         ?labelSelector=kubernetes.io%2Fservice-name%3Ddb&limit=32" => (200, slices(&addresses)),
        _ => (404, "{}".to_owned()),
    })
    .await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let target = "tcp:db.prod.svc:5432";
    for listener in [&one, &two, &one] {
        joined(&world, listener, target).await;
    }
    let asked = api.asked.load(Ordering::Relaxed);
    assert_eq!(asked, 2, "the service and its slices, once");
    let (code, reason) = world.refused("tcp:db.prod:22").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("no TCP port of this number"), "{reason}");
    let (_, reason) = world.refused("tcp:redis.prod:1").await;
    assert!(reason.contains("there is no such service"), "{reason}");
    let (code, _) = world.refused("tcp:db.dev:5432").await;
    assert_eq!(code, ResetCode::Forbidden);
}

#[tokio::test]
async fn a_service_whose_endpoints_are_gone_is_looked_up_again() {
    let (listener, _) = listener().await;
    let there = listener.local_addr().unwrap();
    let gone = closed().await;
    let first = AtomicUsize::new(0);
    let api = Api::start(move |path| match path.contains("endpointslices") {
        false => (200, service(5432)),
        true => match first.fetch_add(1, Ordering::Relaxed) {
            0 => (200, slices(&[gone])),
            _ => (200, slices(&[there])),
        },
    })
    .await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let (code, reason) = world.refused("tcp:db.prod:5432").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("refuses connections"), "{reason}");
    joined(&world, &listener, "tcp:db.prod:5432").await;
}

#[tokio::test]
async fn rule_17_an_endpoint_at_a_special_address_is_not_dialled() {
    let (listener, _) = listener().await;
    let address = listener.local_addr().unwrap();
    let api = Api::start(move |path| match path.contains("endpointslices") {
        false => (200, service(5432)),
        true => (200, slices(&[address])),
    })
    .await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let policy = "tcp: [{name: services, services: [prod/*]}]";
    let world = World::differing(policy, differs).await;
    let (code, reason) = world.refused("tcp:db.prod:5432").await;
    assert_eq!(code, ResetCode::Forbidden);
    assert!(
        reason.contains("allows prod/db, but it leads to"),
        "{reason}"
    );
}

#[tokio::test]
async fn an_agent_without_the_right_to_read_services_says_so() {
    let api = Api::start(|_| (403, "{}".to_owned())).await;
    let differs = Differs {
        api_server: api.url.clone(),
        ..Differs::default()
    };
    let world = World::differing(SERVICES, differs).await;
    let (code, reason) = world.refused("tcp:db.prod:5432").await;
    assert_eq!(code, ResetCode::TargetUnreachable);
    assert!(reason.contains("--read-services"), "{reason}");
}
