//! The command line.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use underpass_core::ClusterDomain;
use underpass_gateway::IdleTimeout;
use underpass_terminal::LogForm;
use underpass_tunnel::ResumeWindow;
use underpass_tunnel::transport::quic::{Congestion, Offload, QuicConfig, QuicConfigError};

use crate::recover::Recover;
use crate::{audit, budgets, commands, etcd, proxies, recordings};

/// Reaches Kubernetes clusters behind NAT: authenticates callers and carries their API calls to
/// agents that dial out. `underpass` changes its directory
#[derive(Debug, Parser)]
#[command(name = "underpass-server", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Folder of the server's files: its CA, its directory, its socket
    #[arg(
        long,
        global = true,
        env = "UNDERPASS_DATA_DIR",
        default_value = "underpass-data"
    )]
    pub(crate) data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(Box<Serve>),
    /// Print the hash of the server's CA, for agents' --ca-pin
    CaPin,
    /// Make a new administrator while no server runs: the way back in when all other credentials are lost. Other
    /// credentials stay as they are
    Recover(Box<Recover>),
    /// Copy the directory into a file, or a file's into a directory: for a backup, or to move it to etcd or from there
    #[command(subcommand)]
    Directory(Box<commands::directory::Command>),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address for HTTPS (TCP) and QUIC (UDP); port 0 is a free one
    #[arg(
        long,
        env = "UNDERPASS_LISTEN",
        default_value = "[::]:8443",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) listen: SocketAddr,
    /// DNS name or IP address of the server, for its certificate; repeat for more. Kubeconfigs have
    /// the first
    #[arg(
        long = "name", env = "UNDERPASS_NAMES", value_delimiter = ',', value_name = "NAME",
        default_values = ["localhost", "127.0.0.1", "::1"]
    )]
    pub(crate) names: Vec<String>,
    /// Domain below which each cluster has a DNS name of its own, NAME.DOMAIN: a wildcard record has to lead to this server.
    /// Its certificate covers the names. Repeat for more; kubeconfigs have the first
    #[arg(
        long = "cluster-domain",
        env = "UNDERPASS_CLUSTER_DOMAINS",
        value_delimiter = ',',
        value_name = "DOMAIN"
    )]
    pub(crate) cluster_domains: Vec<ClusterDomain>,
    /// PEM file with the server's certificate, the certificates between it and its root, and last the root certificate, which agents
    /// and kubeconfigs trust (or see --tls-ca). Without it, the CA in the data directory makes one. Read again when it changes
    #[arg(
        long,
        env = "UNDERPASS_TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of --tls-certificate
    #[arg(
        long,
        env = "UNDERPASS_TLS_KEY",
        value_name = "FILE",
        requires = "tls_certificate"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// PEM file with the root certificate of --tls-certificate, where that file ends with an intermediate one, as fullchain.pem of
    /// certbot does. Read again when it changes; another root needs a restart
    #[arg(
        long,
        env = "UNDERPASS_TLS_CA",
        value_name = "FILE",
        requires = "tls_certificate"
    )]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Address for metrics (Prometheus, plain HTTP), open to every client that reaches it. Metrics name clusters. Without
    /// it, only the socket has metrics
    #[arg(long, env = "UNDERPASS_METRICS", value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Port of the server for users, if it is not the one that it listens on
    #[arg(long, env = "UNDERPASS_PUBLIC_PORT", value_name = "PORT")]
    pub(crate) public_port: Option<u16>,
    /// File with the authenticators (docs/AUTHENTICATION.md), read again when it changes. Without it,
    /// the server takes its own tokens
    #[arg(long, env = "UNDERPASS_AUTHENTICATION", value_name = "FILE")]
    pub(crate) authentication: Option<PathBuf>,
    /// File with the first administrator's token, at the first start with a data directory. If there is no such file, the
    /// server makes it, readable by its owner only. Without this flag, admin.token in the data directory
    #[arg(long, env = "UNDERPASS_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// File with the key that encrypts credentials in the directory (32 bytes in base64); repeat for older
    /// keys, which decrypt only. Without it, secrets.key in the data directory, made at the first start
    #[arg(
        long = "secrets-key-file",
        env = "UNDERPASS_SECRETS_KEY_FILES",
        value_delimiter = ',',
        value_name = "FILE"
    )]
    pub(crate) secrets_key_files: Vec<PathBuf>,
    /// Absolute path of a program that clusters without an agent may use as a credential plugin; repeat
    /// for more. Administrators choose its arguments
    #[arg(
        long = "allow-exec-plugin",
        env = "UNDERPASS_EXEC_PLUGINS",
        value_delimiter = ',',
        value_name = "PATH"
    )]
    pub(crate) exec_plugins: Vec<PathBuf>,
    /// Variable that clusters without an agent may set for their credential plugin, beside those that
    /// docs/DIRECT.md lists; repeat for more. Never allow one that names a program or a file to run
    #[arg(
        long = "allow-exec-plugin-variable",
        env = "UNDERPASS_EXEC_PLUGIN_VARIABLES",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub(crate) exec_plugin_variables: Vec<String>,
    /// Folder with the CAs of clusters' services that speak TLS, for the reverse proxy to services: a PEM file NAME.pem for the cluster
    /// NAME, looked at for each use. Without a file a cluster's https services are refused
    #[arg(long, env = "UNDERPASS_SERVICE_CA_DIR", value_name = "FOLDER")]
    pub(crate) service_ca_dir: Option<PathBuf>,
    /// Time for open requests to end when the server stops
    #[arg(long, env = "UNDERPASS_DRAIN", default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// Time that a client's connection may be idle, from 1s to 1h: longer than the idle timeout of a load balancer towards
    /// the server
    #[arg(long, env = "UNDERPASS_IDLE_TIMEOUT", default_value = "620s", value_name = "TIME", value_parser = idle_timeout)]
    pub(crate) idle_timeout: IdleTimeout,
    /// Time that streams wait for an agent whose connection is lost, an hour at the most; 0s ends them at once
    #[arg(long, env = "UNDERPASS_RESUME_WINDOW", default_value = "60s", value_name = "TIME", value_parser = resume_window)]
    pub(crate) resume_window: ResumeWindow,
    /// Time that streams of a user's session wait for a user whose connection is lost, an hour at the most; 0s ends them at once
    #[arg(long, env = "UNDERPASS_USER_RESUME_WINDOW", default_value = "60s", value_name = "TIME", value_parser = resume_window)]
    pub(crate) user_resume_window: ResumeWindow,
    #[command(flatten)]
    pub(crate) etcd: etcd::Options,
    #[command(flatten)]
    pub(crate) proxies: proxies::Options,
    #[command(flatten)]
    pub(crate) audit: audit::Options,
    #[command(flatten)]
    pub(crate) recordings: recordings::Options,
    #[command(flatten)]
    pub(crate) budgets: budgets::Options,
    #[command(flatten)]
    pub(crate) quic: Quic,
    /// Log level: error, warn, info, debug or trace, also by part, as in info,underpass_tunnel=debug
    #[arg(
        long,
        env = "UNDERPASS_LOG",
        default_value = LOG,
        value_name = "FILTER",
        value_parser = log_filter
    )]
    pub(crate) log: String,
    /// Format of log lines, on standard error
    #[arg(long, env = "UNDERPASS_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// How QUIC uses the machine.
#[derive(Debug, Args)]
pub(crate) struct Quic {
    /// Let the kernel cut batches into UDP datagrams (GSO): auto (if a trial at the start works), on or
    /// off. Off costs at least twice the CPU per byte
    #[arg(
        long,
        env = "UNDERPASS_QUIC_GSO",
        default_value = "auto",
        value_name = "auto|on|off"
    )]
    pub(crate) quic_gso: Offload,
    /// Congestion control: by the measured rate of the path, or Cubic, which slows down on paths that lose packets by
    /// themselves
    #[arg(
        long,
        env = "UNDERPASS_QUIC_CONGESTION",
        default_value = "rate",
        value_name = "rate|cubic"
    )]
    pub(crate) quic_congestion: Congestion,
    /// Largest UDP datagram to try on a path, 1200 to 6550 bytes. With 1200, nothing is tried, and ordinary
    /// paths carry a fifth more datagrams
    #[arg(
        long,
        env = "UNDERPASS_QUIC_MAX_DATAGRAM",
        default_value = "6550",
        value_name = "BYTES"
    )]
    pub(crate) quic_max_datagram: u16,
    /// Receive and send buffer of each UDP socket, in KiB, for bursts; net.core.rmem_max and wmem_max of the
    /// system bound it
    #[arg(
        long,
        env = "UNDERPASS_UDP_BUFFER",
        default_value = "2048",
        value_name = "KIB"
    )]
    pub(crate) udp_buffer: u32,
    /// Folder for a trace of every QUIC packet: slow, and without a bound
    #[cfg(feature = "qlog")]
    #[arg(long, env = "UNDERPASS_QLOG", value_name = "FOLDER")]
    pub(crate) qlog: Option<PathBuf>,
}

impl Quic {
    pub(crate) fn config(&self) -> Result<QuicConfig, QuicConfigError> {
        let buffer = usize::try_from(self.udp_buffer).unwrap_or(usize::MAX);
        let config = QuicConfig::default()
            .offload(self.quic_gso)
            .congestion(self.quic_congestion)
            .max_datagram(self.quic_max_datagram)?
            .socket_buffer(buffer.saturating_mul(1024))?;
        #[cfg(feature = "qlog")]
        let config = match &self.qlog {
            Some(folder) => config.qlog(folder),
            None => config,
        };
        Ok(config)
    }
}

/// The log level by default.
const LOG: &str = "info";

/// Checks what cannot be kept as it is: a filter is made once, and not cloned.
fn log_filter(text: &str) -> Result<String, ParseError> {
    // A variable that is set to nothing, as manifests do it, is one that is not set.
    let text = if text.is_empty() { LOG } else { text };
    EnvFilter::try_new(text)?;
    Ok(text.to_owned())
}

fn idle_timeout(text: &str) -> Result<IdleTimeout, Box<dyn Error + Send + Sync>> {
    Ok(humantime::parse_duration(text)?.try_into()?)
}

fn resume_window(text: &str) -> Result<ResumeWindow, Box<dyn Error + Send + Sync>> {
    Ok(humantime::parse_duration(text)?.try_into()?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For machines: one object a line
    Json,
}

impl From<LogFormat> for LogForm {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Each program has the flags that mean something to it.
    #[test]
    fn no_flag_is_the_clients() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        let serve = command.find_subcommand_mut("serve").unwrap();
        for help in [help, serve.render_long_help().to_string()] {
            assert!(!help.contains("--api"), "{help}");
        }
    }

    #[test]
    fn a_resume_window_of_more_than_an_hour_is_refused() {
        assert_eq!(resume_window("60s").unwrap(), ResumeWindow::default());
        let error = resume_window("61m").unwrap_err().to_string();
        assert!(error.contains("at most 3600s"), "{error}");
    }

    #[test]
    fn an_idle_timeout_is_what_load_balancers_need() {
        let serve = |more: &[&str]| {
            let line = ["underpass-server", "serve"].iter().chain(more);
            match Cli::try_parse_from(line).map(|cli| cli.command) {
                Ok(Command::Serve(serve)) => Ok(serve.idle_timeout),
                Ok(_) => panic!("another command"),
                Err(error) => Err(error.to_string()),
            }
        };
        assert_eq!(serve(&[]), Ok(IdleTimeout::default()));
        assert_ne!(serve(&["--idle-timeout", "65s"]), serve(&[]));
        let error = serve(&["--idle-timeout", "2h"]).unwrap_err();
        assert!(error.contains("not from 1s to 1h"), "{error}");
    }

    #[test]
    fn the_defaults_of_quic_are_the_librarys() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            quic: Quic,
        }
        let parse = |args: &[&str]| <Line as clap::Parser>::try_parse_from(args);
        let config = parse(&["x"]).unwrap().quic.config();
        assert_eq!(config, Ok(QuicConfig::default()));
        let bad = parse(&["x", "--quic-max-datagram", "9000"]).unwrap();
        assert!(bad.quic.config().is_err());
        assert!(parse(&["x", "--quic-gso", "perhaps"]).is_err());
    }
}
