use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    endpoint::{ConnectError, Offer},
    testing::{Made, Script, answer, expiry, fifo, make, pass, told, until},
};
use underpass_core::Identity;

/// A kubeconfig's user and CA, in files of a folder.
#[derive(Debug)]
struct Folder {
    config: kube::Config,
    ca: Option<PathBuf>,
}

impl ConfigSource for Folder {
    fn load(&self) -> Result<kube::Config, BoxError> {
        let mut config = self.config.clone();
        if let Some(ca) = &self.ca {
            let ca = CertificateDer::from_pem_file(ca)?;
            config.root_cert = Some(vec![ca.to_vec()]);
        }
        Ok(config)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.ca.iter().cloned().collect()
    }
}

async fn start(config: kube::Config, ca: Option<&Path>) -> Reload {
    let ca = ca.map(Path::to_owned);
    try_start(Folder { config, ca }).await.unwrap()
}

async fn try_start(source: impl ConfigSource) -> Result<Reload, ApiServerError> {
    let reader = Reader {
        source: Arc::new(source),
        options: ApiServerOptions::default(),
        plugin: None,
    };
    Reload::start(reader).await
}

fn same(one: &Arc<Generation>, other: &Arc<Generation>) -> bool {
    Arc::ptr_eq(one, other)
}

/// The configuration of a server at a loopback address.
fn config(port: u16) -> kube::Config {
    kube::Config::new(format!("https://127.0.0.1:{port}").parse().unwrap())
}

/// A server with this certificate, which asks for one of the others.
fn tls(server: &Made, clients: &[&Made]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for client in clients {
        roots.add(client.certificate.der().clone()).unwrap();
    }
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    };
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![server.certificate.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

/// The certificate that a client shows, and whether it trusts the server.
async fn meet(
    generation: &Generation,
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
) -> (Result<(), ConnectError>, Option<CertificateDer<'static>>) {
    let accepting = async {
        let tcp = listener.accept().await.unwrap().0;
        let stream = acceptor.accept(tcp).await.ok()?;
        Some(stream.get_ref().1.peer_certificates()?.first()?.clone())
    };
    let (connected, shown) = tokio::join!(generation.endpoint.connect(Offer::Both), accepting);
    (connected.map(drop), shown)
}

#[tokio::test]
async fn a_client_certificate_that_was_replaced_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (server, first, second) = (make(), make(), make());
    let write = |client: &Made| {
        fs::write(dir.path().join("crt"), client.certificate.pem()).unwrap();
        fs::write(dir.path().join("key"), client.key.serialize_pem()).unwrap();
    };
    write(&first);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = tls(&server, &[&first, &second]);
    let mut config = config(listener.local_addr().unwrap().port());
    config.root_cert = Some(vec![server.certificate.der().to_vec()]);
    let path = |name: &str| Some(dir.path().join(name).to_str().unwrap().to_owned());
    config.auth_info.client_certificate = path("crt");
    config.auth_info.client_key = path("key");
    let reload = start(config, None).await;

    let before = reload.now().await;
    let (_, shown) = meet(&before, &listener, &acceptor).await;
    assert_eq!(shown.as_ref(), Some(first.certificate.der()));
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(same(&before, &reload.now().await), "no file has changed");

    // Half of a replacement: the key is another certificate's.
    fs::write(dir.path().join("crt"), second.certificate.pem()).unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(same(&before, &reload.now().await), "it does not fit");
    write(&second);
    assert!(same(&before, &reload.now().await), "looked at now and then");
    pass(limits::TOKEN_FILE_AGE).await;
    let after = reload.now().await;
    let (connected, shown) = meet(&after, &listener, &acceptor).await;
    connected.unwrap();
    assert_eq!(shown.as_ref(), Some(second.certificate.der()));
}

#[tokio::test]
async fn a_ca_that_was_replaced_is_looked_at_as_soon_as_the_api_server_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let (old, new) = (make(), make());
    fs::write(&ca, old.certificate.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reload = start(config(listener.local_addr().unwrap().port()), Some(&ca)).await;
    let acceptor = tls(&new, &[]);
    let generation = reload.now().await;
    let (connected, _) = meet(&generation, &listener, &acceptor).await;
    assert!(matches!(connected, Err(ConnectError::Tls(_))));
    fs::write(&ca, new.certificate.pem()).unwrap();
    pass(limits::RELOAD_PAUSE).await;
    let generation = reload.now().await;
    meet(&generation, &listener, &acceptor).await.0.unwrap();
}

/// A plugin's token that is the number of its runs.
fn counting() -> String {
    let count = "n=$(wc -l < \"${0%/*}/runs\")\n";
    format!("{count}{}", answer(r#"{"token":"'$n'"}"#))
}

fn with_plugin(script: &Script) -> kube::Config {
    let mut config = config(1);
    config.auth_info.exec = Some(script.of_kubeconfig());
    config
}

#[tokio::test]
async fn a_plugin_of_the_kubeconfig_runs_again_after_a_401() {
    let script = Script::new(&counting());
    let reload = start(with_plugin(&script), None).await;
    let generation = reload.now().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 1");
    pass(Duration::from_secs(3600)).await;
    let generation = reload.now().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 1");

    generation.refused().await;
    let generation = reload.now().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 2");
    // Just made: another one would be refused as well.
    generation.refused().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 2");
    pass(limits::EXEC_PAUSE).await;
    generation.refused().await;
    assert_eq!(generation.header().await.unwrap().unwrap(), "Bearer 3");
}

/// A configuration whose `load` can be changed.
struct Changing {
    config: Arc<Mutex<kube::Config>>,
    file: PathBuf,
}

impl std::fmt::Debug for Changing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changing")
    }
}

impl ConfigSource for Changing {
    fn load(&self) -> Result<kube::Config, BoxError> {
        Ok(self.config.lock().unwrap().clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }
}

#[tokio::test]
async fn a_plugin_outlives_readings_in_which_it_is_the_same() {
    let script = Script::new(&counting());
    let broken = Script::new("echo hunter2; exit 1");
    let file = script.dir.path().join("kubeconfig");
    let config = Arc::new(Mutex::new(with_plugin(&script)));
    let source = Changing {
        config: Arc::clone(&config),
        file: file.clone(),
    };
    let reload = try_start(source).await.unwrap();
    let first = reload.now().await;
    fs::write(&file, "another CA").unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    let second = reload.now().await;
    assert!(!same(&first, &second));
    assert_eq!(second.header().await.unwrap().unwrap(), "Bearer 1");

    // Another one that fails: the last stays in use.
    config.lock().unwrap().auth_info.exec = Some(broken.of_kubeconfig());
    fs::write(&file, "another plugin").unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(same(&second, &reload.now().await));
    assert_eq!(broken.runs().len(), 1);
    assert_eq!(second.header().await.unwrap().unwrap(), "Bearer 1");
}

#[tokio::test]
async fn rule_11_a_plugins_output_and_input_are_in_no_error_and_no_log() {
    let log = crate::testing::Log::start();
    let working = Script::new(&counting());
    let file = working.dir.path().join("kubeconfig");
    for body in [
        "echo hunter2; exit 1",
        "echo hunter2 >&2; exit 1",
        "echo hunter2",
        "echo '{\"kind\": \"hunter2\"}'",
        &answer(r#"{"token":"hunter2\n"}"#),
        &answer(r#"{"token":"hunter2","expirationTimestamp":"hunter2"}"#),
        &answer(r#"{"clientCertificateData":"hunter2","clientKeyData":"hunter2"}"#),
    ] {
        let script = Script::new(body);
        let error = try_start(Folder {
            config: with_plugin(&script),
            ca: None,
        })
        .await;
        let error = error.unwrap_err();
        assert_eq!(script.runs().len(), 1, "once, and it has failed");
        assert!(!told(&error).contains("hunter2"), "{}", told(&error));

        let config = Arc::new(Mutex::new(with_plugin(&working)));
        let source = Changing {
            config: Arc::clone(&config),
            file: file.clone(),
        };
        let reload = try_start(source).await.unwrap();
        config.lock().unwrap().auth_info.exec = Some(script.of_kubeconfig());
        fs::write(&file, body).unwrap();
        pass(limits::TOKEN_FILE_AGE).await;
        reload.now().await;
        assert_eq!(script.runs().len(), 2);
        // `Debug` of an API server shows the reader.
        assert!(!format!("{reload:#?}").contains("hunter2"));
    }
    let config = with_plugin(&working);
    let options = ApiServerOptions::default();
    let api_server = ApiServer::new(config, options).await.unwrap();
    assert!(!format!("{api_server:#?}").contains("hunter2"));
    let logged = log.text();
    assert!(logged.contains("gave no credential"), "{logged}");
    assert!(logged.contains("cannot be read again"), "{logged}");
    assert!(!logged.contains("hunter2"), "{logged}");
}

#[tokio::test]
async fn a_certificate_that_is_replaced_while_it_is_read_is_read_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (server, first, second) = (make(), make(), make());
    fs::write(path("crt"), first.certificate.pem()).unwrap();
    // The certificate is read first: a reader that waits for the key has read it.
    fifo(&path("key"));
    fs::write(path("next"), second.key.serialize_pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = tls(&server, &[&first, &second]);
    let mut config = config(listener.local_addr().unwrap().port());
    config.root_cert = Some(vec![server.certificate.der().to_vec()]);
    let name = |name: &str| Some(path(name).to_str().unwrap().to_owned());
    config.auth_info.client_certificate = name("crt");
    config.auth_info.client_key = name("key");
    let (key, crt) = (path("key"), path("crt"));
    let (next, certificate) = (path("next"), second.certificate.pem());
    let old_key = first.key.serialize_pem();
    let replacing = tokio::task::spawn_blocking(move || {
        let mut writer = OpenOptions::new().write(true).open(&key).unwrap();
        fs::write(crt, certificate).unwrap();
        fs::rename(next, &key).unwrap();
        writer.write_all(old_key.as_bytes()).unwrap();
    });
    let reload = start(config, None).await;
    replacing.await.unwrap();
    let generation = reload.now().await;
    let (connected, shown) = meet(&generation, &listener, &acceptor).await;
    connected.unwrap();
    assert_eq!(shown.as_ref(), Some(second.certificate.der()));
}

/// A configuration whose file is replaced each time that it was loaded.
#[derive(Debug)]
struct Restless {
    config: kube::Config,
    loads: Arc<AtomicUsize>,
    file: PathBuf,
}

impl ConfigSource for Restless {
    fn load(&self) -> Result<kube::Config, BoxError> {
        let loads = self.loads.fetch_add(1, Ordering::Relaxed);
        fs::write(&self.file, "x".repeat(loads + 1))?;
        Ok(self.config.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }
}

#[tokio::test]
async fn files_that_change_while_they_are_read_are_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let loads = Arc::new(AtomicUsize::new(0));
    let source = Restless {
        config: config(1),
        loads: Arc::clone(&loads),
        file: dir.path().join("kubeconfig"),
    };
    let reload = try_start(source).await.unwrap();
    assert_eq!(loads.load(Ordering::Relaxed), READINGS, "and no more");
    let first = reload.now().await;
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(!same(&first, &reload.now().await));
    assert_eq!(loads.load(Ordering::Relaxed), 2 * READINGS);
}

/// A configuration whose file system hangs.
struct Hanging {
    config: kube::Config,
    loads: Arc<AtomicUsize>,
    go_on: Mutex<mpsc::Receiver<()>>,
    file: PathBuf,
}

impl std::fmt::Debug for Hanging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hanging")
    }
}

impl ConfigSource for Hanging {
    fn load(&self) -> Result<kube::Config, BoxError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.go_on.lock().unwrap().recv()?;
        Ok(self.config.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }
}

#[tokio::test]
async fn rule_23_files_that_hang_hold_one_thread_and_the_last_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    let loads = Arc::new(AtomicUsize::new(0));
    // Dropping it ends the wait, so that a test that fails ends.
    let (go, go_on) = mpsc::channel();
    let source = Hanging {
        config: config(1),
        loads: Arc::clone(&loads),
        go_on: Mutex::new(go_on),
        file: file.clone(),
    };
    go.send(()).unwrap();
    let reload = try_start(source).await.unwrap();
    let first = reload.now().await;
    fs::write(&file, "another").unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    for _ in 0..10 {
        let given_up = tokio::time::timeout(Duration::from_millis(10), reload.now()).await;
        given_up.unwrap_err();
    }
    until(|| loads.load(Ordering::Relaxed) == 2).await;
    let (now, ()) = tokio::join!(reload.now(), pass(limits::FILE_TIME));
    assert!(same(&first, &now));
    // Others do not wait as long again.
    assert!(same(&first, &reload.now().await));
    go.send(()).unwrap();
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(!same(&first, &reload.now().await));
    assert_eq!(loads.load(Ordering::Relaxed), 2);
}

/// A plugin's client certificate.
fn certificate(made: &Made, left: Duration) -> String {
    let line = |pem: String| pem.replace('\n', "\\n");
    answer(&format!(
        r#"{{"clientCertificateData":"{}","clientKeyData":"{}","expirationTimestamp":"{}"}}"#,
        line(made.certificate.pem()),
        line(made.key.serialize_pem()),
        expiry(left),
    ))
}

#[tokio::test]
async fn a_client_certificate_of_a_plugin_is_shown_and_replaced() {
    let (server, first, second) = (make(), make(), make());
    let hour = Duration::from_secs(3600);
    let script = Script::new(&certificate(&first, hour));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = tls(&server, &[&first, &second]);
    let mut config = with_plugin(&script);
    let port = listener.local_addr().unwrap().port();
    config.cluster_url = format!("https://127.0.0.1:{port}").parse().unwrap();
    config.root_cert = Some(vec![server.certificate.der().to_vec()]);
    let reload = start(config, None).await;
    let generation = reload.now().await;
    for _ in 0..2 {
        assert_eq!(generation.header().await.unwrap(), None);
        let (connected, shown) = meet(&generation, &listener, &acceptor).await;
        connected.unwrap();
        assert_eq!(shown.as_ref(), Some(first.certificate.der()));
    }
    script.replace(&certificate(&second, hour));
    pass(hour).await;
    generation.header().await.unwrap();
    let (connected, shown) = meet(&generation, &listener, &acceptor).await;
    connected.unwrap();
    assert_eq!(shown.as_ref(), Some(second.certificate.der()));
}

/// A request of a user's, and its answer.
async fn ask(api_server: &ApiServer) -> String {
    let identity = Identity::new("alice".to_owned(), None, vec![], Default::default());
    let identity = identity.unwrap().encode().unwrap();
    let (mut front, io) = tokio::io::duplex(64 * 1024);
    let asking = async {
        let request = "GET /api/v1/pods HTTP/1.1\r\nhost: h\r\n\r\n";
        front.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        front.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let serving = api_server.serve_stream(io, &identity);
    tokio::join!(asking, serving).0
}

#[tokio::test]
async fn rule_23_a_plugin_that_hangs_is_answered_for() {
    let left = limits::EXEC_EARLY * 2;
    let body = format!(
        r#"{{"token":"t","expirationTimestamp":"{}"}}"#,
        expiry(left)
    );
    let script = Script::new(&answer(&body));
    let config = with_plugin(&script);
    let options = ApiServerOptions::default();
    let api_server = ApiServer::new(config, options).await.unwrap();
    // Nothing listens there, which is found with the token.
    let there = ask(&api_server).await;
    assert!(there.starts_with("HTTP/1.1 502"), "{there}");
    assert!(there.contains("cannot connect"), "{there}");
    script.replace("sleep 600");
    pass(left).await;
    for _ in 0..10 {
        let given_up = tokio::time::timeout(Duration::from_millis(100), ask(&api_server)).await;
        given_up.unwrap_err();
        assert!(script.alive() <= 1);
    }
    until(|| script.runs().len() == 2).await;
    let (late, ()) = tokio::join!(ask(&api_server), pass(limits::EXEC_TIME));
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    assert!(late.contains("the credential plugin"), "{late}");
    until(|| script.alive() == 0).await;
    // For a while the failure is the answer.
    let soon = ask(&api_server).await;
    assert!(soon.starts_with("HTTP/1.1 504"), "{soon}");
    assert_eq!(script.runs().len(), 2);
}
