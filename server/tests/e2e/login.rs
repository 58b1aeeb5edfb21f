//! Passwords, logins, and kubectl with the plugin that gives it a login's token.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;
use tokio::process::Command;
use underpass_testenv::testing::providers::FakeGitHub;
use underpass_testenv::testing::{Wire, eventually, run, text};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::audit::one_of_ours;
use crate::deployment::{Deployment, PROGRAMS};
use crate::flight::InFlight;
use crate::raw;

/// Somebody at a machine of their own.
struct Person {
    deployment: &'static Deployment,
    name: String,
    home: tempfile::TempDir,
}

const PASSWORD: &str = "correct horse battery staple";

impl Person {
    /// A person with a password, and every right in the cluster.
    async fn new(name: &str) -> Self {
        let deployment = Deployment::shared(Transport::Quic);
        let binding = ["--clusterrole=cluster-admin", &format!("--user={name}")];
        let bind = [&["create", "clusterrolebinding", name][..], &binding].concat();
        deployment.admin(Wire::WebSocket).run(&bind).await;
        deployment
            .administer(&["user", "add", name, "--cluster", CLUSTER_NAME])
            .unwrap();
        let person = Self {
            deployment,
            name: name.to_owned(),
            home: tempfile::tempdir().unwrap(),
        };
        person.set_password(PASSWORD);
        person
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn set_password(&self, password: &str) {
        let file = self.file("new-password", &format!("{password}\n"));
        let set = [
            "user",
            "password",
            &self.name,
            "--password-file",
            file.to_str().unwrap(),
        ];
        self.deployment.administer(&set).unwrap();
    }

    async fn underpass(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .env("HOME", self.home.path())
            .args(["--api", self.deployment.url()])
            .args(arguments);
        run(&mut command, b"").await
    }

    async fn log_in(&self, password: &str) -> Output {
        let file = self.file("password", password);
        let ca = self.deployment.ca_file();
        let (file, ca) = (file.to_str().unwrap(), ca.to_str().unwrap());
        let login = [
            "--api-ca-file",
            ca,
            "login",
            "--user",
            &self.name,
            "--password-file",
            file,
        ];
        self.underpass(&login).await
    }

    async fn kubectl(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        let programs = PROGRAMS.cli().parent().unwrap();
        let mut command = Command::from(self.deployment.kubectl(kubeconfig));
        command
            .env("PATH", programs)
            .env("HOME", self.home.path())
            .args(arguments);
        run(&mut command, b"").await
    }
}

#[tokio::test]
async fn kubectl_uses_a_login_and_no_secret_is_in_its_file() {
    let person = Person::new("logs-in").await;
    let refused = person.underpass(&["whoami"]).await;
    assert!(text(&refused.stderr).contains("login --api"), "{refused:?}");
    let wrong = person.log_in("wrong").await;
    assert!(
        text(&wrong.stderr).contains("name or password"),
        "{wrong:?}"
    );
    let login = person.log_in(PASSWORD).await;
    assert!(login.status.success(), "{login:?}");
    let who = person.underpass(&["whoami"]).await;
    assert!(
        text(&who.stderr).starts_with("logs-in (token/tokens)"),
        "{who:?}"
    );
    assert!(text(&who.stdout).contains(CLUSTER_NAME), "{who:?}");

    let kubeconfig = person.home.path().join("kubeconfig");
    let write = [
        "kubeconfig",
        "--exec",
        "--output",
        kubeconfig.to_str().unwrap(),
    ];
    let written = person.underpass(&write).await;
    assert!(written.status.success(), "{written:?}");
    let file = std::fs::read_to_string(&kubeconfig).unwrap();
    assert!(!file.contains("upt_"), "{file}");
    // It was asked whether the name leads to the cluster.
    let name = format!("tls-server-name: {CLUSTER_NAME}.clusters.underpass.internal");
    assert!(file.contains(&name), "{file}");
    let whoami = person.kubectl(&kubeconfig, &["auth", "whoami"]).await;
    assert!(text(&whoami.stdout).contains("logs-in"), "{whoami:?}");

    // The password is changed: logins with the old one end, streams included.
    let mut watch = Command::from(person.deployment.kubectl(&kubeconfig));
    watch
        .env("PATH", PROGRAMS.cli().parent().unwrap())
        .env("HOME", person.home.path())
        .args(["get", "--raw", "/api/v1/namespaces?watch=true"]);
    let watch = InFlight::of(watch, "\"type\":\"ADDED\"").await;
    person.set_password("another password entirely");
    watch.ended().await.assert_error();
    let out = person.kubectl(&kubeconfig, &["get", "namespaces"]).await;
    assert!(!out.status.success(), "{out:?}");

    let again = person.log_in("another password entirely").await;
    assert!(again.status.success(), "{again:?}");
    let works = person.kubectl(&kubeconfig, &["get", "namespaces"]).await;
    assert!(works.status.success(), "{works:?}");
    let logout = person.underpass(&["logout"]).await;
    assert!(logout.status.success(), "{logout:?}");
    let out = person.kubectl(&kubeconfig, &["get", "namespaces"]).await;
    assert!(
        text(&out.stderr).contains("nobody has logged in"),
        "{out:?}"
    );
}

#[tokio::test]
async fn a_credential_is_renewed_in_time() {
    let person = Person::new("renews").await;
    let login = person.log_in(PASSWORD).await;
    assert!(login.status.success(), "{login:?}");
    let credential = async || {
        let printed = person.underpass(&["credential"]).await;
        assert!(printed.status.success(), "{printed:?}");
        let credential: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
        assert_eq!(credential["kind"], "ExecCredential");
        credential["status"]["token"].as_str().unwrap().to_owned()
    };
    let first = credential().await;
    assert_eq!(credential().await, first);
    // As if it had been made yesterday.
    let logins = person.home.path().join(".config/underpass/logins");
    let file = std::fs::read_dir(&logins)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut saved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    saved["created"] = "2020-01-01T00:00:00Z".into();
    std::fs::write(&file, saved.to_string()).unwrap();
    let second = credential().await;
    assert_ne!(second, first);
    assert_eq!(credential().await, second);
    // The first one still counts.
    for token in [&first, &second] {
        let me = raw::get(person.deployment, "/v1/self", Some(token)).await;
        assert_eq!(me.body["user"], "renews");
    }
    // An ended login says what to do.
    saved["expires"] = "2020-01-02T00:00:00Z".into();
    std::fs::write(&file, saved.to_string()).unwrap();
    let ended = person.underpass(&["credential"]).await;
    assert!(text(&ended.stderr).contains("has ended"), "{ended:?}");
}

#[tokio::test]
async fn logout_ends_the_login_before_as_well() {
    let person = Person::new("logs-in-twice").await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let login = person.log_in(PASSWORD).await;
        assert!(login.status.success(), "{login:?}");
        let printed = person.underpass(&["credential"]).await;
        let credential: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
        let token = credential["status"]["token"].as_str().unwrap().to_owned();
        tokens.push(token);
    }
    let codes = async || {
        let mut codes = Vec::new();
        for token in &tokens {
            let me = raw::get(person.deployment, "/v1/self", Some(token)).await;
            codes.push(me.code);
        }
        codes
    };
    assert_eq!(codes().await, [200, 200]);
    let logout = person.underpass(&["logout"]).await;
    assert!(logout.status.success(), "{logout:?}");
    assert_eq!(codes().await, [401, 401]);
}

#[tokio::test]
async fn a_code_that_is_confirmed_at_github_is_a_login() {
    let github = FakeGitHub::start().await;
    let deployment = Deployment::start(Transport::WebSocket).await;
    let folder = deployment.authentication_file();
    let ca = folder.with_file_name("github.pem");
    std::fs::write(&ca, github.ca_pem()).unwrap();
    std::fs::write(folder.with_file_name("github.secret"), "app-secret\n").unwrap();
    let authentication = json!({ "authenticators": [
        { "name": "tokens", "tokens": {} },
        { "name": "hub", "github": {
            "apiURL": format!("{}/api/v3", github.url()),
            "certificateAuthorityFile": "github.pem",
            "organizations": ["Org-0"],
            "usernamePrefix": "github:",
            "groupsPrefix": "github:",
            "app": { "clientID": "Iv1.underpass", "clientSecretFile": "github.secret" },
            "deviceLogin": { "clientID": "Iv1.underpass", "url": github.url() },
        } },
    ] });
    std::fs::write(deployment.authentication_file(), authentication.to_string()).unwrap();
    let bind = [
        "binding",
        "set",
        "hub",
        "--role",
        "view",
        "--group",
        "github:Org-0",
        "--cluster",
    ];
    deployment
        .administer(&[&bind[..], &[CLUSTER_NAME]].concat())
        .unwrap();
    eventually("the server offers it", async || {
        let ways = raw::get(&deployment, "/v1/login", None).await;
        if ways.body["device"]["clientId"] == "Iv1.underpass" {
            Ok(())
        } else {
            Err(ways)
        }
    })
    .await;

    let home = tempfile::tempdir().unwrap();
    let underpass = async |arguments: &[&str]| {
        let mut command = Command::new(PROGRAMS.cli());
        command
            .env_clear()
            .env("HOME", home.path())
            .args(["--api", deployment.url(), "--api-ca-file"])
            .arg(deployment.ca_file())
            .args(arguments);
        run(&mut command, b"").await
    };
    let login = underpass(&["login", "--device"]).await;
    assert!(login.status.success(), "{login:?}");
    let said = text(&login.stderr);
    assert!(
        said.contains("/login/device and type the code WDJB-MJHT")
            && said.contains("Iv1.underpass"),
        "{said}"
    );
    assert!(
        said.contains("as github:alice") && !said.contains("gho_"),
        "{said}"
    );
    let who = underpass(&["whoami"]).await;
    assert!(text(&who.stdout).contains("view"), "{who:?}");
    // The provider's token went to the provider and to the server, and is kept by neither of us.
    let saved = home.path().join(".config/underpass/logins");
    for file in std::fs::read_dir(saved).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("gho_"));
    }
    let list = deployment
        .administer(&["token", "list", "--user", "github:alice"])
        .unwrap();
    assert_eq!(list.lines().count(), 2, "{list}");

    // Rule 12: a login ends with its authenticator.
    let tokens = json!({ "authenticators": [{ "name": "tokens", "tokens": {} }] });
    std::fs::write(deployment.authentication_file(), tokens.to_string()).unwrap();
    eventually("the login has ended", async || {
        let who = underpass(&["whoami"]).await;
        if text(&who.stderr).contains("401") {
            Ok(())
        } else {
            Err(who)
        }
    })
    .await;
}

#[tokio::test]
async fn logins_are_in_the_audit_log_and_passwords_nowhere() {
    let person = Person::new("audited-login").await;
    person.log_in(PASSWORD).await;
    let of =
        |uri: &'static str| one_of_ours(person.deployment, move |event| event["requestURI"] == uri);
    let set = of("/v1/users/audited-login/password").await;
    // Others log in at the same time.
    let login = one_of_ours(person.deployment, |event| {
        event["requestURI"] == "/v1/login" && event["user"]["username"] == "audited-login"
    })
    .await;
    assert_eq!(login["verb"], "create", "{login}");
    assert_eq!(login["responseStatus"]["code"], 201, "{login}");
    let grant = login["annotations"]["underpass.dev/grant"].as_str();
    assert!(grant.unwrap().starts_with("until "), "{login}");
    let data = person.deployment.data_dir();
    for name in ["directory.redb", "audit.log"] {
        let bytes = std::fs::read(data.join(name)).unwrap();
        let found = bytes
            .windows(PASSWORD.len())
            .any(|part| part == PASSWORD.as_bytes());
        assert!(!found, "a password in {name}");
    }
    let log = person.deployment.server_log().unwrap();
    assert!(!log.contains(PASSWORD));
    assert!(log.contains("logged in"), "{log}");
    assert_eq!(set["user"]["username"], "underpass:operator");
    assert_eq!(set["verb"], "update");
    assert_eq!(set["objectRef"]["apiGroup"], "underpass.dev");
    assert_eq!(set["objectRef"]["resource"], "users");
    assert_eq!(set["responseStatus"]["code"], 204);
    let annotations = &set["annotations"];
    assert_eq!(annotations["underpass.dev/object"], "user/audited-login");
    assert_eq!(annotations["underpass.dev/grant"], "a new password");
}
