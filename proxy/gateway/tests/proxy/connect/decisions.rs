//! The right to connect: the directory's roles, and the scope of a token.

use std::{sync::Arc, time::Duration};

use underpass_audit::AuditLog;
use underpass_authenticate::{Chain, Step, Token, TokenAuthenticator};
use underpass_core::{
    ClusterDomains, ClusterName, ImpersonationPolicy, Name, Networks, Nobody, Protocol, Role, Scope,
};
use underpass_directory::{
    AccessToken, Cluster, Directory, Draft, Expect, MemoryStore, Owner, Subject, User,
};
use underpass_gateway::{Budgets, Front, FrontConfig, IdleTimeout, NoServiceRoots, NotFound};

use super::{agent::Agent, client::head};
use crate::world::{code, listen, soon, status, until};

/// A token of a user with this role in cluster `c`, whose name is the role's.
struct Holder {
    role: Role,
    scope: Scope,
    token: Token,
}

impl Holder {
    fn new(role: Role, scope: Scope) -> Self {
        let token = Token::generate().unwrap();
        Self { role, scope, token }
    }
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

async fn directory(holders: &[Holder]) -> Arc<Directory> {
    let directory = Directory::open(Arc::new(MemoryStore::default()));
    let directory = directory.await.unwrap();
    let fill = |draft: &mut Draft| {
        for name in ["c", "d"] {
            let object = Cluster::new(draft.now());
            draft.put(name, object, Expect::Absent)?;
        }
        for role in Role::ALL {
            let user = User::new(draft.now());
            draft.put(role.as_str(), user, Expect::Absent)?;
            let subject = Subject::user(Name::new(role.as_str()).unwrap());
            draft.grant(&subject, &[cluster("c")], false, role)?;
        }
        for (number, holder) in holders.iter().enumerate() {
            let object = AccessToken {
                created: draft.now(),
                sha256: holder.token.hash(),
                owner: Owner::User(Name::new(holder.role.as_str()).unwrap()),
                expires: None,
                renewable_until: None,
                parent: None,
                scope: holder.scope.clone(),
                description: String::new(),
            };
            draft.put(&format!("token-{number}"), object, Expect::Absent)?;
        }
        Ok::<_, underpass_directory::ChangeError>(())
    };
    directory.change(fill).await.unwrap();
    directory
}

fn front(directory: &Arc<Directory>, agent: &Arc<Agent>) -> Arc<Front> {
    let tokens = TokenAuthenticator::new("tokens", Arc::clone(directory) as _);
    let step = Step::new("tokens", Arc::new(tokens), Duration::from_secs(5));
    Arc::new(Front::new(FrontConfig {
        authenticator: Arc::new(Chain::new(vec![step], Arc::clone(directory) as _)),
        authorizer: Arc::clone(directory) as _,
        impersonation: Arc::new(Nobody),
        clusters: Arc::clone(agent) as _,
        domains: ClusterDomains::default(),
        fallback: Arc::new(NotFound),
        policy: ImpersonationPolicy::default(),
        audit: AuditLog::default(),
        budgets: Budgets::default(),
        service_roots: Arc::new(NoServiceRoots),
        idle_timeout: IdleTimeout::default(),
    }))
}

async fn ask(address: std::net::SocketAddr, token: &Token, cluster: &str) -> String {
    ask_with(address, token, cluster, "").await
}

async fn ask_with(
    address: std::net::SocketAddr,
    token: &Token,
    cluster: &str,
    more: &str,
) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let lines = format!(
        "Proxy-Authorization: Bearer {}\r\nUnderpass-Cluster: {cluster}\r\n{more}",
        token.expose()
    );
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = head("forbidden:1", &lines);
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// The agent declines this target, so that a caller who gets through to it gets its words.
#[tokio::test]
async fn rule_8_a_connection_needs_the_role_services() {
    let everything = || Scope::default();
    let reading = || Scope {
        read_only: true,
        ..Scope::default()
    };
    let only = |name| Scope {
        clusters: Some([cluster(name)].into()),
        ..Scope::default()
    };
    let holders = [
        Holder::new(Role::View, everything()),
        Holder::new(Role::Access, everything()),
        Holder::new(Role::Shell, everything()),
        Holder::new(Role::Services, everything()),
        Holder::new(Role::Operate, everything()),
        Holder::new(Role::Admin, everything()),
        Holder::new(Role::Admin, reading()),
        Holder::new(Role::Admin, only("d")),
        Holder::new(Role::Services, only("c")),
    ];
    let agent = Arc::<Agent>::default();
    let directory = directory(&holders).await;
    let front = front(&directory, &agent);
    let (address, _listening) = listen(&front, Protocol::Http1, &Networks::default()).await;
    let may = [false, false, false, true, true, true, false, false, true];
    for (holder, may) in holders.iter().zip(may) {
        let answer = ask(address, &holder.token, "c").await;
        let message = status(&answer)["message"].to_string();
        assert_eq!(code(&answer), 403, "{message}");
        let by_agent = message.contains("the agent of cluster");
        assert_eq!(
            by_agent, may,
            "{:?} {:?}: {message}",
            holder.role, holder.scope
        );
        assert!(
            may || message.contains("cannot connect resource"),
            "{message}"
        );
        // No role in the other cluster, which looks as if it were not there.
        let there = ask(address, &holder.token, "d").await;
        let nowhere = ask(address, &holder.token, "e").await;
        assert_eq!((code(&there), code(&nowhere)), (403, 403));
        let name = |answer: &str| {
            status(answer)["message"]
                .to_string()
                .replace("\\\"e\\\"", "\\\"d\\\"")
        };
        if holder.scope.clusters.is_none() {
            assert_eq!(name(&there), name(&nowhere));
        }
    }
    assert_eq!(agent.opened().len(), 4);
}

/// A node's socket may be its container runtime's, which is root on the node.
#[tokio::test]
async fn rule_8_a_connection_to_a_node_needs_the_role_admin() {
    let everything = || Scope::default();
    let reading = Scope {
        read_only: true,
        ..Scope::default()
    };
    let mut holders: Vec<_> = Role::ALL.map(|role| Holder::new(role, everything())).into();
    holders.push(Holder::new(Role::Admin, reading));
    let agent = Arc::<Agent>::default();
    let directory = directory(&holders).await;
    let front = front(&directory, &agent);
    let (address, _listening) = listen(&front, Protocol::Http1, &Networks::default()).await;
    let asked = async |holder: &Holder, node: &str| {
        let line = format!("Underpass-Node: {node}\r\n");
        let answer = ask_with(address, &holder.token, "c", &line).await;
        let message = status(&answer)["message"].as_str().unwrap().to_owned();
        (code(&answer), message)
    };
    for holder in &holders {
        let may = holder.role == Role::Admin && !holder.scope.read_only;
        let (code, message) = asked(holder, "n1").await;
        assert_eq!(code, 403, "{message}");
        let by_agent = message.contains("the agent of node \"n1\" of cluster \"c\" declined");
        assert_eq!(by_agent, may, "{:?}: {message}", holder.role);
        let by_role =
            message.contains("does not include a connection to a socket or a port at a node");
        assert_eq!(
            by_role,
            holder.role != Role::Admin,
            "{:?}: {message}",
            holder.role
        );
        // A caller who may not connect does not learn which nodes there are.
        for (node, told) in [("away", 503), ("unknown", 404)] {
            let (code, message) = asked(holder, node).await;
            assert_eq!(code, if may { told } else { 403 }, "{message}");
            assert_eq!(
                message.contains("`underpass node list c`"),
                may,
                "{message}"
            );
        }
    }
    assert_eq!(agent.opened(), ["c/n1 tcp:forbidden:1 admin"]);
}

#[tokio::test]
async fn rule_12_what_is_taken_back_ends_a_connection() {
    let holders = [
        Holder::new(Role::Services, Scope::default()),
        Holder::new(Role::Operate, Scope::default()),
    ];
    let agent = Arc::<Agent>::default();
    let directory = directory(&holders).await;
    let front = front(&directory, &agent);
    let (address, _listening) = listen(&front, Protocol::Http2, &Networks::default()).await;
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let connect = async |holder: &Holder| {
        let request = http::Request::connect("held:1")
            .header(
                "proxy-authorization",
                format!("Bearer {}", holder.token.expose()),
            )
            .header("underpass-cluster", "c");
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, send) = sender
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let response = soon(response).await.unwrap();
        assert_eq!(response.status(), 200);
        (response.into_body(), send, agent.end())
    };
    // The token is revoked.
    let (mut body, _send, mut end) = connect(&holders[0]).await;
    let revoke = |draft: &mut Draft| draft.remove::<AccessToken>("token-0", Expect::Present);
    directory.change(revoke).await.unwrap();
    assert!(soon(body.data()).await.unwrap().is_err(), "a clean end");
    assert!(!end.rest().await.1, "a clean end for the target");
    // The role is.
    let (mut body, _send, mut end) = connect(&holders[1]).await;
    let remove = |draft: &mut Draft| draft.remove::<User>("operate", Expect::Present);
    directory.change(remove).await.unwrap();
    assert!(soon(body.data()).await.unwrap().is_err(), "a clean end");
    assert!(!end.rest().await.1, "a clean end for the target");
    until(|| agent.opened().len() == 2).await;
}
