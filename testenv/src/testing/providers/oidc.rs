//! A real OpenID Connect provider: the certified one of the npm registry.

use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;

use super::installed::installed;
use super::program::{CERTIFICATE, KEY, Program, find};

/// A running provider with the clients `underpass` (RS256), `underpass-es256` and `other`.
#[derive(Debug)]
pub struct OidcProvider {
    program: Program,
    issuer: String,
    https: Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl OidcProvider {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let program = Program::new("oidc-provider");
        let modules = tokio::task::spawn_blocking(modules).await.unwrap();
        // Node finds modules beside the script.
        let script = modules.join("provider.js");
        let node = find("node");
        program.run(&[
            &node.to_string_lossy(),
            &script.to_string_lossy(),
            CERTIFICATE,
            KEY,
        ]);
        let issuer = program.line("https://").await;
        let https = client(&program.ca);
        Self {
            program,
            issuer,
            https,
        }
    }

    /// The issuer's URL.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The CA that signed the provider's certificate, as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.program.ca
    }

    /// The file of that CA.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.program.dir.join(super::program::CA)
    }

    /// An ID token for a client, with these claims, that expires after so many seconds.
    pub async fn token(&self, client: &str, claims: &Value, seconds: i64) -> String {
        let encode =
            |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
        let body = format!(
            "grant_type=urn:underpass:testenv&client_id={client}&client_secret=not-a-secret&claims={}&ttl={seconds}",
            encode(&claims.to_string()),
        );
        let answer = self.post("/token", body).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["id_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}\n{}", self.program.log()))
            .to_owned()
    }

    /// The provider's document at a path.
    pub async fn document(&self, path: &str) -> Value {
        let request = http::Request::get(format!("{}{path}", self.issuer));
        let answer = self.send(request, String::new()).await;
        serde_json::from_str(&answer).unwrap()
    }

    /// Replaces the signing keys; the old ones are published no longer.
    pub async fn rotate(&self) {
        self.post("/testenv/rotate", String::new()).await;
    }

    /// Replaces the signing keys by others of the same names.
    pub async fn rekey(&self) {
        self.post("/testenv/rekey", String::new()).await;
    }

    /// From now on it takes requests and answers none.
    pub async fn hang(&self) {
        self.post("/testenv/hang", String::new()).await;
    }

    /// It answers again.
    pub async fn resume(&self) {
        self.post("/testenv/resume", String::new()).await;
    }

    /// How often its keys were fetched.
    pub async fn fetches(&self) -> u64 {
        let count = self.post("/testenv/fetches", String::new()).await;
        count.parse().unwrap()
    }

    /// Ends it; its port refuses connections from then on.
    pub fn kill(&self) {
        self.program.kill();
    }

    async fn post(&self, path: &str, body: String) -> String {
        let request = http::Request::post(format!("{}{path}", self.issuer))
            .header("content-type", "application/x-www-form-urlencoded");
        self.send(request, body).await
    }

    async fn send(&self, request: http::request::Builder, body: String) -> String {
        let request = request.body(Full::from(body)).unwrap();
        let response = tokio::time::timeout(crate::testing::DEADLINE, self.https.request(request));
        let response = response.await.expect("an answer in time").unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

fn client(ca: &str) -> Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new()).build(connector)
}

/// The folder with the provider and what it needs: the lock file pins every package by its hash.
fn modules() -> PathBuf {
    const FILES: [&str; 3] = ["package.json", "package-lock.json", "provider.js"];
    let mut npm = Command::new(find("npm"));
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    installed("oidc", &FILES, &mut npm)
}
