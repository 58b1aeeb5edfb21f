//! Entry points of the fuzz targets (`fuzz/`): bodies of the API.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use tokio::runtime::{Builder, Runtime};
use underpass_api::ServerInfo;
use underpass_audit::AuditLog;
use underpass_authenticate::{
    Authenticator as _, Caller, Chain, Passwords, Token, TokenAuthenticator, Unowned,
};
use underpass_core::{
    AgentRole, BoxedIo, ClusterName, Clusters, ConnectError, ConnectionInfo, Open,
};
use underpass_core::{Protocol, Through};
use underpass_direct::{DirectClusters, Plugins};
use underpass_directory::seal::{Keyring, SealingKey};
use underpass_directory::{
    AccessToken, Binding, Cluster, Directory, Draft, Expect, Group, MemoryStore, Name, Owner, Role,
    Snapshot, Subject, User,
};

use crate::api::{Api, Connected, Logins, Requester};

/// No agent is connected.
struct NoAgents;

impl Connected for NoAgents {
    fn keepers(&self) -> Arc<crate::shells::Keepers> {
        Arc::default()
    }

    fn in_role(&self, _: AgentRole) -> Vec<underpass_tunnel::Session> {
        Vec::new()
    }

    fn serving(&self, _: &ClusterName) -> usize {
        0
    }

    fn served_by(&self, _: &ClusterName) -> BTreeSet<Through> {
        BTreeSet::new()
    }

    fn by_agent(&self) -> HashMap<String, usize> {
        HashMap::new()
    }

    fn of_agent(&self, _: &str) -> Vec<underpass_tunnel::Session> {
        Vec::new()
    }
}

#[async_trait::async_trait]
impl Clusters for NoAgents {
    async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
        Err(ConnectError::NoAgent)
    }
}

/// Which operation a byte means.
const OPERATIONS: [(Method, &str); 19] = [
    (Method::POST, "/v1/access"),
    (Method::POST, "/v1/agents"),
    (Method::POST, "/v1/bindings"),
    (Method::POST, "/v1/clusters/edge/join-tokens"),
    (Method::PUT, "/v1/bindings/user-viewer-view"),
    (Method::PATCH, "/v1/bindings/user-viewer-view"),
    (Method::PUT, "/v1/bindings/group-ops-view"),
    (Method::PATCH, "/v1/bindings/group-ops-view"),
    (Method::POST, "/v1/clusters"),
    (Method::PUT, "/v1/clusters/edge"),
    (Method::PATCH, "/v1/clusters/edge"),
    (Method::POST, "/v1/groups"),
    (Method::PUT, "/v1/groups/ops"),
    (Method::PATCH, "/v1/groups/ops"),
    (Method::POST, "/v1/tokens"),
    (Method::POST, "/v1/users"),
    (Method::PUT, "/v1/users/viewer"),
    (Method::PATCH, "/v1/users/viewer"),
    (Method::DELETE, "/v1/bindings/group-ops-view"),
];

const CALLERS: [&str; 3] = ["viewer", "keeper", "root"];

/// One request to the API: the first byte chooses the operation, the second the caller, the rest is the body. No body causes
/// a server error, and only a caller with the right changes something.
pub fn api_body(data: &[u8]) {
    let [operation, caller, body @ ..] = data else {
        return;
    };
    let operation = usize::from(*operation) % OPERATIONS.len();
    let caller = usize::from(*caller) % CALLERS.len();
    if let (Some(operation), Some(caller)) = (OPERATIONS.get(operation), CALLERS.get(caller)) {
        RUNTIME.with(|runtime| runtime.block_on(ask(operation, caller, body)));
    }
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| unreachable!("no runtime: {error}"));
}

async fn ask((method, path): &(Method, &'static str), caller: &str, body: &[u8]) {
    let world = World::new().await;
    let requester = world.requester(caller).await;
    let before = world.directory.snapshot();
    let request = Request::builder()
        .method(method)
        .uri(*path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::IF_MATCH, "*")
        .body(Full::new(Bytes::copy_from_slice(body)));
    let Ok(request) = request else { return };
    let answer = world.api.answer(request, requester, None).await;
    let (head, body) = answer.into_parts();
    let status = head.status.as_u16();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let text = String::from_utf8_lossy(body.as_deref().unwrap_or_default()).into_owned();
    assert!(
        status < 500 || status == 507,
        "{method} {path}: {status} {text}"
    );
    let after = world.directory.snapshot();
    if status >= 400 {
        assert_eq!(before.revision(), after.revision(), "{status} {text}");
    }
    if caller != "root" {
        check_others(&before, &after, caller);
    }
}

/// A caller without administrator rights changes only their own tokens, and bindings of their cluster alone.
fn check_others(before: &Snapshot, after: &Snapshot, caller: &str) {
    let tokens = |snapshot: &Snapshot| {
        let tokens = snapshot.all::<AccessToken>().iter();
        let others = tokens.filter(|(_, token)| token.object.owner.name() != caller);
        others
            .map(|(id, token)| (id.clone(), (*token.object).clone()))
            .collect::<Vec<_>>()
    };
    let bindings = |snapshot: &Snapshot| {
        let bindings = snapshot.all::<Binding>().iter();
        let others = bindings.filter(|(_, binding)| {
            let clusters = &binding.object.clusters;
            let theirs = clusters.names.iter().all(|name| name.as_str() == "edge")
                && !clusters.all
                && clusters.labels.is_empty();
            caller != "keeper" || !theirs
        });
        others
            .map(|(name, binding)| (name.clone(), (*binding.object).clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(tokens(before), tokens(after));
    assert_eq!(bindings(before), bindings(after));
    assert_eq!(before.all::<User>(), after.all::<User>());
    assert_eq!(before.all::<Group>(), after.all::<Group>());
    assert_eq!(before.all::<Cluster>(), after.all::<Cluster>());
}

/// Of no authenticators. Hashing a password takes longer than a request.
static LOGINS: LazyLock<Arc<Logins>> = LazyLock::new(|| {
    let Ok(passwords) = Passwords::new() else {
        unreachable!("there is randomness");
    };
    Arc::new(Logins {
        chain: Arc::new(Chain::new(vec![], Arc::new(Unowned))),
        passwords,
        device_login: Arc::new(|| None),
    })
});

struct World {
    api: Api,
    directory: Arc<Directory>,
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let Ok(directory) = Directory::open(store).await else {
            unreachable!("an empty store can be read");
        };
        let filled = directory.change(fill).await;
        assert!(filled.is_ok(), "{filled:?}");
        let key = SealingKey::generate().and_then(|text| SealingKey::from_text(&text));
        let Ok(key) = key else {
            unreachable!("there is randomness");
        };
        let keys = Arc::new(Keyring::new(key, vec![]));
        let direct = Arc::new(DirectClusters::new(keys, Plugins::default()));
        Self {
            api: Api::new(
                Arc::clone(&directory),
                Arc::new(NoAgents),
                direct,
                Arc::clone(&LOGINS),
                ServerInfo {
                    url: String::new(),
                    ca_pem: String::new(),
                    ca_pin: String::new(),
                    cluster_domain: None,
                    tls_cluster_domain: None,
                    version: String::new(),
                },
                AuditLog::default(),
                Arc::new(NoAgents),
            ),
            directory,
        }
    }

    /// A user with a token of theirs, as the listener would see them.
    async fn requester(&self, user: &str) -> Requester {
        let found = self.authenticate(user).await;
        found.unwrap_or_else(|| unreachable!("{user} has no token"))
    }

    async fn authenticate(&self, user: &str) -> Option<Requester> {
        let token = Token::generate().ok()?;
        let (name, sha256) = (Name::new(user).ok()?, token.hash());
        let put = |draft: &mut Draft| {
            let object = AccessToken {
                created: draft.now(),
                sha256,
                owner: Owner::User(name.clone()),
                expires: None,
                renewable_until: None,
                parent: None,
                scope: Default::default(),
                description: String::new(),
            };
            draft.put(&format!("{user}-token"), object, Expect::Anything)
        };
        self.directory.change(put).await.ok()?;
        let mut headers = HeaderMap::new();
        let line = format!("Bearer {}", token.expose());
        headers.insert(header::AUTHORIZATION, line.parse().ok()?);
        let info = ConnectionInfo {
            peer: std::net::IpAddr::from([127, 0, 0, 1]).into(),
            protocol: Protocol::Http1,
            server_name: None,
            certificates: vec![],
            unusable_certificate: None,
        };
        let caller = Caller::read(&headers, &info)?;
        let tokens = TokenAuthenticator::new("tokens", Arc::clone(&self.directory) as _);
        let asked = tokio::time::timeout(Duration::from_secs(5), tokens.authenticate(&caller));
        Some(Requester::from(&asked.await.ok()?.ok()??))
    }
}

/// Two clusters, a user who may look at one, its administrator, and an administrator of everything.
fn fill(draft: &mut Draft) -> Result<(), underpass_directory::ChangeError> {
    for cluster in ["edge", "other"] {
        let object = Cluster::new(draft.now());
        draft.put(cluster, object, Expect::Absent)?;
    }
    let edge: Vec<_> = ClusterName::new("edge").into_iter().collect();
    for (user, role, all) in [
        ("viewer", Role::View, false),
        ("keeper", Role::Admin, false),
        ("root", Role::Admin, true),
    ] {
        draft.put(user, User::new(draft.now()), Expect::Absent)?;
        let Ok(name) = Name::new(user) else { continue };
        let clusters = if all { &[][..] } else { &edge };
        draft.grant(&Subject::user(name), clusters, all, role)?;
    }
    for (name, member) in [("ops", "viewer")] {
        let (Ok(name), Ok(member)) = (Name::new(name), Name::new(member)) else {
            continue;
        };
        draft.join(&name, &[member])?;
        draft.grant(&Subject::group(name), &[], true, Role::View)?;
    }
    Ok(())
}
