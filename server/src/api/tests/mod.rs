//! The API as a client sees it, without a socket.

use std::time::Duration;

use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use underpass_api::LOGIN;
use underpass_authenticate::{Authenticator, Caller, Chain, Passwords, Step, TokenAuthenticator};
use underpass_core::{AgentRole, Protocol};
use underpass_direct::Plugins;
use underpass_directory::seal::{Keyring, SealingKey};
use underpass_directory::{MemoryStore, Role, Store, Subject};

use super::*;

mod audited;
mod costs;
mod credentials;
mod direct;
mod join;
mod join_pod;
mod login;
mod names;
mod nodes;
mod objects;
mod recordings;
mod rights;
mod shells;

/// The only program that may be run.
const PLUGIN: &str = "/opt/plugin";

struct World {
    api: Api,
    directory: Arc<Directory>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    async fn read(response: Response<Body>) -> Self {
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            // The next piece comes when this one is gone.
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        Self {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    fn tag(&self) -> String {
        self.headers[ETAG].to_str().unwrap().to_owned()
    }

    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

/// Two sessions of `prod`, with the key `k`.
struct TwoOfProd;

impl Connected for TwoOfProd {
    fn serving(&self, cluster: &ClusterName) -> usize {
        if cluster.as_str() == "prod" { 2 } else { 0 }
    }

    fn served_by(&self, cluster: &ClusterName) -> BTreeSet<Through> {
        let agent = || Through {
            role: AgentRole::Cluster,
            agent: "a".to_owned(),
            by_credential: false,
        };
        let serves = cluster.as_str() == "prod";
        serves.then(agent).into_iter().collect()
    }

    fn by_agent(&self) -> HashMap<String, usize> {
        HashMap::from([("k".to_owned(), 2)])
    }

    fn of_agent(&self, _: &str) -> Vec<underpass_tunnel::Session> {
        Vec::new()
    }

    fn keepers(&self) -> Arc<crate::shells::Keepers> {
        Arc::default()
    }

    fn in_role(&self, _: AgentRole) -> Vec<underpass_tunnel::Session> {
        Vec::new()
    }
}

impl World {
    async fn new() -> Self {
        Self::audited(AuditLog::default()).await
    }

    async fn audited(audit_log: AuditLog) -> Self {
        Self::over(Arc::new(MemoryStore::default()), audit_log).await
    }

    async fn over(store: Arc<dyn Store>, audit_log: AuditLog) -> Self {
        Self::with(store, audit_log, Arc::new(TwoOfProd)).await
    }

    async fn with(store: Arc<dyn Store>, audit_log: AuditLog, sessions: Sessions) -> Self {
        let directory = Directory::open(store).await.unwrap();
        let key = SealingKey::from_text(&SealingKey::generate().unwrap()).unwrap();
        let keys = Arc::new(Keyring::new(key, vec![]));
        let plugins = Plugins {
            programs: [PLUGIN.into()].into(),
            variables: ["A".to_owned()].into(),
        };
        let direct = Arc::new(DirectClusters::new(keys, plugins));
        let logins = Arc::new(Logins {
            chain: Arc::new(Chain::new(
                vec![Step::new(
                    "tokens",
                    Arc::new(TokenAuthenticator::new("tokens", directory.clone())),
                    Duration::from_secs(5),
                )],
                directory.clone(),
            )),
            passwords: Passwords::new().unwrap(),
            device_login: Arc::new(|| None),
        });
        let server = ServerInfo {
            url: "https://u.example.org:8443".to_owned(),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            ca_pin: "sha256:ab".to_owned(),
            cluster_domain: None,
            tls_cluster_domain: Some("clusters.underpass.internal".to_owned()),
            version: "1".to_owned(),
        };
        let api = Api::new(
            Arc::clone(&directory),
            sessions,
            direct,
            logins,
            server,
            audit_log,
            Arc::new(join_pod::Reviewing),
        );
        Self { api, directory }
    }

    async fn ask(
        &self,
        who: &Requester,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(http::HeaderName, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let body = if body.is_null() {
            Vec::new()
        } else {
            request = request.header("content-type", "application/json");
            serde_json::to_vec(body).unwrap()
        };
        let request = request.body(Full::from(body)).unwrap();
        Answer::read(self.api.answer(request, who.clone(), None).await).await
    }

    async fn operate(&self, method: Method, path: &str, body: Value) -> Answer {
        self.ask(&Requester::Operator, method, path, &body, &[])
            .await
    }

    /// A user of the directory with a token of theirs, as the listener would see them.
    async fn user(&self, name: &str, access: Value) -> Requester {
        let mut wanted = json!({"user": name, "role": "view", "token": {}});
        let (Value::Object(all), Value::Object(some)) = (&mut wanted, access) else {
            panic!("not an object");
        };
        all.extend(some);
        let given = self
            .operate(Method::POST, "/v1/access", wanted)
            .await
            .expect(200);
        self.holder(given["token"]["token"].as_str().unwrap()).await
    }

    async fn holder(&self, bearer: &str) -> Requester {
        self.find_holder(bearer).await.expect("a token that counts")
    }

    /// The token's holder, where it counts.
    async fn find_holder(&self, bearer: &str) -> Option<Requester> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        let caller = connection();
        let caller = Caller::read(&headers, &caller).unwrap();
        let tokens = TokenAuthenticator::new("tokens", self.directory.clone());
        let found = tokens.authenticate(&caller).await.ok().flatten()?;
        Some(Requester::from(&found))
    }
}

fn connection() -> ConnectionInfo {
    ConnectionInfo {
        peer: std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST).into(),
        protocol: Protocol::Http1,
        server_name: None,
        certificates: vec![],
        unusable_certificate: None,
    }
}

impl World {
    async fn log_in(&self, authorization: &str, body: Value) -> Answer {
        let request = Request::post(LOGIN)
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        let answer = self.api.admit(request, &connection()).await;
        Answer::read(answer).await
    }

    async fn log_in_with(&self, user: &str, password: &str) -> Answer {
        use base64::Engine as _;

        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.log_in(&format!("Basic {basic}"), json!({})).await
    }
}
