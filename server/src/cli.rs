//! The command line.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use underpass_core::{Authority, ClusterName};
use underpass_directory::{Name, Role};
use underpass_tunnel::ResumeWindow;
use underpass_tunnel::transport::quic::{Congestion, Offload, QuicConfig, QuicConfigError};

use crate::client::Elsewhere;
use crate::{audit, budgets, hops};

/// Reaches Kubernetes clusters behind NAT: authenticates callers and carries their API calls to
/// agents that dial out.
#[derive(Debug, Parser)]
#[command(name = "underpass-server", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Folder of the server's CA and directory
    #[arg(
        long,
        global = true,
        env = "UNDERPASS_DATA_DIR",
        default_value = "underpass-data"
    )]
    pub(crate) data_dir: PathBuf,
    /// File with the key that credentials in the directory are encrypted with (32 bytes in base64); repeat
    /// for older keys, which decrypt only. Without it, secrets.key in the data directory, made at the start
    #[arg(
        long = "secrets-key-file",
        global = true,
        env = "UNDERPASS_SECRETS_KEY_FILES",
        value_delimiter = ',',
        value_name = "FILE"
    )]
    pub(crate) secrets_key_files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) elsewhere: Elsewhere,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(Box<Serve>),
    /// Clusters, and the tokens of their agents
    #[command(subcommand)]
    Cluster(Cluster),
    /// Tokens of agents
    #[command(subcommand)]
    Agent(Agent),
    /// Users, and which clusters they may reach
    #[command(subcommand)]
    User(User),
    /// Groups of users
    #[command(subcommand)]
    Group(Group),
    /// Who may reach which clusters, and as what
    #[command(subcommand)]
    Binding(Binding),
    /// Users' tokens
    #[command(subcommand)]
    Token(Token),
    /// Write a kubeconfig that works at once
    Kubeconfig(Kubeconfig),
    /// Log in at a server (--api), and keep the token that it gives
    Login(Login),
    /// Forget a login (--api), here and at the server
    Logout,
    /// Print the token of a login (--api) as kubectl wants it from a plugin, and renew it in time
    Credential,
    /// Show who one is at the server, and what one may reach
    Whoami,
    /// Print the hash of the server's CA, for agents' --ca-pin
    CaPin,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The name to log in with, of the directory or of an identity provider that takes passwords
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// File with the password; `-` for standard input; asked for without it
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Log in with a code that is confirmed in a browser, where the server has an identity provider for that (GitHub)
    #[arg(long, conflicts_with_all = ["user", "password_file"])]
    pub(crate) device: bool,
    /// How long the token is good for: 12h at the most, and without saying
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address for HTTPS (TCP) and QUIC (UDP); port 0 takes a free one
    #[arg(
        long,
        env = "UNDERPASS_LISTEN",
        default_value = "[::]:8443",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) listen: SocketAddr,
    /// DNS name or IP address that users and agents reach the server by; repeat for more. The
    /// first goes into kubeconfigs
    #[arg(
        long = "name", env = "UNDERPASS_NAMES", value_delimiter = ',', value_name = "NAME",
        default_values = ["localhost", "127.0.0.1", "::1"]
    )]
    pub(crate) names: Vec<String>,
    /// Where to serve metrics (Prometheus, plain HTTP), for whoever may reach it: they name clusters; nowhere unless set
    #[arg(long, env = "UNDERPASS_METRICS", value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Port that users reach the server at, where it is not the one listened on
    #[arg(long, env = "UNDERPASS_PUBLIC_PORT", value_name = "PORT")]
    pub(crate) public_port: Option<u16>,
    /// File that says how callers are authenticated (docs/AUTHENTICATION.md), read again when it
    /// changes; without it, by Underpass's own tokens
    #[arg(long, env = "UNDERPASS_AUTHENTICATION", value_name = "FILE")]
    pub(crate) authentication: Option<PathBuf>,
    /// File with the first administrator's token, for the first start with a data directory; where there is no such file,
    /// it is made, readable by its owner only. Without it, admin.token in the data directory
    #[arg(long, env = "UNDERPASS_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Program that direct clusters may have as their credential plugin, by its absolute path; repeat for
    /// more. Administrators choose its arguments
    #[arg(
        long = "allow-exec-plugin",
        env = "UNDERPASS_EXEC_PLUGINS",
        value_delimiter = ',',
        value_name = "PATH"
    )]
    pub(crate) exec_plugins: Vec<PathBuf>,
    /// Variable that direct clusters may set for their credential plugin, beside those of common plugins that
    /// docs/DIRECT.md lists; repeat for more. Allow none that names a program or a file to run
    #[arg(
        long = "allow-exec-plugin-variable",
        env = "UNDERPASS_EXEC_PLUGIN_VARIABLES",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub(crate) exec_plugin_variables: Vec<String>,
    /// Time for requests in flight when the server is told to stop
    #[arg(long, env = "UNDERPASS_DRAIN", default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// How long an agent's streams wait for it when its connection is lost, an hour at the most; 0s ends them with it
    #[arg(long, env = "UNDERPASS_RESUME_WINDOW", default_value = "60s", value_name = "TIME", value_parser = resume_window)]
    pub(crate) resume_window: ResumeWindow,
    #[command(flatten)]
    pub(crate) hops: hops::Options,
    #[command(flatten)]
    pub(crate) audit: audit::Options,
    #[command(flatten)]
    pub(crate) budgets: budgets::Options,
    #[command(flatten)]
    pub(crate) quic: Quic,
    /// What is logged: error, warn, info, debug or trace, or by part, as in info,underpass_tunnel=debug
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

/// What is logged unless somebody says more.
const LOG: &str = "info";

/// Checks what cannot be kept as it is: a filter is made once, and not cloned.
fn log_filter(text: &str) -> Result<String, ParseError> {
    // A variable that is set to nothing, as manifests do it, is one that is not set.
    let text = if text.is_empty() { LOG } else { text };
    EnvFilter::try_new(text)?;
    Ok(text.to_owned())
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

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make a token for an agent of the cluster (and the cluster, if it is new), printed once; or, with
    /// --kubeconfig, a cluster that the server reaches itself
    Add {
        /// 1 to 63 of a-z, 0-9 and '-'
        name: ClusterName,
        /// What bindings may choose the cluster by; repeat for more
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Kubeconfig by which the server reaches the API server itself, without an agent; what it says is
        /// read now, and the credential stored encrypted. A direct cluster that is there gets these
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// Its context, where it is not the current one
        #[arg(long, requires = "kubeconfig", value_name = "NAME")]
        context: Option<String>,
        #[command(flatten)]
        policy: DirectPolicy,
    },
    /// Show the clusters, and whether they can be reached
    List,
    /// Change what bindings may choose a cluster by
    Label {
        /// As `cluster list` shows it
        name: ClusterName,
        /// Labels to set, and KEY- to remove one
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<String>,
    },
    /// Forget a cluster: its agents are cut off, and what is open to it ends
    Remove {
        /// As `cluster list` shows it
        name: ClusterName,
    },
}

/// Who is impersonated in a direct cluster. For others their agents say.
#[derive(Debug, Args)]
pub(crate) struct DirectPolicy {
    /// ServiceAccounts of this namespace may be impersonated; repeat for more
    #[arg(long, requires = "kubeconfig", value_name = "NAMESPACE")]
    pub(crate) allow_service_accounts: Vec<String>,
    /// This user is never impersonated; repeat for more. Those of Kubernetes itself (system:…) are not in
    /// any case
    #[arg(long = "deny-user", requires = "kubeconfig", value_name = "NAME")]
    pub(crate) deny_users: Vec<String>,
    /// Members of this group are never impersonated; repeat for more
    #[arg(long = "deny-group", requires = "kubeconfig", value_name = "NAME")]
    pub(crate) deny_groups: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Show the tokens of agents, never the secrets
    List {
        /// Of this cluster only
        #[arg(long)]
        cluster: Option<ClusterName>,
    },
    /// Revoke one token: the agent that uses it is cut off, others of its cluster go on
    Revoke {
        /// As `agent list` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Make a group of users, or replace its members
    Set {
        /// The name that clusters and bindings know the group by
        name: Name,
        /// User in it; repeat for more
        #[arg(long = "member", value_name = "USER")]
        members: Vec<Name>,
        /// Authenticator whose group of this name is this group, as KIND/NAME, such as ldap/corp; repeat for more
        #[arg(long = "link", value_name = "AUTHORITY")]
        links: Vec<Authority>,
    },
    /// Show the groups
    List,
    /// Forget a group, and what bindings gave it
    Remove {
        /// As `group list` shows it
        name: Name,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Binding {
    /// Make a binding, or replace it
    Set(NewBinding),
    /// Show the bindings
    List,
    /// Forget a binding: what rests on it ends
    Remove {
        /// As `binding list` shows it
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewBinding {
    /// What to call it
    pub(crate) name: Name,
    /// What it lets its subjects do: view, access, shell, services, operate or admin
    #[arg(long)]
    pub(crate) role: Role,
    /// User, of the directory or of an identity provider; repeat for more
    #[arg(long = "user", value_name = "USER")]
    pub(crate) users: Vec<Name>,
    /// Group, of the directory or of an identity provider; repeat for more
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// Who has to give these names: `directory`, or an authenticator as KIND/NAME, such as ldap/corp; without it whoever
    /// does, except that no authenticator gives names of the directory that are not linked to it
    #[arg(long)]
    pub(crate) authority: Option<Authority>,
    /// Cluster; repeat for more
    #[arg(long = "cluster", value_name = "CLUSTER")]
    pub(crate) clusters: Vec<ClusterName>,
    /// Clusters that have this label, and all others that are given
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Every cluster, those to come included
    #[arg(long)]
    pub(crate) all_clusters: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Make a user, or add to what an existing one may do
    Add {
        /// The name that clusters know the user by
        name: Name,
        #[command(flatten)]
        rights: Rights,
        /// Authenticator whose user of this name is this user, as KIND/NAME, such as ldap/corp; repeat for more
        #[arg(long = "link", value_name = "AUTHORITY")]
        links: Vec<Authority>,
    },
    /// Say which authenticators give this user's name; whoever bears it at another one is refused
    Link {
        /// As `user list` shows it
        name: Name,
        /// Each of them, as KIND/NAME, such as ldap/corp or certificate/admins; none takes every link away
        #[arg(value_name = "AUTHORITY")]
        authorities: Vec<Authority>,
    },
    /// Show the users
    List,
    /// Give a user a password to log in with: whoever logged in with the one before is logged out
    Password {
        /// As `user list` shows it
        name: Name,
        /// File with the new password; `-` for standard input; asked for without it
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// File with the password until now, which one's own change needs
        #[arg(long, value_name = "FILE")]
        current_password_file: Option<PathBuf>,
        /// Take the password away
        #[arg(long, conflicts_with_all = ["password_file", "current_password_file"])]
        remove: bool,
    },
    /// Let a user's tokens count for nothing, for now: what they have open ends
    Disable {
        /// As `user list` shows it
        name: Name,
    },
    /// Let them count again
    Enable {
        /// As `user list` shows it
        name: Name,
    },
    /// Forget a user and their tokens: what they have open ends
    Remove {
        /// As `user list` shows it
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rights {
    /// Group that clusters see the user in; repeat for more
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// Cluster that the user may reach; repeat for more
    #[arg(long = "cluster", value_name = "CLUSTER")]
    pub(crate) clusters: Vec<ClusterName>,
    /// The user may reach every cluster
    #[arg(long)]
    pub(crate) all_clusters: bool,
    /// What the user may do there: view, access, shell, services, operate or admin
    #[arg(long, default_value = "operate")]
    pub(crate) role: Role,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; printed once
    Create(NewToken),
    /// Show the tokens: whose, and until when; never the secret
    List {
        /// Of this user only
        #[arg(long)]
        user: Option<String>,
    },
    /// Revoke a token: what was opened with it ends
    Revoke {
        /// The id's first characters, as `token list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// Whose; with --api, one's own without it
    #[arg(long)]
    pub(crate) user: Option<Name>,
    /// How long it is good for, like 12h or 90d
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Duration,
    /// Cluster that it is good for, and no other; repeat for more
    #[arg(long = "cluster", value_name = "CLUSTER")]
    pub(crate) clusters: Vec<ClusterName>,
    /// It is good for requests that change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What to call it
    #[arg(long)]
    pub(crate) description: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    /// Whose; made if there is no such user
    #[arg(long, required_unless_present = "exec")]
    pub(crate) user: Option<Name>,
    /// Cluster to reach, which the user is then allowed to; repeat for more
    #[arg(
        long = "cluster",
        required_unless_present = "exec",
        value_name = "CLUSTER"
    )]
    pub(crate) clusters: Vec<ClusterName>,
    /// Use the login at --api instead of a new token: kubectl runs `underpass-server credential`. For all clusters that one
    /// may reach, or some of them
    #[arg(long, conflicts_with_all = ["user", "groups", "read_only", "expires"])]
    pub(crate) exec: bool,
    /// Group to add the user to; repeat for more
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// What the user may do there: view, access, shell, services, operate or admin
    #[arg(long, default_value = "operate")]
    pub(crate) role: Role,
    /// The new token is good for requests that change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// How long the new token is good for, like 12h or 90d
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Duration,
    /// The server's URL, where it is not what `serve` was last started with
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// File to write, readable by its owner only; stdout without it
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_resume_window_of_more_than_an_hour_is_refused() {
        assert_eq!(resume_window("60s").unwrap(), ResumeWindow::default());
        let error = resume_window("61m").unwrap_err().to_string();
        assert!(error.contains("at most 3600s"), "{error}");
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
