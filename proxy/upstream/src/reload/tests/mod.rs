mod plugins;

use std::{
    fs,
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    endpoint::{ConnectError, Offer},
    testing::{Made, make, pass, until},
};

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

/// A configuration whose certificate is replaced behind its first reading, before the files are looked at again.
#[derive(Debug)]
struct Replaced {
    config: kube::Config,
    looks: AtomicUsize,
    files: [(PathBuf, String); 2],
}

impl ConfigSource for Replaced {
    fn load(&self) -> Result<kube::Config, BoxError> {
        Ok(self.config.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        if self.looks.fetch_add(1, Ordering::Relaxed) == 1 {
            for (path, text) in &self.files {
                fs::write(path, text).unwrap();
            }
        }
        Vec::new()
    }
}

#[tokio::test]
async fn a_certificate_that_is_replaced_while_it_is_read_is_read_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (server, first, second) = (make(), make(), make());
    fs::write(path("crt"), first.certificate.pem()).unwrap();
    fs::write(path("key"), first.key.serialize_pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = tls(&server, &[&first, &second]);
    let mut config = config(listener.local_addr().unwrap().port());
    config.root_cert = Some(vec![server.certificate.der().to_vec()]);
    let name = |name: &str| Some(path(name).to_str().unwrap().to_owned());
    config.auth_info.client_certificate = name("crt");
    config.auth_info.client_key = name("key");
    let source = Replaced {
        config,
        looks: AtomicUsize::new(0),
        files: [
            (path("crt"), second.certificate.pem()),
            (path("key"), second.key.serialize_pem()),
        ],
    };
    let reload = try_start(source).await.unwrap();
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
    let looking = async || {
        let looking = reload.looking.lock().await;
        looking
            .look
            .as_ref()
            .is_some_and(|look| !look.task.is_finished())
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while looking().await {
        assert!(
            std::time::Instant::now() < deadline,
            "the look does not end"
        );
        tokio::task::yield_now().await;
    }
    pass(limits::TOKEN_FILE_AGE).await;
    assert!(!same(&first, &reload.now().await));
    assert_eq!(loads.load(Ordering::Relaxed), 2);
}

/// The path may lead to another file system than the one that hangs.
#[tokio::test]
async fn rule_23_a_look_at_files_that_hangs_is_given_up_and_another_begins() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    let loads = Arc::new(AtomicUsize::new(0));
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
    for looks in 1..=limits::STUCK_READINGS {
        pass(limits::FILE_GIVEN_UP).await;
        let waiting = async {
            until(|| loads.load(Ordering::Relaxed) == 1 + looks).await;
            pass(limits::FILE_TIME).await;
        };
        let (now, ()) = tokio::join!(reload.now(), waiting);
        assert!(same(&first, &now));
    }
    // A thread of each is left, and no more than these.
    pass(limits::FILE_GIVEN_UP).await;
    assert!(same(&first, &reload.now().await));
    assert_eq!(loads.load(Ordering::Relaxed), 1 + limits::STUCK_READINGS);
}
