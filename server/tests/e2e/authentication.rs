//! Users who are known elsewhere, with real kubectl.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use underpass_testenv::testing::providers::{Directory, OidcProvider, SEARCHER};
use underpass_testenv::testing::{Client, Wire, eventually};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{CLUSTER, Deployment, agent_account};
use crate::flight::InFlight;
use crate::raw;

/// The deployment whose authentication file these tests have to themselves.
struct Elsewhere {
    deployment: Deployment,
    provider: OidcProvider,
}

impl Elsewhere {
    async fn start() -> Self {
        let this = Self {
            deployment: Deployment::start(Transport::Quic).await,
            provider: OidcProvider::start().await,
        };
        let ca = this.deployment.dir().join("cluster-ca.pem");
        std::fs::write(ca, CLUSTER.ca_pem()).unwrap();
        this
    }

    /// Tokens, the provider as `corp`, and certificates of the cluster's own CA.
    fn file(&self) -> Value {
        json!({ "authenticators": [
            { "name": "tokens", "tokens": {} },
            { "name": "corp", "jwt": {
                "issuer": {
                    "url": self.provider.issuer(),
                    "audiences": ["underpass"],
                    "certificateAuthorityFile": self.provider.ca_file(),
                },
                "claimMappings": {
                    "username": { "claim": "sub", "prefix": "corp:" },
                    "groups": { "claim": "groups", "prefix": "corp:" },
                },
            } },
            { "name": "certificates", "clientCertificates": {
                "certificateAuthorityFiles": ["cluster-ca.pem"],
                "usernamePrefix": "cert:",
                "groupsPrefix": "",
            } },
        ] })
    }

    /// Writes the file, and waits until it is in force.
    async fn configure(&self, file: &Value) {
        let before = self.setups();
        std::fs::write(self.deployment.authentication_file(), file.to_string()).unwrap();
        eventually("the file is in force", async || {
            let log = self.deployment.server_log().unwrap();
            (self.setups() > before).then_some(()).ok_or(log)
        })
        .await;
    }

    fn setups(&self) -> usize {
        let log = self.deployment.server_log().unwrap();
        log.matches("authentication is set up").count()
    }

    /// The cluster's kubeconfig, leading through Underpass.
    fn through(&self, kubeconfig: &Path) -> PathBuf {
        let mut text: Value = serde_json::from_slice(&std::fs::read(kubeconfig).unwrap()).unwrap();
        let url = self.deployment.url();
        text["clusters"][0]["cluster"] = json!({
            "server": format!("{url}/k8s/clusters/{CLUSTER_NAME}"),
            "certificate-authority": self.deployment.ca_file(),
        });
        let name = kubeconfig.file_name().unwrap().to_string_lossy();
        let path = self.deployment.dir().join(format!("through-{name}"));
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    async fn token(&self, claims: Value, seconds: i64) -> PathBuf {
        let token = self.provider.token("underpass", &claims, seconds).await;
        self.through(&CLUSTER.kubeconfig_with_token("oidc", &token).unwrap())
    }

    fn certificate(&self, user: &str, groups: &[&str]) -> PathBuf {
        self.through(&CLUSTER.kubeconfig_for(user, groups).unwrap())
    }

    fn client<'a>(&self, kubeconfig: &'a Path) -> Client<'a> {
        self.deployment.client(kubeconfig, Wire::WebSocket)
    }

    fn let_in(&self, user: &str) {
        let set = ["binding", "set", user, "--role", "operate", "--user", user];
        let set = [&set[..], &["--cluster", CLUSTER_NAME]].concat();
        self.deployment.administer(&set).unwrap();
    }
}

async fn whoami(client: &Client<'_>) -> Value {
    let answer = client.run(&["auth", "whoami", "-o", "json"]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["status"]["userInfo"].clone()
}

static ALICE: LazyLock<Value> =
    LazyLock::new(|| json!({ "sub": "alice", "groups": ["dev", "on call"] }));

#[tokio::test]
async fn an_id_token_reaches_the_cluster() {
    let elsewhere = Elsewhere::start().await;
    elsewhere.configure(&elsewhere.file()).await;
    elsewhere.let_in("corp:alice");
    let kubeconfig = elsewhere.token(ALICE.clone(), 600).await;
    let user = whoami(&elsewhere.client(&kubeconfig)).await;
    assert_eq!(user["username"], "corp:alice");
    assert_eq!(
        user["groups"],
        json!(["corp:dev", "corp:on call", "system:authenticated"])
    );
    elsewhere
        .deployment
        .logged("authenticated=\"jwt/corp\"")
        .await;
    // The provider knows bob, and the server's policy does not let him in.
    let kubeconfig = elsewhere.token(json!({ "sub": "bob" }), 600).await;
    let said = elsewhere.client(&kubeconfig).fail(&["get", "pods"]).await;
    assert!(said.contains("User \"corp:bob\" cannot"), "{said}");
    // Expired, and for somebody else.
    let expired = elsewhere.token(ALICE.clone(), -60).await;
    let said = elsewhere.client(&expired).fail(&["get", "pods"]).await;
    assert!(said.contains("must be logged in"), "{said}");
    let other = elsewhere.provider.token("other", &ALICE, 600).await;
    let other = elsewhere.through(&CLUSTER.kubeconfig_with_token("other", &other).unwrap());
    let said = elsewhere.client(&other).fail(&["get", "pods"]).await;
    assert!(said.contains("must be logged in"), "{said}");
    // Underpass's own tokens work beside it.
    let admin = elsewhere.deployment.admin(Wire::WebSocket);
    admin.run(&["get", "--raw", "/version"]).await;
    // Nothing of any token is in the log.
    let token = elsewhere.provider.token("underpass", &ALICE, 600).await;
    let log = elsewhere.deployment.server_log().unwrap();
    let head = token.split('.').next().unwrap();
    assert!(!log.contains(head), "{log}");
}

#[tokio::test]
async fn a_client_certificate_reaches_the_cluster() {
    let elsewhere = Elsewhere::start().await;
    let kubeconfig = elsewhere.certificate("alice", &["dev", "ops"]);
    elsewhere.let_in("cert:alice");
    let client = elsewhere.client(&kubeconfig);
    // Nobody asks for certificates yet. (kubectl asks for a name and a password then.)
    let refused = client.output(&["get", "--raw", "/version"]).await;
    assert!(!refused.status.success(), "{refused:?}");

    elsewhere.configure(&elsewhere.file()).await;
    let user = whoami(&client).await;
    assert_eq!(user["username"], "cert:alice");
    assert_eq!(
        user["groups"],
        json!(["dev", "ops", "system:authenticated"])
    );
    elsewhere
        .deployment
        .logged("authenticated=\"certificate/certificates\"")
        .await;

    // A certificate that the cluster itself takes for its master is none here (rule 17).
    let masters = elsewhere.certificate("root", &["system:masters"]);
    elsewhere.let_in("cert:root");
    let refused = elsewhere
        .client(&masters)
        .output(&["get", "--raw", "/version"])
        .await;
    assert!(!refused.status.success(), "{refused:?}");
}

/// A CA without a prefix may give every name, and still not one that the directory has for somebody else.
#[tokio::test]
async fn rule_22_a_certificate_with_a_name_of_the_directorys_is_nobodys() {
    let elsewhere = Elsewhere::start().await;
    let deployment = &elsewhere.deployment;
    let mut file = elsewhere.file();
    let certificates = &mut file["authenticators"][2]["clientCertificates"];
    certificates["usernamePrefix"] = json!("");
    elsewhere.configure(&file).await;
    let carol = elsewhere.certificate("carol", &[]);
    elsewhere.let_in("carol");
    let user = whoami(&elsewhere.client(&carol)).await;
    assert_eq!(user["username"], "carol");

    let refused = async |kubeconfig: &Path| {
        let client = elsewhere.client(kubeconfig);
        let output = client.output(&["get", "--raw", "/version"]).await;
        assert!(!output.status.success(), "{output:?}");
    };
    // The first administrator may do everything; a namesake may do nothing.
    refused(&elsewhere.certificate("admin", &[])).await;
    deployment
        .logged("no link to certificate/certificates")
        .await;
    // A suspended user does not come back by another way.
    let add = ["user", "add", "alice", "--cluster", CLUSTER_NAME];
    deployment.administer(&add).unwrap();
    let alice = elsewhere.certificate("alice", &["dev"]);
    refused(&alice).await;
    let link = ["user", "link", "alice", "certificate/certificates"];
    deployment.administer(&link).unwrap();
    let user = whoami(&elsewhere.client(&alice)).await;
    assert_eq!(user["username"], "alice");
    let groups = |user: &Value| user["groups"].as_array().unwrap().contains(&json!("dev"));
    assert!(groups(&user), "{user}");
    // A group of the directory's is not given by a certificate either.
    deployment.administer(&["group", "set", "dev"]).unwrap();
    let user = whoami(&elsewhere.client(&alice)).await;
    assert!(!groups(&user), "{user}");
    deployment.logged("counts for nothing").await;
    deployment
        .administer(&["user", "disable", "alice"])
        .unwrap();
    refused(&alice).await;
    deployment.administer(&["user", "enable", "alice"]).unwrap();
    whoami(&elsewhere.client(&alice)).await;
    deployment.administer(&["user", "link", "alice"]).unwrap();
    refused(&alice).await;
}

/// A link makes a caller a user of the directory only for as long as the link exists.
#[tokio::test]
async fn rule_22_taking_a_link_away_ends_what_rests_on_it() {
    const USER: &str = "linked";
    let elsewhere = Elsewhere::start().await;
    let deployment = &elsewhere.deployment;
    let mut file = elsewhere.file();
    file["authenticators"][2]["clientCertificates"]["usernamePrefix"] = json!("");
    elsewhere.configure(&file).await;
    let link = ["--link", "certificate/certificates"];
    let add = ["user", "add", USER, "--cluster", CLUSTER_NAME];
    let add = [&add[..], &["--role", "operate"], &link].concat();
    deployment.administer(&add).unwrap();
    let bind = ["--clusterrole=cluster-admin", "--user", USER];
    let bind = [&["create", "clusterrolebinding", USER][..], &bind].concat();
    CLUSTER.run_kubectl(&bind).unwrap();
    let certificate = elsewhere.certificate(USER, &[]);
    let watch = InFlight::watch(&elsewhere.client(&certificate)).await;
    deployment.administer(&["user", "link", USER]).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), watch.ended()).await;
    ended.expect("it ends within 5 s").assert_error();
}

/// Seconds from now until a token ends.
fn lasts(answer: &raw::Answer) -> i64 {
    let end = answer.body["about"]["expires"].as_str().unwrap();
    let end = OffsetDateTime::parse(end, &Rfc3339).unwrap();
    (end - OffsetDateTime::now_utc()).whole_seconds()
}

#[tokio::test]
async fn rule_24_what_an_id_token_makes_ends_with_it_unless_the_configuration_says_otherwise() {
    let elsewhere = Elsewhere::start().await;
    let deployment = &elsewhere.deployment;
    let mut file = elsewhere.file();
    elsewhere.configure(&file).await;
    let admin = ["binding", "set", "root", "--user", "corp:root"];
    let admin = [&admin[..], &["--role", "admin", "--all-clusters"]].concat();
    deployment.administer(&admin).unwrap();
    deployment.administer(&["user", "add", "bob"]).unwrap();
    let root = json!({ "sub": "root" });
    let token = elsewhere.provider.token("underpass", &root, 300).await;
    let ask = async |path: &str, body: Value| {
        let request = http::Request::post(path).header("authorization", format!("Bearer {token}"));
        let tls = raw::connect(deployment, &[b"http/1.1"]).await.unwrap();
        raw::post_on(tls, request, &body).await
    };
    let login = ask("/v1/login", json!({})).await;
    assert_eq!(login.code, 201, "{login:?}");
    assert!((200..=310).contains(&lasts(&login)), "{login:?}");
    // It makes a login and nothing else: its end ends everything that was made with it, also for an administrator.
    for wanted in [
        json!({ "user": "bob" }),
        json!({ "user": "bob", "expiresInSeconds": 60 }),
    ] {
        let refused = ask("/v1/tokens", wanted).await;
        assert_eq!(refused.code, 403, "{refused:?}");
    }
    let bearer = login.body["token"].as_str().unwrap();
    let with_login = async |wanted: Value| {
        let request = http::Request::post("/v1/tokens");
        let request = request.header("authorization", format!("Bearer {bearer}"));
        let tls = raw::connect(deployment, &[b"http/1.1"]).await.unwrap();
        raw::post_on(tls, request, &wanted).await
    };
    // No token of anybody's without an end, and none that ends later.
    for wanted in [
        json!({ "user": "bob" }),
        json!({ "user": "bob", "expiresInSeconds": 3600 }),
    ] {
        let refused = with_login(wanted).await;
        assert_eq!(refused.code, 422, "{refused:?}");
    }
    let within = json!({ "user": "bob", "expiresInSeconds": 60 });
    let made = with_login(within).await;
    assert_eq!(made.code, 201, "{made:?}");

    file["authenticators"][1]["jwt"]["loginLifetime"] = json!("1h");
    elsewhere.configure(&file).await;
    let login = ask("/v1/login", json!({})).await;
    assert!((3300..=3600).contains(&lasts(&login)), "{login:?}");
    // Of logins only.
    let longer = json!({ "user": "bob", "expiresInSeconds": 3600 });
    let refused = ask("/v1/tokens", longer).await;
    assert_eq!(refused.code, 403, "{refused:?}");
}

fn account_token(name: &str, audience: &str) -> String {
    let words = ["create", "token", name, "--audience", audience];
    CLUSTER.run_kubectl(&words).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_service_account_reaches_the_cluster() {
    let elsewhere = Elsewhere::start().await;
    CLUSTER
        .run_kubectl(&["create", "serviceaccount", "ci"])
        .unwrap();
    let token = account_token("ci", "underpass");
    let issuer = token.split('.').nth(1).unwrap();
    let issuer = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(issuer)
        .unwrap();
    let issuer: Value = serde_json::from_slice(&issuer).unwrap();
    let mut file = elsewhere.file();
    file["authenticators"].as_array_mut().unwrap().push(json!({
        "name": "workloads",
        "tokenReview": {
            "cluster": CLUSTER_NAME,
            "issuer": issuer["iss"],
            "audiences": ["underpass"],
            "namespaces": ["default"],
            "cache": "1s",
        },
    }));
    elsewhere.configure(&file).await;
    elsewhere.let_in("serviceaccount:edge:default:ci");
    let kubeconfig = elsewhere.through(&CLUSTER.kubeconfig_with_token("ci", &token).unwrap());
    let client = elsewhere.client(&kubeconfig);
    let version = ["get", "--raw", "/version"];
    // The cluster's administrator has not agreed yet.
    let said = client.fail(&version).await;
    assert!(said.contains("currently unable to handle"), "{said}");
    elsewhere
        .deployment
        .logged("does not let user underpass:token-reviewer create")
        .await;
    agent_account("underpass-system", &["--token-reviewer"]);
    eventually("the cluster reviews", async || {
        let answer = client.output(&version).await;
        answer.status.success().then_some(()).ok_or(answer)
    })
    .await;
    let user = whoami(&client).await;
    assert_eq!(user["username"], "serviceaccount:edge:default:ci");
    let groups = [
        "serviceaccounts:edge",
        "serviceaccounts:edge:default",
        "system:authenticated",
    ];
    assert_eq!(user["groups"], json!(groups));

    // A token for the API server itself is nobody's here, and is shown to nobody.
    let native = CLUSTER.service_account_token("default", "ci").unwrap();
    let native = elsewhere.through(&CLUSTER.kubeconfig_with_token("native", &native).unwrap());
    elsewhere.client(&native).fail(&version).await;
    // One that the cluster has not issued is refused by the cluster.
    let (signed, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", "A".repeat(342));
    let forged = elsewhere.through(&CLUSTER.kubeconfig_with_token("forged", &forged).unwrap());
    elsewhere.client(&forged).fail(&version).await;
    elsewhere
        .deployment
        .logged("credential rejected authenticator=\"workloads\"")
        .await;

    // An account that is gone is nobody, once its cluster is asked again (rule 12).
    CLUSTER
        .run_kubectl(&["delete", "serviceaccount", "ci"])
        .unwrap();
    eventually("the account is gone here as well", async || {
        let answer = client.output(&version).await;
        if answer.status.success() {
            Err(answer)
        } else {
            Ok(())
        }
    })
    .await;
    // Nothing of the token is in the log.
    let log = elsewhere.deployment.server_log().unwrap();
    assert!(!log.contains(token.rsplit('.').next().unwrap()));
}

#[tokio::test]
async fn a_password_of_a_directory_reaches_the_cluster() {
    let elsewhere = Elsewhere::start().await;
    let directory = Directory::start().await;
    std::fs::write(elsewhere.deployment.dir().join("ldap.password"), SEARCHER.1).unwrap();
    let mut file = elsewhere.file();
    file["authenticators"].as_array_mut().unwrap().push(json!({
        "name": "directory",
        "ldap": {
            "url": directory.ldaps(),
            "certificateAuthorityFile": directory.ca_file(),
            "bindDN": SEARCHER.0,
            "bindPasswordFile": "ldap.password",
            "userSearch": {
                "base": "ou=people,dc=example,dc=org",
                "filter": "(&(objectClass=inetOrgPerson)(uid={username}))",
                "nameAttribute": "uid",
                "prefix": "",
            },
            "groupSearch": {
                "base": "ou=groups,dc=example,dc=org",
                "filter": "(objectClass=groupOfNames)",
                "nameAttribute": "cn",
                "prefix": "",
                "membership": { "member": "member" },
            },
        },
    }));
    elsewhere.configure(&file).await;
    elsewhere.let_in("alice");
    let kubeconfig = |password: &str| {
        let path = CLUSTER.kubeconfig_with_token("password", "x").unwrap();
        let text = std::fs::read(&path).unwrap();
        let mut text: Value = serde_json::from_slice(&text).unwrap();
        text["users"][0]["user"] = json!({ "username": "alice", "password": password });
        std::fs::write(&path, text.to_string()).unwrap();
        elsewhere.through(&path)
    };
    let right = kubeconfig("alice-secret");
    let user = whoami(&elsewhere.client(&right)).await;
    assert_eq!(user["username"], "alice");
    let groups = ["dev", "platform", "everyone", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    let wrong = kubeconfig("bob-secret");
    let said = elsewhere.client(&wrong).fail(&["get", "pods"]).await;
    assert!(said.contains("must be logged in"), "{said}");
    // Neither password is in the log, nor the one of the account that searches.
    elsewhere
        .deployment
        .logged("authenticated=\"ldap/directory\"")
        .await;
    let log = elsewhere.deployment.server_log().unwrap();
    assert!(!log.contains("-secret"), "{log}");
}

#[tokio::test]
async fn rule_12_an_authenticator_that_is_taken_away_ends_what_rests_on_it() {
    let elsewhere = Elsewhere::start().await;
    elsewhere.configure(&elsewhere.file()).await;
    elsewhere.let_in("corp:alice");
    let bind = ["--clusterrole=cluster-admin", "--user=corp:alice"];
    let bind = [&["create", "clusterrolebinding", "corp-alice"][..], &bind].concat();
    CLUSTER.run_kubectl(&bind).unwrap();
    let kubeconfig = elsewhere.token(ALICE.clone(), 600).await;
    let watch = InFlight::watch(&elsewhere.client(&kubeconfig)).await;
    let mut without = elsewhere.file();
    without["authenticators"].as_array_mut().unwrap().remove(1);
    elsewhere.configure(&without).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), watch.ended()).await;
    ended.expect("it ends within 5 s").assert_error();
}

/// A certificate beside another user's token: the caller is the certificate's holder, and the token is ignored.
#[tokio::test]
async fn rule_21_a_token_beside_a_certificate_lends_it_nothing() {
    let elsewhere = Elsewhere::start().await;
    let deployment = &elsewhere.deployment;
    let mut file = elsewhere.file();
    let authenticators = file["authenticators"].as_array_mut().unwrap();
    authenticators.rotate_right(1);
    assert_eq!(authenticators[0]["name"], "certificates");
    elsewhere.configure(&file).await;
    let nobody = elsewhere.certificate("nobody", &[]);

    let root = ["user", "add", "root", "--all-clusters", "--role", "admin"];
    deployment.administer(&root).unwrap();
    let token = |limits: &[&str]| {
        let create = [&["token", "create", "--user", "root"][..], limits].concat();
        deployment.administer(&create).unwrap().trim().to_owned()
    };
    let whole = token(&[]);
    let limited = token(&["--cluster", CLUSTER_NAME, "--read-only", "--expires", "1s"]);
    eventually("the token has expired", async || {
        let answer = raw::get(deployment, "/v1/self", Some(&limited)).await;
        (answer.code == 401).then_some(()).ok_or(answer)
    })
    .await;
    for bearer in [&whole, &limited] {
        for (method, path, body) in [
            ("POST", "/v1/tokens", json!({ "expiresInSeconds": 60 })),
            (
                "POST",
                "/v1/tokens",
                json!({ "user": "root", "expiresInSeconds": 60 }),
            ),
            (
                "PUT",
                "/v1/users/root/password",
                json!({ "password": "a new password" }),
            ),
            ("POST", "/v1/login", json!({})),
        ] {
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header("authorization", format!("Bearer {bearer}"));
            let tls = raw::connect_with_certificate(deployment, &nobody).await;
            let answer = raw::post_on(tls, request, &body).await;
            match path {
                // The certificate's holder may log in, as themselves.
                "/v1/login" => {
                    assert_eq!(answer.code, 201, "{answer:?}");
                    assert_eq!(answer.body["about"]["user"], "cert:nobody");
                }
                _ => assert_eq!(answer.code, 403, "{path} {answer:?}"),
            }
        }
    }
    // Nor does it show what is the owner's.
    let request =
        http::Request::get("/v1/tokens").header("authorization", format!("Bearer {whole}"));
    let tls = raw::connect_with_certificate(deployment, &nobody).await;
    let answer = raw::send_on(tls, request).await;
    let owners = answer.body["items"].as_array().unwrap().iter();
    let owners: Vec<_> = owners
        .map(|token| token["user"].as_str().unwrap())
        .collect();
    assert_eq!(owners, ["cert:nobody", "cert:nobody"], "{answer:?}");
}

/// A browser attaches a certificate by itself: not for pages of others.
#[tokio::test]
async fn rule_27_a_foreign_page_opens_no_shell_with_a_certificate() {
    let elsewhere = Elsewhere::start().await;
    let deployment = &elsewhere.deployment;
    elsewhere.configure(&elsewhere.file()).await;
    let bob = elsewhere.certificate("bob", &[]);
    elsewhere.let_in("cert:bob");
    let exec =
        format!("/k8s/clusters/{CLUSTER_NAME}/api/v1/namespaces/default/pods/p/exec?command=sh");
    let ask = async |path: &str, origin: Option<&str>, upgrade: bool| {
        let mut request = http::Request::get(path);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if upgrade {
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("sec-websocket-protocol", "v4.channel.k8s.io");
        }
        let tls = raw::connect_with_certificate(deployment, &bob).await;
        raw::send_on(tls, request).await
    };
    for origin in ["https://evil.example", "null", "http://localhost"] {
        ask(&exec, Some(origin), true)
            .await
            .assert_status(403, "Forbidden");
        let answer = ask("/v1/self", Some(origin), false).await;
        assert_eq!(answer.code, 403, "{answer:?}");
    }
    // Our own page, and a client that is no browser, get an answer of the cluster's: there is no such pod.
    for origin in [Some("https://localhost"), None] {
        let answer = ask(&exec, origin, true).await;
        assert!(answer.message().contains("cert:bob"), "{answer:?}");
        assert_eq!(
            ask("/v1/self", origin, false).await.body["user"],
            "cert:bob"
        );
    }
}
