use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use underpass_https::Roots;
use zeroize::Zeroizing;

use super::*;

/// A request: method, path and query, and headers.
type Asked = (Method, String, HeaderMap);

/// A server that keeps what it is asked, and answers from a table of `METHOD PATH`.
#[derive(Clone, Default)]
struct Stub {
    answers: Arc<BTreeMap<String, (StatusCode, Vec<u8>)>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    fn new<const N: usize>(answers: [(&str, u16, Value); N]) -> Self {
        let answers = answers.into_iter().map(|(asked, status, body)| {
            let status = StatusCode::from_u16(status).unwrap();
            (asked.to_owned(), (status, body.to_string().into_bytes()))
        });
        Self {
            answers: Arc::new(answers.collect()),
            asked: Arc::default(),
        }
    }

    async fn serve<I: AsyncRead + AsyncWrite + Unpin>(self, io: I) {
        let service = service_fn(|request: Request<Incoming>| {
            let asked = format!("{} {}", request.method(), request.uri());
            let condition = request.headers().get(IF_NONE_MATCH);
            let (status, body) = match self.answers.get(&asked) {
                // Of an object that is there.
                Some(_) if condition.is_some() => (StatusCode::CONFLICT, Vec::new()),
                Some(answer) => answer.clone(),
                None => (StatusCode::NOT_FOUND, b"<html>".to_vec()),
            };
            self.asked.lock().unwrap().push((
                request.method().clone(),
                request.uri().to_string(),
                request.headers().clone(),
            ));
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        // The client closes the connection as soon as it has the answer.
        let _ = connection.serve_connection(TokioIo::new(io), service).await;
    }

    /// Serves at a socket. The folder goes with the test.
    fn at_socket(&self) -> (Client, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stub = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(stub.clone().serve(stream));
            }
        });
        (Client::at_socket(path), folder)
    }

    /// Serves HTTPS at a free port, and gives the URL and the CA.
    async fn over_https(&self) -> (String, Roots) {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let roots = Roots::from_pem(key.cert.pem().as_bytes()).unwrap();
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], PrivateKeyDer::from(private))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(("localhost", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stub = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(stub.clone().serve(stream));
                }
            }
        });
        (format!("https://localhost:{port}"), roots)
    }

    fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().unwrap()
    }
}

#[tokio::test]
async fn a_list_is_all_of_its_pages() {
    let stub = Stub::new([
        (
            "GET /v1/users?x=1",
            200,
            json!({"items": ["a"], "next": "a b"}),
        ),
        (
            "GET /v1/users?x=1&after=a%20b",
            200,
            json!({"items": ["c"]}),
        ),
    ]);
    let (client, _folder) = stub.at_socket();
    let users: Vec<String> = client.list("/v1/users?x=1").await.unwrap();
    assert_eq!(users, ["a", "c"]);
}

#[tokio::test]
async fn a_list_that_goes_on_for_ever_is_an_error() {
    let (again, nothing) = ("/v1/again", "/v1/nothing");
    let stub = Stub::new([
        ("GET /v1/again", 200, json!({"items": ["a"], "next": "t"})),
        (
            "GET /v1/again?after=t",
            200,
            json!({"items": ["a"], "next": "t"}),
        ),
        ("GET /v1/nothing", 200, json!({"items": [], "next": "t"})),
    ]);
    let (client, _folder) = stub.at_socket();
    for path in [again, nothing] {
        let error = client.list::<String>(path).await.unwrap_err();
        assert!(matches!(error, ClientError::Endless), "{error:?}");
    }
}

#[tokio::test]
async fn a_change_says_what_it_expects() {
    let stub = Stub::new([
        ("PUT /v1/groups/a", 200, json!("put")),
        ("DELETE /v1/groups/a", 204, json!(null)),
    ]);
    let (client, _folder) = stub.at_socket();
    let done: String = client
        .make_or_replace("/v1/groups/a", &json!({}))
        .await
        .unwrap();
    assert_eq!(done, "put");
    let (_, _, headers) = stub.last();
    assert_eq!(headers[IF_MATCH], "*");
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    let unchanged = Match::Unchanged(Revision(7));
    client.delete("/v1/groups/a", unchanged).await.unwrap();
    let (method, _, headers) = stub.last();
    assert_eq!(
        (method, &headers[IF_MATCH]),
        (Method::DELETE, &HeaderValue::from_static("\"7\""))
    );
    assert!(
        !headers.contains_key(AUTHORIZATION),
        "the operator has no credential"
    );
    client
        .delete("/v1/groups/a", Match::Anything)
        .await
        .unwrap();
    assert!(!stub.last().2.contains_key(IF_MATCH));
}

#[tokio::test]
async fn a_problem_is_the_servers_own() {
    let problem = json!({"status": 403, "title": "Forbidden", "detail": "not you"});
    let stub = Stub::new([
        ("GET /v1/self", 403, problem),
        ("GET /v1/server", 200, json!(7)),
    ]);
    let (client, _folder) = stub.at_socket();
    let error = client.get::<Value>("/v1/self").await.unwrap_err();
    assert!(error.is(StatusCode::FORBIDDEN));
    assert_eq!(error.problem().unwrap().detail, "not you");
    let error = client.get::<Value>("/nowhere").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Status(StatusCode::NOT_FOUND)),
        "{error}"
    );
    let error = client.get::<String>("/v1/server").await.unwrap_err();
    assert!(matches!(error, ClientError::Answer(_)), "{error}");
    let error = client.get::<Value>("v1/server").await.unwrap_err();
    assert!(matches!(error, ClientError::Path(_)), "{error}");
}

#[tokio::test]
async fn no_server_is_told_from_one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let ask = async || Client::at_socket(&path).get::<Value>("/v1/self").await;
    assert!(matches!(ask().await, Err(ClientError::NoServer(_))));
    // A crash leaves the file behind.
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(ask().await, Err(ClientError::NoServer(_))));
    let long = folder.path().join("x".repeat(120)).join("api.sock");
    let error = Client::at_socket(&long).get::<Value>("/v1/self").await;
    assert!(matches!(error, Err(ClientError::NoServer(_))));
    std::fs::create_dir(long.parent().unwrap()).unwrap();
    let error = Client::at_socket(&long).get::<Value>("/v1/self").await;
    assert!(matches!(error, Err(ClientError::NoServer(_))));
    let listener = SocketAddress::new(&long).unwrap();
    let listener = tokio::net::UnixListener::bind(listener.path()).unwrap();
    let stub = Stub::new([("GET /v1/self", 200, json!(1))]);
    tokio::spawn(async move { stub.serve(listener.accept().await.unwrap().0).await });
    let answer = Client::at_socket(&long).get::<u8>("/v1/self").await;
    assert_eq!(answer.unwrap(), 1);
}

#[tokio::test]
async fn a_servers_certificate_is_of_the_ca_that_was_given() {
    let stub = Stub::new([("GET /v1/self", 200, json!("me"))]);
    let (url, roots) = stub.over_https().await;
    let token = Credential::Bearer(Zeroizing::new("upt_secret".to_owned()));
    let server = Server::new(&url, &roots, None, &token).unwrap();
    assert_eq!(server.url(), url);
    assert!(!format!("{server:?} {token:?}").contains("upt_secret"));
    let me: String = Client::at(server).get("/v1/self").await.unwrap();
    assert_eq!(me, "me");
    assert_eq!(stub.last().2[AUTHORIZATION], "Bearer upt_secret");
    assert_eq!(stub.last().2[HOST].to_str().unwrap(), &url[8..]);
    let (_, others) = Stub::default().over_https().await;
    let server = Server::new(&url, &others, None, &token).unwrap();
    let error = Client::at(server)
        .get::<Value>("/v1/self")
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Tls(..)), "{error}");
}

#[tokio::test]
async fn a_login_shows_a_name_and_a_password() {
    let stub = Stub::new([("GET /v1/login", 200, json!(1))]);
    let (url, roots) = stub.over_https().await;
    let login = Credential::Password {
        user: "alice".to_owned(),
        password: Zeroizing::new("hunter2".to_owned()),
    };
    let server = Server::new(&url, &roots, None, &login).unwrap();
    Client::at(server).get::<u8>("/v1/login").await.unwrap();
    assert_eq!(stub.last().2[AUTHORIZATION], "Basic YWxpY2U6aHVudGVyMg==");
}

#[test]
fn a_server_is_an_https_origin() {
    let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let roots = Roots::from_pem(ca.cert.pem().as_bytes()).unwrap();
    for good in [
        "https://u",
        "https://u:1/",
        "https://[::1]:8443",
        "https://10.0.0.1",
    ] {
        Server::new(good, &roots, None, &Credential::None).unwrap();
    }
    for bad in [
        "",
        "u",
        "http://u",
        "https://u/x",
        "https://u?x",
        "https://a:b@u",
        "https://u#x",
    ] {
        let error = Server::new(bad, &roots, None, &Credential::None).unwrap_err();
        assert!(matches!(error, ServerError::Url(_)), "{bad}");
    }
    let odd = Credential::Bearer(Zeroizing::new("a\nb".to_owned()));
    let error = Server::new("https://u", &roots, None, &odd).unwrap_err();
    assert!(matches!(error, ServerError::Credential), "{error}");
}
