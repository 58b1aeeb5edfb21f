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
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use underpass_proxy::audit::Trail;
use underpass_proxy::authenticate::{CertificateRequest, Passwords, Token};
use underpass_proxy::direct::{DirectClusters, Plugins};
use underpass_proxy::directory::Directory;
use underpass_proxy::front::{Budgets, Front, FrontConfig};
use underpass_proxy::{AccessReviews, ImpersonationPolicy};
use underpass_tunnel::{Acceptor, AcceptorConfig, Lines, describe_metrics};
use zeroize::Zeroizing;

use crate::api::{self, Api, Logins};
use crate::audit;
use crate::authentication::{Authentication, Surroundings};
use crate::cli::{LogFormat, Serve};
use crate::data_dir::DataDir;
use crate::directory;
use crate::http::{Http, Readiness};
use crate::limits;
use crate::listen::{self, Sockets};
use crate::metrics::Metrics;
use crate::pki::{Ca, ServerCertificate};
use crate::reach::Reach;
use crate::secrets;
use crate::socket::Socket;
use crate::tunnel::{Keys, Tunnel};

/// The file of the data directory that holds the URL that kubeconfigs point to.
pub(super) const URL: &str = "url";

pub(crate) fn run(data: DataDir, options: Serve, keys: &[PathBuf]) -> Result<()> {
    start_logging(&options.log, options.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(data, options, keys))
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

async fn serve(data: DataDir, options: Serve, keys: &[PathBuf]) -> Result<()> {
    let mut stop = Stop::listen()?;
    // First: whoever holds the directory is the server of this data directory.
    let directory = directory::open(&data).await?;
    let given = options.admin_token_file.as_deref().map(read_token);
    let given = given.transpose()?;
    first_administrator(&data, &directory, given).await?;
    let direct = direct_clusters(&data, keys, &options.exec_plugins, &directory).await?;
    let ca = Ca::load_or_create(&data)?;
    let certificate = ServerCertificate::new(&ca, &options.names)?;
    let tls = certificate.tls()?;
    let quic = options.quic.config()?;
    let budgets = Budgets::new(options.budgets.config()?);
    let trail = audit::open(&options.audit, &data).await?;
    let sockets = Sockets::bind(options.listen, &tls, &ca.reset_key(), &quic).await?;
    let url = url(&options, sockets.address.port())?;
    data.write(URL, &format!("{url}\n"))?;
    tokio::spawn(Arc::clone(&certificate).renew(ca, options.names));

    let Parts {
        tunnel,
        acceptor,
        readiness,
        front,
        certificates,
        api,
        metrics,
    } = assemble(
        Arc::clone(&directory),
        direct,
        options.authentication,
        options.resume_window,
        trail.clone(),
        budgets,
    )?;
    let operators = Socket::bind(&data).context("cannot listen for subcommands")?;
    let operators = operators.serve(api, metrics.clone());
    let operators = AbortOnDropHandle::new(tokio::spawn(operators));
    if let Some(address) = options.metrics {
        metrics.serve(address).await?;
    }
    let connections = TaskTracker::new();
    let no_more = CancellationToken::new();
    let users = listen::serve_tcp(
        sockets.tcp,
        certificate.tls_asking(certificates)?,
        options.hops.into(),
        Arc::clone(&front),
        connections.clone(),
        no_more.clone(),
    );
    tokio::spawn(users);
    tokio::spawn(listen::serve_quic(
        sockets.quic.clone(),
        acceptor,
        tunnel.clone(),
    ));
    readiness.set(true);
    tracing::info!(address = %sockets.address, %url, "serving HTTPS and QUIC");

    let signal = stop.wait().await;
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
    drop(operators);
    directory.write_uses().await;
    trail.flush(limits::AUDIT_FLUSH).await;
    Ok(())
}

/// What the server reaches without agents.
async fn direct_clusters(
    data: &DataDir,
    keys: &[PathBuf],
    plugins: &[PathBuf],
    directory: &Arc<Directory>,
) -> Result<Arc<DirectClusters>> {
    if let Some(path) = plugins.iter().find(|path| !path.is_absolute()) {
        bail!(
            "--allow-exec-plugin {} is not an absolute path",
            path.display()
        );
    }
    let keys = secrets::open(data, keys, directory)?;
    secrets::renew(directory, &keys).await?;
    let plugins = Plugins::Only(plugins.iter().cloned().collect());
    Ok(Arc::new(DirectClusters::new(keys, plugins)))
}

/// The file of the data directory that holds the first administrator's token.
const ADMIN_TOKEN: &str = "admin.token";

/// Once in the life of a directory. Logs are gathered and kept by others: the token is in a file that its owner alone
/// can read, unless it was given.
async fn first_administrator(
    data: &DataDir,
    directory: &Arc<Directory>,
    given: Option<Token>,
) -> Result<()> {
    let was_given = given.is_some();
    let Some(token) = api::first_administrator(directory, given).await? else {
        return Ok(());
    };
    let place = if was_given {
        "--admin-token-file".to_owned()
    } else {
        data.write(ADMIN_TOKEN, &format!("{}\n", token.expose()))?;
        data.path(ADMIN_TOKEN).display().to_string()
    };
    eprintln!(
        "The first administrator of this server is the user {}. Their token is in {place}: take it from there and \
         remove the file. It ends in {} days; at this machine `underpass-server` needs none.",
        api::FIRST_ADMINISTRATOR,
        limits::FIRST_TOKEN.as_secs() / (24 * 60 * 60),
    );
    Ok(())
}

fn read_token(path: &Path) -> Result<Token> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text =
        text.with_context(|| format!("cannot read --admin-token-file {}", path.display()))?;
    Token::parse(text.trim()).with_context(|| {
        format!(
            "--admin-token-file {} holds no token as Underpass makes them (`upt_…`)",
            path.display()
        )
    })
}

/// What the listeners serve.
struct Parts {
    tunnel: Tunnel,
    acceptor: Arc<Acceptor>,
    readiness: Readiness,
    front: Arc<Front>,
    certificates: Arc<CertificateRequest>,
    api: Api,
    metrics: Metrics,
}

/// Puts the parts together, and starts what watches over the directory and the authentication file.
fn assemble(
    directory: Arc<Directory>,
    direct: Arc<DirectClusters>,
    authentication: Option<PathBuf>,
    resume_window: Duration,
    audit: Trail,
    budgets: Budgets,
) -> Result<Parts> {
    tokio::spawn(Arc::clone(&directory).follow());
    tokio::spawn(Arc::clone(&directory).keep_tokens());
    let tunnel = Tunnel::new(Arc::clone(&directory));
    tokio::spawn(tunnel.clone().enforce_access());
    tokio::spawn(Arc::clone(&direct).enforce(Arc::clone(&directory)));
    let clusters = Arc::new(Reach {
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
    tokio::spawn(Arc::clone(&authentication).watch());
    let sessions = {
        let tunnel = tunnel.clone();
        Arc::new(move |cluster: &_| Some(tunnel.connected(cluster)))
    };
    let logins = Logins {
        authenticator: authentication.chain(),
        passwords: Passwords::new()?,
        device_login: {
            let authentication = Arc::clone(&authentication);
            Arc::new(move || authentication.device_login())
        },
    };
    let trail = audit.clone();
    let api = Api::new(Arc::clone(&directory), sessions, direct, logins, trail);
    let metrics = Metrics {
        tunnel: tunnel.clone(),
        budgets: budgets.clone(),
        recorder: record_metrics()?,
    };
    let http = Http {
        tunnel: tunnel.clone(),
        acceptor: Arc::clone(&acceptor),
        readiness: readiness.clone(),
        directory: Arc::clone(&directory),
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

fn acceptor_config(resume_window: Duration) -> AcceptorConfig {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use underpass_proxy::directory::MemoryStore;

    use super::*;

    async fn directory() -> Arc<Directory> {
        let opened = Directory::open(Arc::new(MemoryStore::default())).await;
        opened.unwrap()
    }

    #[tokio::test]
    async fn rule_14_the_first_token_is_in_a_file_of_its_owners() {
        let (folder, directory) = (crate::data_dir::private_folder(), directory().await);
        let data = DataDir::open(folder.path()).unwrap();
        first_administrator(&data, &directory, None).await.unwrap();
        let path = data.path(ADMIN_TOKEN);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = read_token(&path).unwrap();
        let snapshot = directory.snapshot();
        assert_eq!(
            snapshot.token(&token.hash()).unwrap().1.owner.name(),
            "admin"
        );
        std::fs::remove_file(&path).unwrap();
        first_administrator(&data, &directory, None).await.unwrap();
        assert!(!path.exists(), "there is one");
    }

    #[tokio::test]
    async fn rule_14_of_a_first_token_that_is_given_the_hash_is_kept() {
        let (folder, first, second) = (
            crate::data_dir::private_folder(),
            directory().await,
            directory().await,
        );
        let data = DataDir::open(folder.path()).unwrap();
        first_administrator(&data, &first, None).await.unwrap();
        let given = data.path("given");
        std::fs::rename(data.path(ADMIN_TOKEN), &given).unwrap();
        let token = read_token(&given).unwrap();
        let hash = token.hash();
        first_administrator(&data, &second, Some(token))
            .await
            .unwrap();
        assert!(second.snapshot().token(&hash).is_some());
        assert!(!data.path(ADMIN_TOKEN).exists());
        std::fs::write(&given, "hunter2").unwrap();
        let error = format!("{:#}", read_token(&given).err().unwrap());
        assert!(
            error.contains("upt_") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
