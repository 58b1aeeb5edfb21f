//! The server, put together and listening.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use quinn::Endpoint;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_api::ServerInfo;
use underpass_audit::AuditLog;
use underpass_authenticate::{CertificateRequest, Passwords, Step};
use underpass_core::{ImpersonationPolicy, Networks};
use underpass_direct::{DirectClusters, Plugins};
use underpass_directory::{Directory, Store};
use underpass_gateway::{
    AccessReviews, BudgetConfig, Budgets, Front, FrontConfig, StrangerBounds, Strangers,
};
use underpass_tunnel::transport::quic::QuicConfig;
use underpass_tunnel::{Acceptor, AcceptorConfig, ResumeWindow};

use crate::api::{Api, Logins};
use crate::audit;
use crate::authentication::{Authentication, Surroundings};
use crate::data_dir::DataDir;
use crate::directory;
use crate::files;
use crate::first_administrator;
use crate::http::{Http, Readiness};
use crate::limits;
use crate::listen::{self, Door, Sockets};
use crate::metrics::Metrics;
use crate::pki::{Ca, ServerCertificate};
use crate::proxies::TrustedProxies;
use crate::router::ClusterRouter;
use crate::secrets;
use crate::socket::Socket;
use crate::supervise::{Ended, Supervisor};
use crate::tunnel::{Keys, Tunnel};

/// The file of the data directory with the server's URL, for programs that start a server with port 0.
const URL: &str = "url";

/// The settings of a server. [`ServerConfig::new`] has the defaults of `underpass-server serve`.
#[derive(Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Folder of the server's files: its CA, its directory, its socket. It is made where there is none, and closed to others.
    pub data_dir: PathBuf,
    /// Address for HTTPS (TCP) and QUIC (UDP); port 0 is a free one.
    pub listen: SocketAddr,
    /// DNS names and addresses of the server, for its certificate. Kubeconfigs have the first.
    pub names: Vec<String>,
    /// Port of the server for users, where it is not the one that it listens on.
    pub public_port: Option<u16>,
    /// Networks of load balancers that begin each connection with a PROXY protocol header.
    pub proxy_protocol_from: Networks,
    /// Networks of load balancers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// The store of the directory; the embedded one, in the data directory, without it.
    pub store: Option<Arc<dyn Store>>,
    /// File with the authenticators, read again when it changes. Without it, the server takes its own tokens.
    pub authentication: Option<PathBuf>,
    /// Authenticators of the embedder's, asked behind those of the file. Their names must differ from those.
    pub authenticators: Vec<Step>,
    /// File with the first administrator's token; `admin.token` in the data directory without it.
    pub admin_token_file: Option<PathBuf>,
    /// Files with the keys that seal credentials in the directory; `secrets.key` in the data directory without any.
    pub secrets_key_files: Vec<PathBuf>,
    /// Credential plugins that clusters without an agent may run.
    pub plugins: Plugins,
    /// How long streams wait for an agent whose connection is lost.
    pub resume_window: ResumeWindow,
    /// Where it is written who did what.
    pub audit: AuditLog,
    /// How much each user and each cluster may have in flight.
    pub budgets: BudgetConfig,
    /// How QUIC uses the machine.
    pub quic: QuicConfig,
    /// The recorder of this process's metrics; without it, the server shows none.
    pub recorder: Option<PrometheusHandle>,
    /// Address for metrics, as plain HTTP. It needs [`ServerConfig::recorder`].
    pub metrics: Option<SocketAddr>,
}

impl ServerConfig {
    /// A server that keeps its files in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: (std::net::Ipv6Addr::UNSPECIFIED, 8443).into(),
            names: ["localhost", "127.0.0.1", "::1"]
                .map(str::to_owned)
                .to_vec(),
            public_port: None,
            proxy_protocol_from: Networks::default(),
            trusted_proxies: Networks::default(),
            store: None,
            authentication: None,
            authenticators: Vec::new(),
            admin_token_file: None,
            secrets_key_files: Vec::new(),
            plugins: Plugins::default(),
            resume_window: ResumeWindow::default(),
            audit: AuditLog::default(),
            budgets: BudgetConfig::default(),
            quic: QuicConfig::default(),
            recorder: None,
            metrics: None,
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("data_dir", &self.data_dir)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// Why a server does not start. Its text and its sources name the file, the address or the setting, and the reason.
#[derive(Debug)]
pub struct StartError(anyhow::Error);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// A server that serves. Dropping it ends it at once, without writing what is left ([`Server::stop`]).
pub struct Server {
    address: SocketAddr,
    info: ServerInfo,
    directory: Arc<Directory>,
    audit: AuditLog,
    tunnel: Tunnel,
    front: Arc<Front>,
    readiness: Readiness,
    quic: Endpoint,
    connections: TaskTracker,
    no_more: CancellationToken,
    tasks: Supervisor,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the data directory, puts the server together, and serves.
    ///
    /// # Errors
    /// Something that the configuration names cannot be used: a file, an address, a setting.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        start(config, None).await.map_err(StartError)
    }

    /// The same with an audit log that is opened once the data directory is this server's: another server that does not
    /// start leaves its files alone.
    pub(crate) async fn start_audited(
        config: ServerConfig,
        audit: &audit::Options,
    ) -> Result<Self, StartError> {
        start(config, Some(audit)).await.map_err(StartError)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for kubeconfigs and agents: the first name, and the public port.
    pub fn url(&self) -> &str {
        &self.info.url
    }

    /// The CA of its certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.info.ca_pem
    }

    /// Its directory.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// How many agents of the cluster are connected.
    pub fn agents(&self, cluster: &underpass_core::ClusterName) -> usize {
        self.tunnel.connected(cluster)
    }

    /// Waits until a task has ended that must not: the server must be stopped then, and not drained.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&mut self) -> Ended {
        self.tasks.ended().await
    }

    /// Takes no more connections, asks agents to leave, and waits until open requests have ended, or for the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the server draining.
    pub async fn drain(&self, deadline: Duration) {
        self.readiness.set(false);
        self.quic.set_server_config(None);
        self.no_more.cancel();
        self.front.drain();
        self.connections.close();
        tokio::join!(
            wait_for(&self.connections, deadline),
            self.tunnel.drain(deadline)
        );
        self.quic.wait_idle().await;
    }

    /// Ends what is still open, and writes what is left: uses of tokens, events of the audit log.
    pub async fn stop(self) {
        drop(self.tasks);
        self.directory.write_uses().await;
        self.audit.flush(limits::AUDIT_FLUSH).await;
    }
}

async fn start(mut config: ServerConfig, audit: Option<&audit::Options>) -> Result<Server> {
    if let Some(address) = config.metrics.filter(|_| config.recorder.is_none()) {
        bail!("metrics at {address} need a recorder");
    }
    let data = DataDir::open(&config.data_dir)?;
    // First: the holder of the directory is the server of this data directory.
    let directory = match &config.store {
        None => directory::open(&data).await?,
        Some(store) => Directory::open(Arc::clone(store)).await?,
    };
    let admin_token = config.admin_token_file.clone();
    first_administrator::make(
        &directory,
        &admin_token.unwrap_or_else(|| data.path(first_administrator::NAME)),
    )
    .await?;
    let direct = direct_clusters(&data, &config, &directory).await?;
    let ca = Ca::load_or_create(&data)?;
    let certificate = ServerCertificate::new(&ca, &config.names)?;
    let tls = certificate.tls()?;
    let places = files::connections();
    let strangers = Strangers::within(StrangerBounds::default(), places);
    if let Some(options) = audit {
        config.audit = audit::open(options, &data).await?;
    }
    let sockets = Sockets::bind(config.listen, &tls, &ca.reset_key(), &config.quic).await?;
    let url = url(&config, sockets.address.port())?;
    data.write(URL, &format!("{url}\n"))?;
    let info = ServerInfo {
        url: url.clone(),
        ca_pem: Ca::certificate(&data)?,
        ca_pin: Ca::pin(&data)?.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut tasks = Supervisor::default();
    let writing = config.audit.clone();
    tasks.start("writes the audit log", async move {
        writing.ended().await;
    });
    let renewing = Arc::clone(&certificate).renew(ca, config.names.clone());
    tasks.start("renews the certificate", renewing);
    let given = Given {
        directory: Arc::clone(&directory),
        direct,
        strangers: strangers.clone(),
        info: info.clone(),
    };
    let Parts {
        tunnel,
        acceptor,
        readiness,
        front,
        certificates,
        api,
        metrics,
    } = assemble(&config, given, &mut tasks)?;
    let operators = Socket::bind(&data).context("cannot listen at the operator's socket")?;
    let operators = operators.serve(api, metrics.clone());
    tasks.start("serves the operator's socket", operators);
    if let Some(address) = config.metrics {
        tasks.start("serves metrics", metrics.listen(address).await?);
    }
    let connections = TaskTracker::new();
    let no_more = CancellationToken::new();
    let users = listen::serve_tcp(
        sockets.tcp,
        certificate.tls_asking(certificates)?,
        TrustedProxies::new(config.proxy_protocol_from, config.trusted_proxies),
        Arc::clone(&front),
        Door::new(places, strangers),
        connections.clone(),
        no_more.clone(),
    );
    tasks.start("serves users", users);
    let agents = listen::serve_quic(sockets.quic.clone(), acceptor, tunnel.clone());
    tasks.start("serves agents over QUIC", agents);
    readiness.set(true);
    tracing::info!(address = %sockets.address, %url, "serving HTTPS and QUIC");
    Ok(Server {
        address: sockets.address,
        info,
        directory,
        audit: config.audit,
        tunnel,
        front,
        readiness,
        quic: sockets.quic,
        connections,
        no_more,
        tasks,
    })
}

/// The clusters that the server reaches without agents.
async fn direct_clusters(
    data: &DataDir,
    config: &ServerConfig,
    directory: &Arc<Directory>,
) -> Result<Arc<DirectClusters>> {
    let mut programs = config.plugins.programs.iter();
    if let Some(path) = programs.find(|path| !path.is_absolute()) {
        bail!(
            "the credential plugin {} is not an absolute path",
            path.display()
        );
    }
    let keys = secrets::open(data, &config.secrets_key_files, directory)?;
    secrets::renew(directory, &keys).await?;
    Ok(Arc::new(DirectClusters::new(keys, config.plugins.clone())))
}

/// The parts behind the listeners.
struct Parts {
    tunnel: Tunnel,
    acceptor: Arc<Acceptor>,
    readiness: Readiness,
    front: Arc<Front>,
    certificates: Arc<CertificateRequest>,
    api: Api,
    metrics: Metrics,
}

/// Parts that exist before the assembly.
struct Given {
    directory: Arc<Directory>,
    direct: Arc<DirectClusters>,
    strangers: Strangers,
    info: ServerInfo,
}

/// Puts the parts together, and starts what watches over the directory and the authentication file.
fn assemble(config: &ServerConfig, given: Given, tasks: &mut Supervisor) -> Result<Parts> {
    let Given {
        directory,
        direct,
        strangers,
        info,
    } = given;
    tasks.start("follows the directory", Arc::clone(&directory).follow());
    let keeping = Arc::clone(&directory).keep_tokens();
    tasks.start("removes expired tokens", keeping);
    let tunnel = Tunnel::new(Arc::clone(&directory));
    let enforcing = tunnel.clone().enforce_access();
    tasks.start("enforces revocations of agents", enforcing);
    let enforcing = Arc::clone(&direct).enforce(Arc::clone(&directory));
    tasks.start("enforces changes of direct clusters", enforcing);
    let clusters = Arc::new(ClusterRouter {
        directory: Arc::clone(&directory),
        direct: Arc::clone(&direct),
        tunnel: tunnel.clone(),
    });
    let acceptor = Arc::new(Acceptor::new(
        acceptor_config(config.resume_window),
        Arc::new(Keys(Arc::clone(&directory))),
    ));
    let readiness = Readiness::default();
    let surroundings = Surroundings {
        directory: Arc::clone(&directory),
        clusters: clusters.clone(),
        own: config.authenticators.clone(),
    };
    let authentication = Authentication::open(config.authentication.clone(), surroundings)?;
    let watching = Arc::clone(&authentication).watch();
    tasks.start("watches the authentication file", watching);
    let sessions = {
        let tunnel = tunnel.clone();
        Arc::new(move |cluster: &_| tunnel.connected(cluster))
    };
    let logins = Arc::new(Logins {
        chain: authentication.chain(),
        passwords: Passwords::new()?,
        device_login: {
            let authentication = Arc::clone(&authentication);
            Arc::new(move || authentication.device_login())
        },
    });
    let budgets = Budgets::new(config.budgets.clone());
    let api = Api::new(
        Arc::clone(&directory),
        sessions,
        direct,
        logins,
        info,
        config.audit.clone(),
    );
    let metrics = Metrics {
        strangers,
        tunnel: tunnel.clone(),
        budgets: budgets.clone(),
        recorder: config.recorder.clone(),
    };
    let http = Http {
        tunnel: tunnel.clone(),
        acceptor: Arc::clone(&acceptor),
        readiness: readiness.clone(),
        authenticator: authentication.chain(),
        api: api.clone(),
    };
    let front = Arc::new(Front::new(FrontConfig {
        authenticator: authentication.chain(),
        authorizer: directory,
        acting_as: Arc::new(AccessReviews::new(clusters.clone())),
        clusters,
        fallback: Arc::new(http),
        policy: ImpersonationPolicy::default(),
        audit: config.audit.clone(),
        budgets,
    }));
    Ok(Parts {
        tunnel,
        acceptor,
        readiness,
        front,
        certificates: authentication.certificates(),
        api,
        metrics,
    })
}

fn acceptor_config(resume_window: ResumeWindow) -> AcceptorConfig {
    AcceptorConfig {
        resume_window,
        software: concat!("underpass-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..AcceptorConfig::default()
    }
}

fn url(config: &ServerConfig, listening: u16) -> Result<String> {
    let name = config.names.first().context("the server needs a --name")?;
    let port = config.public_port.unwrap_or(listening);
    Ok(match name.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("https://[{address}]:{port}"),
        Err(_) => format!("https://{name}:{port}"),
    })
}

async fn wait_for(connections: &TaskTracker, deadline: Duration) {
    if tokio::time::timeout(deadline, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(left = connections.len(), "connections are cut off");
    }
}
