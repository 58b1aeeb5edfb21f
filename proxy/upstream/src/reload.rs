//! The configuration is read again when its files change, or when the API server refuses what was read.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{task::JoinHandle, time::Instant};

use super::{ApiServer, ApiServerError, ApiServerOptions, generation::Generation};
use underpass_core::{BoxError, Exec, files::Stamps, limits};

/// Where the configuration of an API server comes from.
pub trait ConfigSource: std::fmt::Debug + Send + Sync + 'static {
    /// Reads it. May block, and is not called by a task of the runtime.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    fn load(&self) -> Result<kube::Config, BoxError>;

    /// The files that [`load`](Self::load) reads. Those that the configuration itself names (a client certificate and its key,
    /// the CA of a pod) need not be among them.
    fn files(&self) -> Vec<PathBuf>;
}

/// A configuration that stays as it is. The files that it names may change.
impl ConfigSource for kube::Config {
    fn load(&self) -> Result<kube::Config, BoxError> {
        Ok(self.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// The source of a configuration, and the settings beside it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) source: Arc<dyn ConfigSource>,
    pub(super) options: ApiServerOptions,
    pub(super) plugin: Option<Exec>,
}

/// A reading, and the state of its files before it.
pub(super) struct Read {
    generation: Generation,
    stamps: Stamps,
}

impl Reader {
    /// Blocks.
    fn read(&self) -> Result<Read, ApiServerError> {
        let before = Stamps::of(self.source.files());
        let config = self.source.load().map_err(ApiServerError::Source)?;
        let generation = Generation::new(&config, &self.options, self.plugin.as_ref())?;
        // Those that the configuration names are known only now: one that changed meanwhile is read again.
        let stamps = before.and(generation.files());
        Ok(Read { generation, stamps })
    }
}

/// The last reading, and the next.
#[derive(Debug)]
pub(super) struct Reload {
    reader: Arc<Reader>,
    current: Mutex<Arc<Generation>>,
    looking: tokio::sync::Mutex<Looking>,
}

#[derive(Debug)]
struct Looking {
    /// When the files were looked at, or waiting for a reading ended.
    at: Instant,
    /// When the last reading began, or waiting for it ended.
    read: Instant,
    stamps: Stamps,
    /// It goes on where the request that waited for it has gone, so that a plugin that hangs holds one thread.
    reading: Option<JoinHandle<Result<Read, ApiServerError>>>,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").finish_non_exhaustive()
    }
}

impl Reload {
    pub(super) async fn start(reader: Reader) -> Result<Self, ApiServerError> {
        let reader = Arc::new(reader);
        let read = spawn(&reader).await.map_err(ApiServerError::Read)??;
        let looking = Looking {
            at: Instant::now(),
            read: Instant::now(),
            stamps: read.stamps,
            reading: None,
        };
        Ok(Self {
            reader,
            current: Mutex::new(Arc::new(read.generation)),
            looking: tokio::sync::Mutex::new(looking),
        })
    }

    fn current(&self) -> Arc<Generation> {
        let current = self.current.lock();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// The way to the API server for a request that begins now.
    ///
    /// # Cancel safety
    /// May be dropped: another request goes on with what it waited for.
    async fn now(&self) -> Arc<Generation> {
        let mut looking = self.looking.lock().await;
        let current = self.current();
        let refused_plugin = current.is_of_a_refused_plugin();
        let due = match current.is_suspect() {
            _ if refused_plugin => looking.read + limits::EXEC_PAUSE,
            true => looking.at + limits::RELOAD_PAUSE,
            false => looking.at + limits::TOKEN_FILE_AGE,
        };
        if Instant::now() < due {
            return current;
        }
        looking.at = Instant::now();
        if looking.reading.is_none() {
            if !refused_plugin && !looking.stamps.have_changed().await {
                return current;
            }
            looking.read = Instant::now();
            looking.reading = Some(spawn(&self.reader));
        }
        match looking.finish().await {
            Some(generation) => {
                tracing::info!("the configuration for the API server was read again");
                let generation = Arc::new(generation);
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::clone(&generation);
                generation
            }
            None => current,
        }
    }
}

fn spawn(reader: &Arc<Reader>) -> JoinHandle<Result<Read, ApiServerError>> {
    let reader = Arc::clone(reader);
    tokio::task::spawn_blocking(move || reader.read())
}

impl Looking {
    /// Waits for the reading. The last one is kept where it fails: files may be half written.
    async fn finish(&mut self) -> Option<Generation> {
        let reading = self.reading.as_mut()?;
        let read = tokio::time::timeout(limits::EXEC_TIME, reading).await;
        // Those who waited meanwhile do not wait as long again.
        (self.at, self.read) = (Instant::now(), Instant::now());
        let Ok(read) = read else {
            tracing::warn!(
                "reading the configuration for the API server takes long: keeping the last"
            );
            return None;
        };
        self.reading = None;
        match read.map_err(ApiServerError::Read).and_then(|read| read) {
            Ok(read) => {
                self.stamps = read.stamps;
                Some(read.generation)
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the configuration for the API server cannot be read again: keeping the last"
                );
                None
            }
        }
    }
}

impl ApiServer {
    /// The way to the API server for a request that begins now.
    pub(super) async fn generation(&self) -> Arc<Generation> {
        self.reload.now().await
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::endpoint::{ConnectError, Offer};

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
        let reader = Reader {
            source: Arc::new(Folder { config, ca }),
            options: ApiServerOptions::default(),
            plugin: None,
        };
        Reload::start(reader).await.unwrap()
    }

    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    fn same(one: &Arc<Generation>, other: &Arc<Generation>) -> bool {
        Arc::ptr_eq(one, other)
    }

    /// The configuration of a server at a loopback address.
    fn config(port: u16) -> kube::Config {
        kube::Config::new(format!("https://127.0.0.1:{port}").parse().unwrap())
    }

    struct Made {
        certificate: rcgen::Certificate,
        key: rcgen::KeyPair,
    }

    fn make() -> Made {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        Made {
            certificate: made.cert,
            key: made.signing_key,
        }
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
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
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

    /// A plugin whose token has no expiry, and is the number of its runs.
    fn plugin(dir: &Path) -> kube::config::ExecConfig {
        let program = dir.join("plugin");
        let head = r#""apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential""#;
        let script = format!(
            "#!/bin/sh\necho run >> \"${{0%/*}}/runs\"\nn=$(wc -l < \"${{0%/*}}/runs\")\n\
             printf '{{{head},\"status\":{{\"token\":\"%s\"}}}}' $n\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let exec = serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": program.to_str().unwrap(),
            "interactiveMode": "Never",
        });
        serde_json::from_value(exec).unwrap()
    }

    #[tokio::test]
    async fn a_plugin_of_the_kubeconfig_runs_again_after_a_401() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(1);
        config.auth_info.exec = Some(plugin(dir.path()));
        let reload = start(config, None).await;
        let first = reload.now().await;
        let token = first.credential.header().await.unwrap().unwrap();
        pass(Duration::from_secs(3600)).await;
        assert!(same(&first, &reload.now().await), "it was not refused");

        first.refused().await;
        let second = reload.now().await;
        let other = second.credential.header().await.unwrap().unwrap();
        assert_ne!(token, other);
        // Just made: another one would be refused as well.
        second.refused().await;
        assert!(same(&second, &reload.now().await));
        pass(limits::EXEC_PAUSE).await;
        assert!(!same(&second, &reload.now().await));
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_holds_one_thread_and_the_last_token_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(1);
        config.auth_info.exec = Some(plugin(dir.path()));
        let reload = start(config, None).await;
        // It ends when the folder goes.
        fs::write(dir.path().join("hold"), "").unwrap();
        let script = "#!/bin/sh\necho run >> \"${0%/*}/runs\"\n\
                      while [ -e \"${0%/*}/hold\" ]; do sleep 0.02; done\nexit 1\n";
        fs::write(dir.path().join("plugin"), script).unwrap();
        let runs = || {
            let runs = fs::read_to_string(dir.path().join("runs"));
            runs.unwrap().lines().count()
        };
        let before = runs();
        let generation = reload.now().await;
        generation.refused().await;
        pass(limits::EXEC_PAUSE).await;
        for _ in 0..3 {
            let hangs = async {
                while runs() == before {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                pass(limits::EXEC_TIME).await;
            };
            let (now, ()) = tokio::join!(reload.now(), hangs);
            assert!(same(&generation, &now));
            // Others do not wait as long again.
            assert!(same(&generation, &reload.now().await));
            pass(limits::EXEC_PAUSE).await;
        }
        assert_eq!(runs(), before + 1);
    }
}
