//! Clusters whose API server is reached without an agent: a change of the way to one ends its calls.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use underpass_core::{BoxedIo, ClusterName, Clusters, ConnectError, Exec, Open, empty};
use underpass_direct::{DirectClusters, Plugins, ReachError};
use underpass_directory::{
    Cluster, ClusterPolicy, Credential, Direct, Directory, Endpoint, Expect, MemoryStore,
    seal::{Keyring, SealingKey},
};
use underpass_testenv::testing::install_script;
use zeroize::Zeroizing;

use crate::{
    api::{Api, Pki, channel, ok},
    world::{World, code, soon, status},
};

/// The cluster `c`, which the directory has.
struct Reached {
    directory: Arc<Directory>,
    direct: Arc<DirectClusters>,
}

#[async_trait]
impl Clusters for Reached {
    async fn connect(&self, cluster: &ClusterName, open: &Open) -> Result<BoxedIo, ConnectError> {
        let connected = self.direct.connect(&self.directory, cluster, open).await;
        connected.unwrap_or(Err(ConnectError::UnknownCluster))
    }
}

fn keys() -> Keyring {
    let key = SealingKey::from_text(&SealingKey::generate().unwrap());
    Keyring::new(key.unwrap(), vec![])
}

fn token(token: &str) -> Credential {
    Credential::Token(Zeroizing::new(token.to_owned()))
}

fn pem(certificate: &[u8]) -> String {
    let body = BASE64.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

struct Setting {
    world: World,
    reached: Arc<Reached>,
    _enforcing: AbortOnDropHandle<()>,
}

impl Setting {
    async fn new(plugins: &[&str]) -> Self {
        let directory = Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap();
        let plugins = Plugins {
            programs: plugins.iter().map(Into::into).collect(),
            variables: Default::default(),
        };
        let direct = Arc::new(DirectClusters::new(Arc::new(keys()), plugins));
        let enforcing = tokio::spawn(Arc::clone(&direct).enforce(Arc::clone(&directory)));
        let reached = Arc::new(Reached { directory, direct });
        Self {
            world: World::over(reached.clone()).await,
            reached,
            _enforcing: AbortOnDropHandle::new(enforcing),
        }
    }

    async fn of(api: &Api, credential: &Credential) -> Self {
        let setting = Self::new(&[]).await;
        setting.set(api, credential).await;
        setting
    }

    /// Makes the cluster, or changes it.
    async fn set(&self, api: &Api, credential: &Credential) {
        let endpoint = (format!("https://{}", api.address), pem(&api.certificate));
        self.set_to(endpoint, credential, self.reached.direct.keys())
            .await;
    }

    async fn set_to(&self, (url, ca): (String, String), credential: &Credential, keys: &Keyring) {
        let name = ClusterName::new("c").unwrap();
        let endpoint = Endpoint::new(url, Some(ca), None).unwrap();
        let credential = credential.seal(&name, &endpoint, keys).unwrap();
        let put = self.reached.directory.change(|draft| {
            let cluster = Cluster {
                direct: Some(Direct {
                    endpoint: endpoint.clone(),
                    credential: credential.clone(),
                    policy: ClusterPolicy::default(),
                }),
                ..Cluster::new(draft.now())
            };
            draft.put("c", cluster, Expect::Anything)
        });
        put.await.unwrap();
    }

    async fn check(&self) -> Result<String, ReachError> {
        let (directory, name) = (&self.reached.directory, ClusterName::new("c").unwrap());
        soon(self.reached.direct.check(directory, &name))
            .await
            .unwrap()
    }
}

fn authorizations(api: &Api) -> Vec<String> {
    let seen = api.seen();
    seen.iter()
        .flat_map(|seen| seen.all("authorization"))
        .collect()
}

#[tokio::test]
async fn trailers_of_a_direct_clusters_answer_come() {
    let api = Api::start(crate::trailers::with_trailers).await;
    let setting = Setting::of(&api, &token("cluster-token")).await;
    let path = "/api/v1/namespaces/a/services/s/proxy/x";
    crate::trailers::come_over_both(&setting.world, path).await;
}

#[tokio::test]
async fn a_request_arrives_as_its_caller_with_the_clusters_credential() {
    let api = Api::start(ok).await;
    let setting = Setting::of(&api, &token("cluster-token")).await;
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 200, "{answer}");
    let seen = api.only();
    assert_eq!(seen.all("authorization"), ["Bearer cluster-token"]);
    assert_eq!(seen.all("impersonate-user"), ["alice"]);
}

#[tokio::test]
async fn rule_20_a_direct_cluster_takes_a_client_nowhere_either() {
    let proxy = "/api/v1/namespaces/a/services/s/proxy";
    let answer = move |request: Request<Incoming>| async move {
        let location = match request.uri().path().ends_with("/stay") {
            true => format!("{proxy}/there"),
            false => "https://192.0.2.1/".to_owned(),
        };
        let response = Response::builder().status(307).header("location", location);
        let challenged = response.header("www-authenticate", "Basic");
        challenged
            .header("set-cookie", "a=b")
            .body(empty())
            .unwrap()
    };
    let api = Api::start(answer).await;
    let setting = Setting::of(&api, &token("cluster-token")).await;
    for path in ["/api/v1/pods".to_owned(), format!("{proxy}/away")] {
        let answer = setting.world.get(&path, "").await;
        assert_eq!(code(&answer), 502, "{answer}");
        assert_eq!(status(&answer)["reason"], "RedirectRefused");
        assert!(!answer.contains("192.0.2.1"), "{answer}");
    }
    let answer = setting.world.get(&format!("{proxy}/stay"), "").await;
    assert_eq!(code(&answer), 307);
    let client = format!("/k8s/clusters/c{proxy}/");
    assert!(
        answer.contains(&format!("location: {client}there\r\n")),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("set-cookie: a=b; Path={client}\r\n")),
        "{answer}"
    );
    assert!(!answer.contains("www-authenticate"), "{answer}");
    assert_eq!(api.seen().len(), 3, "none was followed");
}

type Chunks = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// An API server whose watches the test writes.
async fn watches() -> (Api, mpsc::Receiver<Chunks>) {
    let (opened, watches) = mpsc::channel(10);
    let api = Api::start(move |_request: Request<Incoming>| {
        let opened = opened.clone();
        async move {
            let (sender, body) = channel();
            opened.send(sender).await.unwrap();
            Response::new(body)
        }
    });
    (api.await, watches)
}

/// A watch of alice's, and its other end.
async fn watch(setting: &Setting, opened: &mut mpsc::Receiver<Chunks>) -> (Incoming, Chunks) {
    let request = setting
        .world
        .request("GET", "/api/v1/pods?watch=1", empty());
    let mut http1 = setting.world.http1().await;
    let body = soon(http1.send_request(request)).await.unwrap().into_body();
    (body, soon(opened.recv()).await.unwrap())
}

#[tokio::test]
async fn rule_12_another_credential_cuts_what_is_open_and_serves_what_comes() {
    let (api, mut opened) = watches().await;
    let setting = Setting::of(&api, &token("first")).await;
    for (http2, next) in [(false, "second"), (true, "third")] {
        let request = setting
            .world
            .request("GET", "/api/v1/pods?watch=1", empty());
        let response = if http2 {
            soon(setting.world.http2().await.send_request(request)).await
        } else {
            soon(setting.world.http1().await.send_request(request)).await
        };
        let mut body = response.unwrap().into_body();
        let upstream = soon(opened.recv()).await.unwrap();
        upstream.send(Ok(Bytes::from("event\n"))).await.unwrap();
        let frame = soon(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "event\n");

        // A change of anything else leaves the call alone.
        let relabel = setting.reached.directory.change(|draft| {
            let cluster = draft.get::<Cluster>("c").unwrap();
            let labels = BTreeMap::from([("at".to_owned(), next.to_owned())]);
            let cluster = Cluster {
                labels: labels.try_into().unwrap(),
                ..Cluster::clone(&cluster.object)
            };
            draft.put("c", cluster, Expect::Present)
        });
        relabel.await.unwrap();
        upstream.send(Ok(Bytes::from("more\n"))).await.unwrap();
        let frame = soon(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "more\n");

        setting.set(&api, &token(next)).await;
        let cut = soon(body.frame()).await.expect("no clean end");
        cut.expect_err("an error");
        soon(upstream.closed()).await;
    }
    assert_eq!(authorizations(&api), ["Bearer first", "Bearer second"]);
}

#[tokio::test]
async fn rule_17_a_direct_cluster_has_a_policy_of_its_own() {
    let api = Api::start(ok).await;
    let setting = Setting::of(&api, &token("t")).await;
    assert_eq!(code(&setting.world.get("/api/v1/pods", "").await), 200);
    let deny = setting.reached.directory.change(|draft| {
        let cluster = draft.get::<Cluster>("c").unwrap();
        let mut cluster = Cluster::clone(&cluster.object);
        let direct = cluster.direct.as_mut().unwrap();
        direct.policy.deny_groups.insert("dev".to_owned());
        draft.put("c", cluster, Expect::Present)
    });
    deny.await.unwrap();
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 403, "{answer}");
    let message = status(&answer)["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("group \"dev\" may not be impersonated"),
        "{message}"
    );
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test]
async fn rule_12_removing_the_cluster_cuts_what_is_open() {
    let (api, mut opened) = watches().await;
    let setting = Setting::of(&api, &token("t")).await;
    let (mut body, upstream) = watch(&setting, &mut opened).await;
    let directory = &setting.reached.directory;
    let remove = directory.change(|draft| draft.remove::<Cluster>("c", Expect::Present));
    remove.await.unwrap();
    soon(body.frame()).await.unwrap().unwrap_err();
    soon(upstream.closed()).await;
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 404);
}

#[tokio::test]
async fn whoever_goes_away_is_gone_for_the_api_server() {
    let (api, mut opened) = watches().await;
    let setting = Setting::of(&api, &token("t")).await;
    let (body, upstream) = watch(&setting, &mut opened).await;
    drop(body);
    soon(upstream.closed()).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_api_server_is_said_in_words() {
    let (good, expired) = (Api::start(ok).await, Api::expired().await);
    let stranger = pem(&Pki::new(&[]).certificate);
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let setting = Setting::new(&[]).await;
    let url = |api: &Api| format!("https://{}", api.address);
    for (endpoint, words) in [
        ((url(&good), stranger.clone()), "is not signed by the CA"),
        (
            (url(&expired), pem(&expired.certificate)),
            "its certificate has expired",
        ),
        (
            (
                format!("https://localhost:{}", good.address.port()),
                pem(&good.certificate),
            ),
            "its certificate is for another name",
        ),
        ((format!("https://{closed}"), stranger), "cannot connect"),
    ] {
        let keys = setting.reached.direct.keys();
        setting.set_to(endpoint, &token("t"), keys).await;
        let answer = setting.world.get("/api/v1/pods", "").await;
        let message = status(&answer)["message"].as_str().unwrap().to_owned();
        assert_eq!(code(&answer), 502, "{answer}");
        assert!(message.contains(words), "{message}");
        assert!(!answer.contains(&closed.port().to_string()));
        // kubectl asks for this first, and shows plain texts only.
        let lines =
            "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\r\n";
        let answer = setting.world.get("/api", lines).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.to_lowercase().contains("content-type: text/plain"),
            "{head}"
        );
        assert!(body.contains(words), "{answer}");
        setting.check().await.unwrap_err();
    }
    assert_eq!(good.seen().len() + expired.seen().len(), 0);
}

#[tokio::test]
async fn rule_9_a_credential_of_another_key_reaches_nobody() {
    let api = Api::start(ok).await;
    let setting = Setting::new(&[]).await;
    let endpoint = (format!("https://{}", api.address), pem(&api.certificate));
    setting.set_to(endpoint, &token("t"), &keys()).await;
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 502);
    let message = status(&answer)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("as it is configured"), "{message}");
    let error = setting.check().await.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("--secrets-key-file"), "{why}");
    assert_eq!(api.seen().len(), 0);
}

fn exec(command: &str) -> Credential {
    Credential::Exec(Exec {
        command: command.to_owned(),
        args: vec![],
        env: Default::default(),
    })
}

#[tokio::test]
async fn a_plugins_token_is_used_and_only_an_allowed_plugins() {
    let api = Api::start(ok).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plugin");
    let script = "#!/bin/sh\necho '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\
                  \"kind\":\"ExecCredential\",\"status\":{\"token\":\"from-plugin\"}}'\n";
    install_script(&path, script);
    let path = path.to_str().unwrap();

    let setting = Setting::new(&[path]).await;
    setting.set(&api, &exec(path)).await;
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 200, "{answer}");
    assert_eq!(authorizations(&api), ["Bearer from-plugin"]);

    setting.set(&api, &exec("/bin/true")).await;
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 502);
    let error = setting.check().await.unwrap_err().to_string();
    assert!(error.contains("--allow-exec-plugin"), "{error}");
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test]
async fn a_failing_plugin_is_no_credential() {
    let api = Api::start(ok).await;
    let setting = Setting::new(&["/bin/false"]).await;
    setting.set(&api, &exec("/bin/false")).await;
    let answer = setting.world.get("/api/v1/pods", "").await;
    assert_eq!(code(&answer), 502, "{answer}");
    let message = status(&answer)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no credential"), "{message}");
    assert_eq!(api.seen().len(), 0);
}
