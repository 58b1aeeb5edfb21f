//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use underpass_core::ImpersonationPolicy;
use underpass_terminal::LogForm;
use underpass_tunnel::transport::quic::{Congestion, Offload, QuicConfig, QuicConfigError};
use underpass_tunnel::{CaPin, LinkCount, ProxyUrl, ProxyUrlError, ServerAddress, Transports};
use url::Url;

use crate::key::KeyOptions;
use crate::policy::PolicyCommand;
use crate::rbac::Rbac;
use crate::register::RegisterOptions;

const AFTER_HELP: &str = "\
Proxies: the WebSocket goes through the proxy of HTTPS_PROXY, except to the servers of NO_PROXY and to \
this machine itself; --proxy and --no-proxy come before them. A password is better kept in the \
environment, where other users of the machine do not see it. QUIC cannot go through a proxy: it is tried \
past it, and the WebSocket follows; --transport websocket leaves QUIC out. The API server is reached \
through the proxy-url of its kubeconfig, and otherwise without a proxy.";

/// Dials out to an Underpass server and serves it this cluster's Kubernetes API, as the users that
/// the server names and with this agent's own credential; and what else its policy allows.
#[derive(Debug, Parser)]
#[command(name = "underpass-agent", version, max_term_width = 100, after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("trust").required(true).multiple(true)))]
#[command(group(ArgGroup::new("agent_key").required(true)))]
pub(crate) struct Cli {
    /// The server, as its certificate names it; repeat, or separate by commas, where there are
    /// several: one is used at a time, and the next one when it fails
    #[arg(
        long = "server", env = "UNDERPASS_SERVER", required = true, value_delimiter = ',',
        value_name = "https://HOST[:PORT]", value_parser = server
    )]
    pub(crate) servers: Vec<ServerAddress>,
    /// The server's CA, as PEM (`ca.pem` in the server's data directory). No other is trusted
    #[arg(long, env = "UNDERPASS_CA_FILE", value_name = "FILE", group = "trust")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The server's CA by its hash (`underpass-server ca-pin` prints it), instead of a file; with
    /// both, a CA of the file must have it
    #[arg(
        long,
        env = "UNDERPASS_CA_PIN",
        value_name = "sha256:HEX",
        group = "trust"
    )]
    pub(crate) ca_pin: Option<CaPin>,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// How to reach the API server; without it, as a pod of the cluster does
    #[arg(long, env = "UNDERPASS_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, where it is not the current one
    #[arg(
        long,
        env = "UNDERPASS_CONTEXT",
        value_name = "NAME",
        requires = "kubeconfig"
    )]
    pub(crate) context: Option<String>,
    /// How to reach the server
    #[arg(long, env = "UNDERPASS_TRANSPORT", default_value = "auto")]
    pub(crate) transport: Transport,
    /// How many connections to keep: two are one over QUIC and one over WebSocket where both get through, so that one
    /// that dies without a word costs no more than a blink. One halves what an idle agent costs the server
    #[arg(
        long,
        env = "UNDERPASS_LINKS",
        default_value = "two",
        value_name = "one|two"
    )]
    pub(crate) links: Links,
    /// HTTP or SOCKS5 proxy for WebSocket, instead of the environment's HTTPS_PROXY
    #[arg(
        long, env = "UNDERPASS_PROXY", hide_env_values = true, value_parser = proxy,
        value_name = "http[s]|socks5://[USER:PASSWORD@]HOST[:PORT]"
    )]
    pub(crate) proxy: Option<Result<Option<ProxyUrl>, ProxyUrlError>>,
    /// Servers to reach without a proxy, instead of the environment's NO_PROXY; `*` for all
    #[arg(
        long,
        env = "UNDERPASS_NO_PROXY",
        value_name = "HOST|.DOMAIN|NETWORK,..."
    )]
    pub(crate) no_proxy: Option<String>,
    /// CA of an https:// proxy's certificate, as PEM; without it, those that the system trusts
    #[arg(long, env = "UNDERPASS_PROXY_CA_FILE", value_name = "FILE")]
    pub(crate) proxy_ca_file: Option<PathBuf>,
    /// On WebSocket, when to look whether QUIC gets through; doubled each time that it does not, up to
    /// 10 minutes. 0s: never
    #[arg(long, env = "UNDERPASS_QUIC_PROBE", default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) quic_probe: Duration,
    /// How old a WebSocket becomes before a new one takes its place, without a break; half of it at the
    /// least. Less than the age at which load balancers cut connections. 0s: any age
    #[arg(long, env = "UNDERPASS_WEBSOCKET_MAX_AGE", default_value = "50m", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) websocket_max_age: Duration,
    /// On WebSocket, keep to one connection: copies (kubectl cp) get none of their own, and what they lose on
    /// the way holds up keystrokes
    #[arg(long, env = "UNDERPASS_NO_LANES")]
    pub(crate) no_lanes: bool,
    #[command(flatten)]
    pub(crate) quic: Quic,
    /// The agent's own policy (YAML): the TCP targets, Unix sockets and operations that streams may reach beside the API server, none
    /// without it. It is read again when it changes; `underpass-agent policy check FILE` looks for mistakes
    #[arg(long, env = "UNDERPASS_POLICY", value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Folder for the records of operations that the policy allows on this node, which no other agent uses; without it the agent
    /// runs none
    #[arg(long, env = "UNDERPASS_STATE_DIR", value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
    /// ServiceAccounts of this namespace may be impersonated; repeat for more
    #[arg(long = "allow-service-accounts", value_name = "NAMESPACE")]
    pub(crate) service_accounts: Vec<String>,
    /// Never impersonate this user; the server cannot override it; repeat for more. Those of Kubernetes
    /// itself (system:…) are not in any case
    #[arg(long = "deny-user", value_name = "NAME")]
    pub(crate) denied_users: Vec<String>,
    /// This group is never impersonated; repeat for more. For example one that the cluster binds to
    /// cluster-admin
    #[arg(long = "deny-group", value_name = "NAME")]
    pub(crate) denied_groups: Vec<String>,
    #[command(flatten)]
    pub(crate) register: RegisterOptions,
    /// Time for requests in flight when the agent is told to stop
    #[arg(long, env = "UNDERPASS_DRAIN", default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// Threads that move bytes. One carries some gigabits, or thousands of requests, in a second, and each of
    /// them with the least work; more are for more than that
    #[arg(
        long,
        env = "UNDERPASS_THREADS",
        default_value = "1",
        value_name = "NUMBER"
    )]
    pub(crate) threads: NonZeroUsize,
    /// Address for metrics (Prometheus, no authentication); no listener unless set
    #[arg(long, env = "UNDERPASS_METRICS", value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Log level: error, warn, info, debug or trace, or by part, as in info,underpass_tunnel=debug
    #[arg(
        long,
        env = "UNDERPASS_LOG",
        default_value = LOG,
        value_name = "FILTER",
        value_parser = log_filter
    )]
    pub(crate) log: String,
    /// How log lines are written to stderr
    #[arg(long, env = "UNDERPASS_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// The subcommands.
#[derive(Debug)]
pub(crate) enum Task {
    /// To serve its cluster.
    Serve(Box<Cli>),
    /// To print manifests.
    Rbac(Rbac),
    /// To check or explain a policy.
    Policy(PolicyCommand),
}

impl Task {
    /// Reads the command line, and ends the process where it is wrong.
    pub(crate) fn parse() -> Self {
        Self::try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads another command line than the process's.
    pub(crate) fn try_parse_from<I>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<std::ffi::OsString> + Clone,
    {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        let task = match matches.subcommand() {
            Some(("policy", policy)) => PolicyCommand::from_arg_matches(policy).map(Self::Policy),
            Some((_, rbac)) => Rbac::from_arg_matches(rbac).map(Self::Rbac),
            None => Cli::from_arg_matches(&matches).map(|cli| Self::Serve(Box::new(cli))),
        };
        task.map_err(|error| error.format(&mut command))
    }
}

/// Not derived: a derived subcommand would make every flag of the agent's optional.
fn command() -> clap::Command {
    Cli::command()
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .subcommand(Rbac::augment_args(clap::Command::new("rbac")))
        .subcommand(
            PolicyCommand::augment_subcommands(clap::Command::new("policy"))
                .subcommand_required(true)
                .arg_required_else_help(true),
        )
}

impl Cli {
    /// Rule 17: the identities that the server cannot have impersonated here. The policy adds to them.
    pub(crate) fn impersonation(&self) -> ImpersonationPolicy {
        let policy = ImpersonationPolicy::default();
        let accounts = self.service_accounts.iter();
        let policy = accounts.fold(policy, ImpersonationPolicy::allow_service_accounts);
        let users = self.denied_users.iter();
        let policy = users.fold(policy, ImpersonationPolicy::deny_user);
        let groups = self.denied_groups.iter();
        groups.fold(policy, ImpersonationPolicy::deny_group)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// QUIC, and WebSocket where QUIC does not get through
    Auto,
    /// QUIC only
    Quic,
    /// WebSocket over TLS only
    Websocket,
}

/// How QUIC uses the machine.
#[derive(Debug, Args)]
pub(crate) struct Quic {
    /// Whether the kernel cuts batches into UDP datagrams (GSO): auto (where a trial at start works),
    /// on or off. Off costs twice the CPU per byte, and more
    #[arg(
        long,
        env = "UNDERPASS_QUIC_GSO",
        default_value = "auto",
        value_name = "auto|on|off"
    )]
    pub(crate) quic_gso: Offload,
    /// How much is under way: as the path's measured rate says, or with Cubic, until it loses something, which makes
    /// little of a path that loses by itself
    #[arg(
        long,
        env = "UNDERPASS_QUIC_CONGESTION",
        default_value = "rate",
        value_name = "rate|cubic"
    )]
    pub(crate) quic_congestion: Congestion,
    /// Largest UDP datagram that is looked for on a path, 1200 to 6550 bytes; 1200 looks for none and
    /// costs a fifth more datagrams on ordinary paths
    #[arg(
        long,
        env = "UNDERPASS_QUIC_MAX_DATAGRAM",
        default_value = "6550",
        value_name = "BYTES"
    )]
    pub(crate) quic_max_datagram: u16,
    /// Receive and send buffer of each UDP socket, in KiB. More outlasts longer bursts; the system's
    /// net.core.rmem_max and wmem_max bound it
    #[arg(
        long,
        env = "UNDERPASS_UDP_BUFFER",
        default_value = "2048",
        value_name = "KIB"
    )]
    pub(crate) udp_buffer: u32,
    /// Folder for a trace of every QUIC packet: slow, and without bound
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

/// The log level unless a flag sets one.
pub(crate) const LOG: &str = "info";

/// Checks what cannot be kept as it is: a filter is made once, and not cloned.
fn log_filter(text: &str) -> Result<String, ParseError> {
    // A variable that is set to nothing, as manifests do it, is one that is not set.
    let text = if text.is_empty() { LOG } else { text };
    EnvFilter::try_new(text)?;
    Ok(text.to_owned())
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

/// How many connections a session keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Links {
    /// The one that carries the session
    One,
    /// One of each transport
    Two,
}

impl From<Links> for LinkCount {
    fn from(links: Links) -> Self {
        match links {
            Links::One => Self::One,
            Links::Two => Self::Two,
        }
    }
}

impl From<Transport> for Transports {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Auto => Self::Auto,
            Transport::Quic => Self::Quic,
            Transport::Websocket => Self::WebSocket,
        }
    }
}

fn server(text: &str) -> Result<ServerAddress, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    match (url.host(), url.port_or_known_default()) {
        (Some(host), Some(port)) if url.scheme() == "https" && bare => {
            // An IPv6 address has its brackets in URLs only.
            let host = match host {
                url::Host::Ipv6(address) => address.to_string(),
                other => other.to_string(),
            };
            Ok(ServerAddress { host, port })
        }
        _ => Err("expected https://HOST[:PORT]".to_owned()),
    }
}

/// An empty variable is one that is not set. An error is kept for later: clap would print the URL with it,
/// and that may hold a password.
fn proxy(text: &str) -> Result<Result<Option<ProxyUrl>, ProxyUrlError>, std::convert::Infallible> {
    if text.is_empty() {
        return Ok(Ok(None));
    }
    Ok(text.parse().map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn printing_manifests_needs_nothing_of_what_serving_needs() {
        let parse = |arguments: &[&str]| {
            Task::try_parse_from([&["underpass-agent"][..], arguments].concat())
        };
        let rbac = parse(&["rbac", "--users", "alice", "bob", "--constrained"]);
        assert!(matches!(rbac.unwrap(), Task::Rbac(_)));
        let nothing = parse(&[]).unwrap_err().to_string();
        assert!(nothing.contains("--token-file"), "{nothing}");
        assert!(nothing.contains("--key-file"), "{nothing}");
        let serve = [
            "--server",
            "https://a",
            "--ca-file",
            "ca",
            "--token-file",
            "t",
        ];
        assert!(matches!(parse(&serve).unwrap(), Task::Serve(_)));
        parse(&[&serve[..], &["rbac"]].concat()).unwrap_err();
        let policy = parse(&["policy", "check", "policy.yaml"]);
        assert!(matches!(policy.unwrap(), Task::Policy(_)));
        let target = "tcp:db.prod:5432";
        let policy = parse(&["policy", "explain", target, "--policy", "p"]);
        assert!(matches!(policy.unwrap(), Task::Policy(_)));
        parse(&["policy"]).unwrap_err();
        parse(&["policy", "explain", "db.prod", "--policy", "p"]).unwrap_err();
    }

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let usual = ["underpass-agent", "--token-file", "token"];
        Cli::try_parse_from(usual.iter().chain(arguments))
    }

    fn servers(cli: &Cli) -> Vec<String> {
        cli.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_server_is_a_bare_https_url() {
        let parsed = |text| server(text).map(|server| (server.host, server.port));
        assert_eq!(
            parsed("https://u.example.org"),
            Ok(("u.example.org".to_owned(), 443))
        );
        assert_eq!(
            parsed("https://127.0.0.1:8443/"),
            Ok(("127.0.0.1".to_owned(), 8443))
        );
        assert_eq!(parsed("https://[::1]:8443"), Ok(("::1".to_owned(), 8443)));
        for bad in [
            "u.example.org:8443",
            "http://u",
            "https://u/path",
            "https://a@u",
            "wss://u",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn servers_are_repeated_or_listed() {
        let two = ["a:443", "b:8443"];
        let ca = ["--ca-file", "ca.pem"];
        let repeated = ["--server", "https://a", "--server", "https://b:8443"];
        let cli = parse(&[&repeated[..], &ca].concat()).unwrap();
        assert_eq!(servers(&cli), two);
        let listed = ["--server", "https://a,https://b:8443"];
        let cli = parse(&[&listed[..], &ca].concat()).unwrap();
        assert_eq!(servers(&cli), two);
        assert!(parse(&ca).is_err(), "none at all");
    }

    #[test]
    fn rule_11_a_join_token_is_no_argument_and_a_key_is_of_one_kind() {
        let usual = ["underpass-agent", "--server", "https://a", "--ca-file", "c"];
        let parse = |more: &[&str]| Cli::try_parse_from([&usual[..], more].concat());
        let own = parse(&[
            "--key-file",
            "k",
            "--join-token-file",
            "j",
            "--role",
            "node",
        ]);
        assert!(own.is_ok(), "{own:?}");
        for bad in [
            &["--key-file", "k", "--token-file", "t"][..],
            &["--key-file", "k", "--key-secret", "a/b"],
            &["--key-secret", "b"],
            &["--key-file", "k", "--role", "king"],
            &["--join-token-file", "j"],
            &["--key-file", "k", "--join-token", "upj_secret"],
        ] {
            parse(bad).unwrap_err();
        }
    }

    #[test]
    fn the_ca_is_a_file_or_a_pin_or_both() {
        let server = ["--server", "https://a"];
        let file = ["--ca-file", "ca.pem"];
        let text = format!("sha256:{}", "ab".repeat(32));
        let pin = ["--ca-pin", &text];
        let neither = parse(&server).unwrap_err().to_string();
        assert!(neither.contains("--ca-file"), "{neither}");
        assert!(neither.contains("--ca-pin"), "{neither}");
        assert!(parse(&[server, file].concat()).is_ok());
        let cli = parse(&[server, pin].concat()).unwrap();
        assert_eq!(cli.ca_pin.unwrap().to_string(), text);
        assert!(parse(&[server, file, pin].concat()).is_ok());
        let bad = parse(&[server, ["--ca-pin", "abcd"]].concat());
        let bad = bad.unwrap_err().to_string();
        assert!(bad.contains("underpass-server ca-pin"), "{bad}");
    }

    #[test]
    fn rule_11_a_proxys_password_is_not_shown() {
        let usual = ["--server", "https://a", "--ca-file", "ca.pem"];
        for (url, sound) in [
            ("http://u:hunter2@p:1", true),
            ("ftp://u:hunter2@p:1", false),
        ] {
            let cli = parse(&[&usual[..], &["--proxy", url]].concat()).unwrap();
            let shown = format!("{cli:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(cli.proxy.unwrap().is_ok(), sound);
        }
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
