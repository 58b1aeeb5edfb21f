//! A server that gives logins, renews them and takes them back as the real one does, and remembers what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A server at a port of its own. It ends when it is dropped.
pub(crate) struct Stub {
    pub(crate) url: String,
    pub(crate) ca: tempfile::NamedTempFile,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// The answer to `GET /v1/login`.
    ways: Mutex<Value>,
    /// The answer to `GET /v1/server`; an older server has none.
    server: Mutex<Option<Value>>,
    tokens: Mutex<Tokens>,
    /// Renewals are answered once it has a permit.
    renewing: Option<Semaphore>,
}

#[derive(Default)]
struct Tokens {
    refusing: bool,
    made: usize,
    renewals: usize,
    /// Credentials of logins that are no tokens of this server.
    credentials: Vec<String>,
    live: BTreeMap<String, Token>,
}

#[derive(Clone)]
struct Token {
    user: String,
    parent: Option<String>,
}

/// Whether renewals are answered at once, or when [`Stub::answer_renewals`] says so, or when a second one is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewals {
    AtOnce,
    Held,
}

impl Stub {
    pub(crate) async fn start(renewals: Renewals) -> Self {
        Self::with_names(renewals, &["localhost", "underpass.example"]).await
    }

    /// One with a certificate of these names.
    pub(crate) async fn with_names(renewals: Renewals, names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
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
        let port = listener.local_addr().unwrap().port();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), made.cert.pem()).unwrap();
        let state = Arc::new(State {
            renewing: (renewals == Renewals::Held).then(|| Semaphore::new(0)),
            ..State::default()
        });
        let shared = Arc::clone(&state);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, state) = (tls.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    let Ok(io) = tls.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(|request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    let connection = http1::Builder::new();
                    // The client closes the connection as soon as it has the answer.
                    let _ = connection.serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        Self {
            url: format!("https://localhost:{port}"),
            ca,
            state,
            _serving: serving,
        }
    }

    /// Offers logins with a code.
    pub(crate) fn offer(&self, provider: &str, ca_pem: &str, client_id: &str) {
        let way = json!({ "url": provider, "clientId": client_id, "caPem": ca_pem });
        *self.state.ways.lock().unwrap() = json!({ "device": way });
    }

    /// Says that clusters have names below this domain in TLS.
    pub(crate) fn name_clusters(&self, tls_domain: &str) {
        let server = json!({
            "url": self.url, "caPem": "", "caPin": "", "version": "", "tlsClusterDomain": tls_domain,
        });
        *self.state.server.lock().unwrap() = Some(server);
    }

    /// Refuses every login from now on, with the credential in hand.
    pub(crate) fn refuse_logins(&self) {
        self.state.tokens.lock().unwrap().refusing = true;
    }

    /// Answers the renewals that are held, and every later one.
    pub(crate) fn answer_renewals(&self) {
        self.state.renewing.as_ref().unwrap().add_permits(1000);
    }

    pub(crate) fn renewals(&self) -> usize {
        self.state.tokens.lock().unwrap().renewals
    }

    /// The credentials that it was sent by who logged in.
    pub(crate) fn credentials(&self) -> Vec<String> {
        self.state.tokens.lock().unwrap().credentials.clone()
    }

    /// The users of the tokens that work, in the order in which these were made.
    pub(crate) fn live(&self) -> Vec<String> {
        let tokens = self.state.tokens.lock().unwrap();
        tokens
            .live
            .values()
            .map(|token| token.user.clone())
            .collect()
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let credential = request.headers().get(AUTHORIZATION);
        let credential = credential.map(|line| line.to_str().unwrap().to_owned());
        let credential = credential.unwrap_or_default();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        request.into_body().collect().await.unwrap();
        match (method, path.as_str()) {
            (Method::GET, "/v1/login") => respond(200, &self.ways.lock().unwrap()),
            (Method::GET, "/v1/server") => match &*self.server.lock().unwrap() {
                Some(server) => respond(200, server),
                None => refuse(404),
            },
            // Of a cluster, for a stranger.
            (Method::GET, "/version") => refuse(401),
            (Method::POST, "/v1/login") => self.log_in(&credential).await,
            (Method::POST, "/v1/access") => {
                let mut tokens = self.tokens.lock().unwrap();
                let Some((id, _)) = tokens.caller(&credential) else {
                    return refuse(401);
                };
                let token = tokens.make("robot", Some(id));
                respond(
                    200,
                    &json!({ "made": false, "granted": [], "token": token }),
                )
            }
            (Method::DELETE, path) => {
                let id = path.strip_prefix("/v1/tokens/").unwrap_or_default();
                let mut tokens = self.tokens.lock().unwrap();
                let Some((_, caller)) = tokens.caller(&credential) else {
                    return refuse(401);
                };
                // Administrators see others' tokens as well; alice is one.
                let visible = |token: &Token| token.user == caller.user || caller.user == "alice";
                if !tokens.live.get(id).is_some_and(visible) {
                    return refuse(404);
                }
                tokens.remove(id);
                Response::builder()
                    .status(204)
                    .body(Full::default())
                    .unwrap()
            }
            _ => refuse(404),
        }
    }

    async fn log_in(&self, credential: &str) -> Response<Full<Bytes>> {
        let renewed = {
            let mut tokens = self.tokens.lock().unwrap();
            let caller = tokens.caller(credential);
            tokens.renewals += usize::from(caller.is_some());
            if tokens.renewals > 1
                && let Some(renewing) = &self.renewing
            {
                renewing.add_permits(1000);
            }
            caller
        };
        if let (Some(_), Some(renewing)) = (&renewed, &self.renewing) {
            renewing.acquire().await.unwrap().forget();
        }
        let mut tokens = self.tokens.lock().unwrap();
        let made = match renewed {
            Some((id, token)) => tokens.make(&token.user, Some(id)),
            None => {
                tokens.credentials.push(credential.to_owned());
                if tokens.refusing {
                    return refuse(401);
                }
                let user = match credential {
                    // `bob:password`
                    "Basic Ym9iOnBhc3N3b3Jk" => "bob",
                    _ => "alice",
                };
                tokens.make(user, None)
            }
        };
        respond(201, &made)
    }
}

impl Tokens {
    fn caller(&self, credential: &str) -> Option<(String, Token)> {
        let id = credential.strip_prefix("Bearer upt_")?;
        Some((id.to_owned(), self.live.get(id)?.clone()))
    }

    /// Makes a token. One of a login is past its half-life, so that it is renewed at its first use.
    fn make(&mut self, user: &str, parent: Option<String>) -> Value {
        self.made += 1;
        let id = format!("{:04}", self.made);
        let now = OffsetDateTime::now_utc();
        let age = match parent {
            None => Duration::hours(8),
            Some(_) => Duration::ZERO,
        };
        let at = |time: OffsetDateTime| time.format(&Rfc3339).unwrap();
        let made = json!({
            "token": format!("upt_{id}"),
            "about": {
                "id": id, "revision": 1, "user": user,
                "created": at(now - age),
                "expires": at(now - age + Duration::hours(12)),
                "renewableUntil": at(now + Duration::days(7)),
            },
        });
        let user = user.to_owned();
        self.live.insert(id, Token { user, parent });
        made
    }

    /// Removes a token, and those that were made with it.
    fn remove(&mut self, id: &str) {
        self.live.remove(id);
        let children = self.live.iter();
        let children = children.filter(|(_, token)| token.parent.as_deref() == Some(id));
        let children: Vec<_> = children.map(|(id, _)| id.clone()).collect();
        for child in children {
            self.remove(&child);
        }
    }
}

fn respond(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn refuse(status: u16) -> Response<Full<Bytes>> {
    let body =
        json!({ "status": status, "title": "Refused", "detail": format!("refused: {status}") });
    respond(status, &body)
}
