//! The start of a server: its files, its parts, its listeners.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use underpass_api::ServerInfo;
use underpass_direct::DirectClusters;
use underpass_directory::Directory;
use underpass_gateway::{StrangerBounds, Strangers};
use underpass_tunnel::CaPin;

use super::assembly::{Given, Parts, assemble};
use super::{Running, Server, ServerConfig};
use crate::audit;
use crate::data_dir::DataDir;
use crate::directory;
use crate::files;
use crate::first_administrator;
use crate::listen::{self, Connections, Door, Sockets};
use crate::pki::{Ca, ServerCertificate};
use crate::proxies::TrustedProxies;
use crate::recordings::Recordings;
use crate::secrets;
use crate::socket::Socket;
use crate::supervise::Supervisor;
use crate::tls_files::Following;

/// The file of the data directory with the server's URL, for programs that start a server with port 0.
const URL: &str = "url";

/// See [`Server::start_audited`].
pub(super) async fn start(
    mut config: ServerConfig,
    audit: Option<&audit::Options>,
) -> Result<Server> {
    config.check()?;
    let Opened {
        data,
        directory,
        direct,
        ca,
        certificate,
        following,
        trusted,
    } = Opened::open(&config).await?;
    let places = files::connections();
    let strangers = Strangers::within(StrangerBounds::default(), places);
    if let Some(options) = audit {
        config.audit = audit::open(options, &data, config.proxy.as_ref()).await?;
    }
    let recordings = Recordings::open(
        config.recordings.clone(),
        |name| data.path(name),
        config.audit.clone(),
    );
    let recordings = recordings.context("cannot use the folder of recordings")?;
    let sockets = Sockets::bind(
        config.listen,
        &certificate.tls()?,
        &ca.reset_key(),
        &config.quic,
    )
    .await?;
    let info = info(&config, trusted, sockets.address.port())?;
    write_url(&data, &info.url);

    let fingerprints = ca.fingerprints(&data);
    let mut tasks = Supervisor::default();
    let writing = config.audit.clone();
    tasks.start("writes the audit log", async move {
        writing.ended().await;
    });
    renew(&config, &certificate, following, ca, &mut tasks)?;
    let given = Given {
        directory: Arc::clone(&directory),
        direct,
        strangers: strangers.clone(),
        info: info.clone(),
        fingerprints,
        recordings,
    };
    let Parts {
        tunnel,
        acceptor,
        users: sessions,
        streams,
        readiness,
        front,
        authentication,
        api,
        metrics,
    } = assemble(&config, given, &mut tasks)?;

    let operators = Socket::bind(&data).context("cannot listen at the operator's socket")?;
    let operators = operators.serve(api.clone(), metrics.clone());
    tasks.start("serves the operator's socket", operators);
    if let Some(address) = config.metrics {
        tasks.start("serves metrics", metrics.listen(address).await?);
    }
    let connections = Connections::default();
    let no_more = CancellationToken::new();
    let door = Door::new(places, strangers);
    let serving = streams.serve(Arc::clone(&front), door.clone(), connections.clone());
    tasks.start("serves streams of users' sessions", serving);
    let users = listen::serve_tcp(
        sockets.tcp,
        certificate.tls_asking(authentication.certificates())?,
        TrustedProxies::new(config.proxy_protocol_from, config.trusted_proxies),
        Arc::clone(&front),
        door,
        connections.clone(),
        no_more.clone(),
    );
    tasks.start("serves users", users);
    let over_quic = listen::serve_quic(
        sockets.quic.clone(),
        acceptor,
        tunnel.clone(),
        sessions.clone(),
    );
    tasks.start("serves agents and users over QUIC", over_quic);
    readiness.serve(true);
    tracing::info!(address = %sockets.address, url = info.url, "serving HTTPS and QUIC");
    Ok(Server {
        address: sockets.address,
        info,
        directory,
        authentication,
        audit: config.audit,
        certificate,
        front,
        readiness,
        no_more,
        running: Running {
            tunnel,
            sessions,
            quic: sockets.quic,
            connections,
            api,
            tasks,
        },
    })
}

/// Renews the certificate: from the operator's files, or by the server's own CA.
fn renew(
    config: &ServerConfig,
    certificate: &Arc<ServerCertificate>,
    following: Option<Following>,
    ca: Ca,
    tasks: &mut Supervisor,
) -> Result<()> {
    const TASK: &str = "renews the certificate";

    let certificate = Arc::clone(certificate);
    match following {
        Some(following) => tasks.start(TASK, following.follow(certificate)),
        None => tasks.start(TASK, certificate.renew(ca, config.certificate_names()?)),
    }
    Ok(())
}

/// Only programs that start a server with port 0 need the file: a full disk keeps no server from starting. A file with another URL would
/// lead them to another server.
fn write_url(data: &DataDir, url: &str) {
    let written = data.write(URL, &format!("{url}\n"));
    if let Err(error) = written {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(url, error, "the server starts without the file of its URL");
        if let Err(error) = data.remove(URL) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the file holds an older URL");
        }
    }
}

/// The server's state on disk.
struct Opened {
    data: DataDir,
    directory: Arc<Directory>,
    direct: Arc<DirectClusters>,
    ca: Ca,
    certificate: Arc<ServerCertificate>,
    /// The files that it comes from, where it is the operator's.
    following: Option<Following>,
    trusted: Trusted,
}

/// The CA that agents and kubeconfigs trust: as PEM, and its pin.
struct Trusted {
    pem: String,
    pin: CaPin,
}

impl Opened {
    /// Opens the data directory and the directory, and makes what a new server needs: its first administrator, its keys, its CA.
    async fn open(config: &ServerConfig) -> Result<Self> {
        let data = DataDir::open(&config.data_dir)?;
        // First: the holder of the directory is the server of this data directory.
        let directory = match (&config.store, &config.etcd) {
            (Some(store), _) => Directory::open(Arc::clone(store)).await?,
            (None, Some(etcd)) => directory::open_on_etcd(&data, etcd).await?,
            (None, None) => directory::open(&data).await?,
        };
        let admin_token = config.admin_token_file.clone();
        first_administrator::make(
            &directory,
            &admin_token.unwrap_or_else(|| data.path(first_administrator::NAME)),
        )
        .await?;
        let keys = secrets::open(&data, &config.secrets_key_files, &directory)?;
        if config.etcd.is_some() {
            secrets::check(&directory, &keys)?;
        }
        secrets::renew(&directory, &keys).await?;
        let ca = Ca::load_or_create(&data)?;
        let (certificate, following, trusted) = Self::certificate(config, &data, &ca)?;
        Ok(Self {
            directory,
            direct: Arc::new(DirectClusters::new(keys, config.plugins.clone())),
            certificate,
            following,
            trusted,
            ca,
            data,
        })
    }

    fn certificate(
        config: &ServerConfig,
        data: &DataDir,
        ca: &Ca,
    ) -> Result<(Arc<ServerCertificate>, Option<Following>, Trusted)> {
        let Some(files) = &config.tls_files else {
            let trusted = Trusted {
                pem: Ca::certificate(data)?,
                pin: Ca::pin(data)?,
            };
            let certificate = ServerCertificate::new(ca, &config.certificate_names()?)?;
            return Ok((certificate, None, trusted));
        };
        let name = config.name()?.to_owned();
        let loaded = files.load(&name).context("cannot use --tls-certificate")?;
        let trusted = Trusted {
            pem: loaded.ca_pem,
            pin: loaded.pin,
        };
        let following = Following {
            files: files.clone(),
            name,
            pin: loaded.pin,
        };
        Ok((
            ServerCertificate::of(loaded.served),
            Some(following),
            trusted,
        ))
    }
}

/// Facts about a server that listens on `port`, for its users.
fn info(config: &ServerConfig, trusted: Trusted, port: u16) -> Result<ServerInfo> {
    let domains = config.domains()?;
    // An operator's certificate hardly has names that no DNS knows.
    let own = config.tls_files.is_none();
    Ok(ServerInfo {
        url: config.url(port)?,
        cluster_domain: domains.preferred().map(ToString::to_string),
        tls_cluster_domain: own.then(|| domains.tls().to_string()),
        ca_pem: trusted.pem,
        ca_pin: trusted.pin.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
