//! GitHub, as far as authenticating by it goes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Organizations of alice: more than a page.
const ORGANIZATIONS: usize = 150;

/// A server that speaks GitHub's documented API, below `/api/v3` as GitHub Enterprise Server does, and its device login.
#[derive(Debug)]
pub struct FakeGitHub {
    address: SocketAddr,
    ca: String,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Path, query and `Authorization` of each request.
    seen: Mutex<Vec<String>>,
    /// How often the device's token was asked for.
    polls: AtomicUsize,
}

impl FakeGitHub {
    /// Starts it on a port of its own. It ends when it is dropped.
    pub async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, state) = (tls.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(io) = tls.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(|request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(answer(request, address, &state).await) }
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(io), service)
                        .await;
                });
            }
        });
        Self {
            address,
            ca: made.cert.pem(),
            state,
            _serving: serving,
        }
    }

    /// Where it is: `https://localhost:PORT`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate that it shows, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// How often a device login was asked after.
    pub fn polls(&self) -> usize {
        self.state.polls.load(Ordering::Relaxed)
    }

    /// Path, query and `Authorization` of each request.
    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }
}

/// The client id of the one app whose tokens can be checked. Its secret is `app-secret`.
const APP: &str = "Iv1.underpass";

fn respond(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A 403 with one header of GitHub's.
fn forbidden(name: &'static str, value: &'static str) -> Response<Full<Bytes>> {
    let mut response = respond(403, &json!({ "message": "Forbidden" }));
    let value = header::HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
    response
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    state: &State,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let authorization = authorization.map(|line| line.to_str().unwrap().to_owned());
    let authorization = authorization.unwrap_or_default();
    state
        .seen
        .lock()
        .unwrap()
        .push(format!("{path}?{query} {authorization}"));
    if path.starts_with("/login/") {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let page = format!("https://localhost:{}/login/device", address.port());
        return device(&path, str::from_utf8(&body).unwrap(), &page, state);
    }
    if path.starts_with("/api/v3/applications/") {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        return check(&path, &authorization, &body);
    }
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let base = format!("https://localhost:{}/api/v3", address.port());
    rest(&path, &query, token, &base)
}

fn rest(path: &str, query: &str, token: &str, base: &str) -> Response<Full<Bytes>> {
    let bad = json!({ "message": "Bad credentials", "status": "401" });
    let page = |name: &str| query.split('&').any(|pair| pair == name);
    let organization = |n: usize| json!({ "login": format!("Org-{n}"), "id": n });
    let linked = |body: &Value, url: String| {
        let mut response = respond(200, body);
        let link = format!("<{base}/x?page=1>; rel=\"prev\", <{url}>; rel=\"next\"");
        response
            .headers_mut()
            .insert(header::LINK, link.parse().unwrap());
        response
    };
    let kind = token.rsplit('_').next().unwrap_or_default();
    match (path, kind) {
        (_, "limited") => {
            let mut response = respond(403, &json!({ "message": "API rate limit exceeded" }));
            let headers = response.headers_mut();
            headers.insert("x-ratelimit-remaining", "0".parse().unwrap());
            response
        }
        (_, "broken") => respond(502, &json!({})),
        (_, "moved") => {
            let mut response = respond(302, &json!({}));
            let elsewhere = format!("{base}/elsewhere").parse().unwrap();
            response.headers_mut().insert(header::LOCATION, elsewhere);
            response
        }
        (
            "/api/v3/user",
            "alice" | "outsider" | "astray" | "endless" | "unscoped" | "sso" | "slowed"
            | "finegrained",
        ) => respond(200, &json!({ "login": kind, "id": 7, "site_admin": true })),
        ("/api/v3/user/orgs", "unscoped") => forbidden("x-oauth-scopes", "repo:status, gist"),
        ("/api/v3/user/orgs", "sso") => forbidden(
            "x-github-sso",
            "required; url=https://github.com/orgs/a/sso",
        ),
        // Secondary limits may name no time, and no token.
        ("/api/v3/user", "hasty") | ("/api/v3/user/orgs", "slowed") => {
            forbidden("x-oauth-scopes", "read:org, gist")
        }
        ("/api/v3/user/orgs", "finegrained") => forbidden("x-github-media-type", "github.v3"),
        ("/api/v3/user/orgs", "outsider") => respond(200, &json!([{ "login": "Other" }])),
        ("/api/v3/user/orgs", "astray") => linked(
            &json!([organization(0)]),
            "https://attacker.example/user/orgs".to_owned(),
        ),
        ("/api/v3/user/orgs", "endless") => linked(
            &json!([organization(0)]),
            format!("{base}/user/orgs?per_page=100"),
        ),
        ("/api/v3/user/orgs", "alice") if page("page=2") => {
            let rest: Vec<_> = (100..ORGANIZATIONS).map(organization).collect();
            respond(200, &json!(rest))
        }
        ("/api/v3/user/orgs", "alice") if page("per_page=100") => {
            let first: Vec<_> = (0..100).map(organization).collect();
            linked(
                &json!(first),
                format!("{base}/user/orgs?per_page=100&page=2"),
            )
        }
        ("/api/v3/user/teams", "alice") => respond(
            200,
            &json!([
                { "slug": "sre", "name": "S R E", "organization": organization(149) },
                { "slug": "sre", "name": "x", "organization": organization(5) },
            ]),
        ),
        _ => respond(401, &bad),
    }
}

/// "Check a token": the app [`APP`] got `gho_alice` and `ghu_alice` for their user; nothing else is its token.
fn check(path: &str, authorization: &str, body: &[u8]) -> Response<Full<Bytes>> {
    // `Iv1.underpass:app-secret`
    if authorization != "Basic SXYxLnVuZGVycGFzczphcHAtc2VjcmV0" {
        return respond(
            401,
            &json!({ "message": "Bad credentials", "status": "401" }),
        );
    }
    assert_eq!(path, format!("/api/v3/applications/{APP}/token"));
    let body: Value = serde_json::from_slice(body).unwrap();
    match body["access_token"].as_str().unwrap() {
        token @ ("gho_alice" | "ghu_alice") => respond(
            200,
            &json!({
                "id": 1, "token": token, "scopes": ["read:org"],
                "app": { "name": "Underpass", "client_id": APP },
                "user": { "login": "alice", "id": 7 },
            }),
        ),
        _ => respond(404, &json!({ "message": "Not Found", "status": "404" })),
    }
}

/// RFC 8628, as GitHub documents it: errors are 200. The app `declined` is never confirmed, and the page of the app `astray` is
/// on another server.
fn device(path: &str, body: &str, page: &str, state: &State) -> Response<Full<Bytes>> {
    let has = |pair: &str| body.split('&').any(|sent| sent == pair);
    if path == "/login/device/code" {
        assert!(has("scope=read:org"), "{body}");
        let declined = has("client_id=declined");
        return respond(
            200,
            &json!({
                "device_code": if declined { "no/code" } else { "a/code" },
                "user_code": "WDJB-MJHT",
                "verification_uri": if has("client_id=astray") { "https://github.com/login/device" } else { page },
                "expires_in": 900,
                "interval": 1,
            }),
        );
    }
    assert!(
        has("grant_type=urn:ietf:params:oauth:grant-type:device_code"),
        "{body}"
    );
    if has("device_code=no%2Fcode") {
        return respond(200, &json!({ "error": "access_denied" }));
    }
    assert!(has("device_code=a%2Fcode"), "{body}");
    match state.polls.fetch_add(1, Ordering::Relaxed) {
        0 => respond(200, &json!({ "error": "authorization_pending" })),
        1 => respond(200, &json!({ "error": "slow_down", "interval": 2 })),
        _ => respond(
            200,
            &json!({ "access_token": "gho_alice", "token_type": "bearer", "scope": "read:org" }),
        ),
    }
}
