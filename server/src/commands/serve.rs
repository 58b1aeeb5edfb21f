//! `underpass-server serve`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_api::ServerInfo;
use underpass_audit::AuditLog;
use underpass_authenticate::{CertificateRequest, Passwords};
use underpass_core::ImpersonationPolicy;
use underpass_direct::{DirectClusters, Plugins};
use underpass_directory::Directory;
use underpass_gateway::AccessReviews;
use underpass_gateway::{Budgets, Front, FrontConfig, StrangerBounds, Strangers};
use underpass_terminal::Lines;
use underpass_tunnel::{Acceptor, AcceptorConfig, ResumeWindow, describe_metrics};

use crate::api::{Api, Logins};
use crate::audit;
use crate::authentication::{Authentication, Surroundings};
use crate::cli::{LogFormat, Serve};
use crate::data_dir::DataDir;
use crate::directory;
use crate::files;
use crate::first_administrator;
use crate::http::{Http, Readiness};
use crate::limits;
use crate::listen::{self, Door, Sockets};
use crate::metrics::Metrics;
use crate::pki::{Ca, ServerCertificate};
use crate::router::ClusterRouter;
use crate::secrets;
use crate::socket::Socket;
use crate::supervise::Supervisor;
use crate::tunnel::{Keys, Tunnel};

/// The file of the data directory with the server's URL, for programs that start a server with port 0.
const URL: &str = "url";

pub(crate) fn run(data: &Path, options: Serve) -> Result<()> {
    start_logging(&options.log, options.log_format);
    let data = DataDir::open(data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(data, options))
}

fn start_logging(filter: &str, format: LogFormat) {
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(move || Lines::new(std::io::stderr(), colours));
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn serve(data: DataDir, options: Serve) -> Result<()> {
    let mut stop = Stop::listen()?;
    // First: the process that holds the directory is the server of this data directory.
    let directory = directory::open(&data).await?;
    let admin_token = options.admin_token_file.clone();
    first_administrator::make(
        &directory,
        &admin_token.unwrap_or_else(|| data.path(first_administrator::NAME)),
    )
    .await?;
    let direct = direct_clusters(&data, &options, &directory).await?;
    let ca = Ca::load_or_create(&data)?;
    let certificate = ServerCertificate::new(&ca, &options.names)?;
    let tls = certificate.tls()?;
    let quic = options.quic.config()?;
    let budgets = Budgets::new(options.budgets.config()?);
    let places = files::connections();
    let strangers = Strangers::within(StrangerBounds::default(), places);
    let audit_log = audit::open(&options.audit, &data).await?;
    let sockets = Sockets::bind(options.listen, &tls, &ca.reset_key(), &quic).await?;
    let url = url(&options, sockets.address.port())?;
    data.write(URL, &format!("{url}\n"))?;
    let server = ServerInfo {
        url: url.clone(),
        ca_pem: Ca::certificate(&data)?,
        ca_pin: Ca::pin(&data)?.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut tasks = Supervisor::default();
    let writing = audit_log.clone();
    tasks.start("writes the audit log", async move {
        writing.ended().await;
    });
    let renewing = Arc::clone(&certificate).renew(ca, options.names);
    tasks.start("renews the certificate", renewing);

    let Parts {
        tunnel,
        acceptor,
        readiness,
        front,
        certificates,
        api,
        metrics,
    } = assemble(
        Given {
            directory: Arc::clone(&directory),
            direct,
            authentication: options.authentication,
            resume_window: options.resume_window,
            audit: audit_log.clone(),
            budgets,
            strangers: strangers.clone(),
            server,
        },
        &mut tasks,
    )?;
    let operators = Socket::bind(&data).context("cannot listen at the operator's socket")?;
    let operators = operators.serve(api, metrics.clone());
    tasks.start("serves the operator's socket", operators);
    if let Some(address) = options.metrics {
        tasks.start("serves metrics", metrics.listen(address).await?);
    }
    let connections = TaskTracker::new();
    let no_more = CancellationToken::new();
    let users = listen::serve_tcp(
        sockets.tcp,
        certificate.tls_asking(certificates)?,
        options.proxies.into(),
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

    let signal = tokio::select! {
        signal = stop.wait() => signal,
        // At once: to drain would be to serve without it.
        ended = tasks.ended() => {
            audit_log.flush(limits::AUDIT_FLUSH).await;
            return Err(ended.into());
        }
    };
    tracing::info!(signal, deadline = ?options.drain, "stopping; the signal again stops at once");
    readiness.set(false);
    sockets.quic.set_server_config(None);
    no_more.cancel();
    front.drain();
    connections.close();
    let drained = async {
        tokio::join!(
            wait_for(&connections, options.drain),
            tunnel.drain(options.drain)
        );
        sockets.quic.wait_idle().await;
    };
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        _ = stop.wait() => tracing::warn!("stopped at once"),
    }
    drop(tasks);
    directory.write_uses().await;
    audit_log.flush(limits::AUDIT_FLUSH).await;
    Ok(())
}

/// The clusters that the server reaches without agents.
async fn direct_clusters(
    data: &DataDir,
    options: &Serve,
    directory: &Arc<Directory>,
) -> Result<Arc<DirectClusters>> {
    let plugins = &options.exec_plugins;
    if let Some(path) = plugins.iter().find(|path| !path.is_absolute()) {
        bail!(
            "--allow-exec-plugin {} is not an absolute path",
            path.display()
        );
    }
    let keys = secrets::open(data, &options.secrets_key_files, directory)?;
    secrets::renew(directory, &keys).await?;
    let plugins = Plugins {
        programs: plugins.iter().cloned().collect(),
        variables: options.exec_plugin_variables.iter().cloned().collect(),
    };
    Ok(Arc::new(DirectClusters::new(keys, plugins)))
}

/// The parts that the listeners serve.
struct Parts {
    tunnel: Tunnel,
    acceptor: Arc<Acceptor>,
    readiness: Readiness,
    front: Arc<Front>,
    certificates: Arc<CertificateRequest>,
    api: Api,
    metrics: Metrics,
}

/// The values that the parts are made of.
struct Given {
    directory: Arc<Directory>,
    direct: Arc<DirectClusters>,
    authentication: Option<PathBuf>,
    resume_window: ResumeWindow,
    audit: AuditLog,
    budgets: Budgets,
    strangers: Strangers,
    server: ServerInfo,
}

/// Puts the parts together, and starts what watches over the directory and the authentication file.
fn assemble(given: Given, tasks: &mut Supervisor) -> Result<Parts> {
    let Given {
        directory,
        direct,
        authentication,
        resume_window,
        audit,
        budgets,
        strangers,
        server,
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
        acceptor_config(resume_window),
        Arc::new(Keys(Arc::clone(&directory))),
    ));
    let readiness = Readiness::default();
    let surroundings = Surroundings {
        directory: Arc::clone(&directory),
        clusters: clusters.clone(),
    };
    let authentication = Authentication::open(authentication, surroundings)?;
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
    let audit_log = audit.clone();
    let api = Api::new(
        Arc::clone(&directory),
        sessions,
        direct,
        logins,
        server,
        audit_log,
    );
    let metrics = Metrics {
        strangers,
        tunnel: tunnel.clone(),
        budgets: budgets.clone(),
        recorder: record_metrics()?,
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
        audit,
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

fn url(options: &Serve, listening: u16) -> Result<String> {
    let name = options.names.first().context("the server needs a --name")?;
    let port = options.public_port.unwrap_or(listening);
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

/// SIGTERM and SIGINT.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Gauges of agents that are gone are forgotten: those of others are set whenever somebody looks.
fn record_metrics() -> Result<PrometheusHandle> {
    let metrics = PrometheusBuilder::new()
        .idle_timeout(MetricKindMask::GAUGE, Some(limits::METRICS_IDLE))
        .install_recorder()
        .context("cannot keep metrics")?;
    describe_metrics();
    Ok(metrics)
}
