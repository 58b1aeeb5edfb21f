//! The settings of a server.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use underpass_audit::AuditLog;
use underpass_authenticate::Step;
use underpass_core::{ClusterDomain, ClusterDomains, HostName, Networks};
use underpass_direct::Plugins;
use underpass_directory::Store;
use underpass_directory_etcd::EtcdConfig;
use underpass_gateway::{BudgetConfig, IdleTimeout};
use underpass_https::Proxy;
use underpass_tunnel::ResumeWindow;
use underpass_tunnel::transport::quic::QuicConfig;

use crate::recordings::RecordingsConfig;
use crate::tls_files::TlsFiles;

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
    /// Domains below which each cluster has a DNS name of its own. Kubeconfigs have the first.
    pub cluster_domains: Vec<ClusterDomain>,
    /// Files with a certificate for the server; without them, its CA in the data directory makes one.
    pub tls_files: Option<TlsFiles>,
    /// Port of the server for users, where it is not the one that it listens on.
    pub public_port: Option<u16>,
    /// Networks of load balancers that begin each connection with a PROXY protocol header.
    pub proxy_protocol_from: Networks,
    /// Networks of load balancers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// The store of the directory; the embedded one, in the data directory, without it.
    pub store: Option<Arc<dyn Store>>,
    /// The etcd that keeps the directory, in the place of [`ServerConfig::store`] and of the embedded one.
    pub etcd: Option<EtcdConfig>,
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
    /// Folder with the CAs of clusters' services that speak TLS, `NAME.pem` for the cluster NAME; without a cluster's file, the
    /// reverse proxy asks none of its `https` services.
    pub service_ca_dir: Option<PathBuf>,
    /// How long a client's connection may be idle.
    pub idle_timeout: IdleTimeout,
    /// The proxy on the way to identity providers and to the webhook of the audit log, both over HTTPS. The environment is not
    /// asked: see [`Proxy::from_env`].
    pub proxy: Option<Proxy>,
    /// How long streams wait for an agent whose connection is lost.
    pub resume_window: ResumeWindow,
    /// How long streams of a user's session wait where the user's connection is lost. They hold their places meanwhile.
    pub user_resume_window: ResumeWindow,
    /// Where it is written who did what.
    pub audit: AuditLog,
    /// How much each user and each cluster may have in flight.
    pub budgets: BudgetConfig,
    /// Whether shells are recorded, and for how long recordings are kept.
    pub recordings: RecordingsConfig,
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
            listen: (Ipv6Addr::UNSPECIFIED, 8443).into(),
            names: ["localhost", "127.0.0.1", "::1"]
                .map(str::to_owned)
                .to_vec(),
            cluster_domains: Vec::new(),
            tls_files: None,
            public_port: None,
            proxy_protocol_from: Networks::default(),
            trusted_proxies: Networks::default(),
            store: None,
            etcd: None,
            authentication: None,
            authenticators: Vec::new(),
            admin_token_file: None,
            secrets_key_files: Vec::new(),
            plugins: Plugins::default(),
            service_ca_dir: None,
            idle_timeout: IdleTimeout::default(),
            proxy: None,
            resume_window: ResumeWindow::default(),
            user_resume_window: ResumeWindow::default(),
            audit: AuditLog::default(),
            budgets: BudgetConfig::default(),
            recordings: RecordingsConfig::default(),
            quic: QuicConfig::default(),
            recorder: None,
            metrics: None,
        }
    }

    /// Refuses settings that cannot work, before anything is opened.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(address) = self.metrics.filter(|_| self.recorder.is_none()) {
            bail!("metrics at {address} need a recorder");
        }
        if self.store.is_some() && self.etcd.is_some() {
            bail!("a directory has one store, and not both one of the embedder's and etcd");
        }
        let mut programs = self.plugins.programs.iter();
        if let Some(path) = programs.find(|path| !path.is_absolute()) {
            bail!(
                "the credential plugin {} is not an absolute path",
                path.display()
            );
        }
        let folder = self.service_ca_dir.as_ref();
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!(
                "{} is no folder with CAs of clusters' services",
                folder.display()
            );
        }
        let domains = self.domains()?;
        let mut names = self.names.iter();
        if let Some(name) = names.find(|name| domains.read(name) != HostName::Server) {
            bail!(
                "the server's name {name} is below a cluster domain, where every name is a cluster's: give the server a name \
                 elsewhere, or the clusters another domain"
            );
        }
        self.name().map(drop)
    }

    /// The domains of clusters' own names.
    pub(super) fn domains(&self) -> Result<ClusterDomains> {
        Ok(ClusterDomains::new(&self.cluster_domains)?)
    }

    /// The names of the certificate: the server's, and those of all clusters.
    pub(super) fn certificate_names(&self) -> Result<Vec<String>> {
        let domains = self.domains()?;
        let wildcards = domains.iter().map(ClusterDomain::wildcard);
        Ok(self.names.iter().cloned().chain(wildcards).collect())
    }

    /// The URL of a server that listens on a port, for users and agents.
    pub(super) fn url(&self, listening: u16) -> Result<String> {
        let name = self.name()?;
        let port = self.public_port.unwrap_or(listening);
        Ok(match name.parse::<Ipv6Addr>() {
            Ok(address) => format!("https://[{address}]:{port}"),
            Err(_) => format!("https://{name}:{port}"),
        })
    }

    pub(super) fn name(&self) -> Result<&str> {
        let name = self.names.first().map(String::as_str);
        name.context("the server needs a --name")
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
