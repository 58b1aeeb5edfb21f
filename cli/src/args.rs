//! The command line.

mod exec;
mod join;
mod node;
mod proxy;
mod registration;
mod shell;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use underpass_core::{Authority, ClusterName, Name, NodeName, Role};
use underpass_forward::{ListenAddress, Rule};

pub(crate) use self::exec::Exec;
pub(crate) use self::join::{
    Agent, AgentsToRotate, FirstAgent, JoinAccount, JoinToken, NewJoinToken, Output,
};
pub(crate) use self::node::{Argument, Node, NodeOperations, NodeRun};
pub(crate) use self::proxy::Proxy;
pub(crate) use self::registration::Credentials;
pub(crate) use self::shell::{AFTER_SHELL, At, Play, Shell, ShellCommand};

const AFTER_HELP: &str = "\
Log in once, and kubectl uses the login:
  underpass login --api https://underpass.example.org:8443 --user alice
  underpass kubeconfig --exec --output ~/.kube/config

On the server's machine, its owner needs no login:
  underpass --socket underpass-data/api.sock cluster list";

const AFTER_FORWARD: &str = "\
Examples:
  underpass forward edge 8080:grafana.monitoring:80
  underpass forward edge --node worker-1 ./docker.sock:unix:/run/docker.sock
  docker -H unix://./docker.sock ps";

/// Reaches Kubernetes clusters through an Underpass server: logs in, writes kubeconfigs, and changes the
/// server's directory
#[derive(Debug, Parser)]
#[command(name = "underpass", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) which: Which,
}

/// The server to ask. Without a flag: underpass-data/api.sock if there is one, and else the server of the only login.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The server")]
pub(crate) struct Which {
    /// URL of the server, which is asked with the saved login or --api-token-file
    #[arg(long, global = true, env = "UNDERPASS_API", value_name = "URL")]
    pub(crate) api: Option<String>,
    /// CA certificate of the server at --api, as PEM; without it, the CAs that the system trusts
    #[arg(
        long,
        global = true,
        env = "UNDERPASS_API_CA_FILE",
        value_name = "FILE"
    )]
    pub(crate) api_ca_file: Option<PathBuf>,
    /// File with a token for the server at --api
    #[arg(
        long,
        global = true,
        env = "UNDERPASS_API_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub(crate) api_token_file: Option<PathBuf>,
    /// Socket of a server on this machine, api.sock in its data directory. Its owner is an administrator there without a
    /// token
    #[arg(long, global = true, env = "UNDERPASS_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in at a server (--api), and save the login
    Login(Login),
    /// Revoke a login at the server, and remove it here
    Logout,
    /// Show the current user, and the clusters to reach
    Whoami,
    /// Write a kubeconfig
    Kubeconfig(Kubeconfig),
    /// Lead ports and sockets of this machine to services of a cluster, or to a node of it, until Ctrl-C
    #[command(after_help = AFTER_FORWARD)]
    Forward(Forward),
    /// Open a shell at an agent of a cluster, or attach to one
    #[command(after_help = AFTER_SHELL)]
    Shell(Shell),
    /// Run a command in a pod, as kubectl does, through a session that survives a loss of your network
    #[command(after_help = exec::AFTER_EXEC)]
    Exec(Exec),
    /// Let kubectl, helm, k9s and others reach clusters through a session, so that a loss of your network ends none of their streams
    #[command(after_help = proxy::AFTER_PROXY)]
    Proxy(Proxy),
    /// Print the token of a login for kubectl, which runs this as a credential plugin
    Credential,
    /// Clusters, and join tokens for their agents
    #[command(subcommand)]
    Cluster(Cluster),
    /// Agents of clusters
    #[command(subcommand)]
    Agent(Agent),
    /// Nodes of clusters, and operations on them
    #[command(subcommand)]
    Node(Node),
    /// Users of the directory
    #[command(subcommand)]
    User(User),
    /// Groups of users
    #[command(subcommand)]
    Group(Group),
    /// Bindings, which give users and groups a role in clusters
    #[command(subcommand)]
    Binding(Binding),
    /// Tokens of users
    #[command(subcommand)]
    Token(Token),
    /// Print a script that completes commands and flags in a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Does it lead the connections of other programs, for as long as it runs?
    pub(crate) fn has_many_connections(&self) -> bool {
        matches!(
            self,
            Self::Forward(_) | Self::Shell(_) | Self::Exec(_) | Self::Proxy(_)
        )
    }
}

#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// Name of the cluster
    pub(crate) cluster: ClusterName,
    /// Port of this machine, and where in the cluster it leads: HOST:PORT, SERVICE.NAMESPACE:PORT or unix:PATH, with an IPv6 address
    /// in brackets. Port 0 is any free one; repeat for more. Without an ADDRESS, 127.0.0.1. In place of a port, the PATH of a Unix
    /// socket, as in ./docker.sock or /run/user/1000/docker.sock: it is made for your user alone, and removed at the end
    #[arg(value_name = "[ADDRESS:]PORT:TARGET|PATH:TARGET")]
    pub(crate) rules: Vec<Rule>,
    /// Listen for programs that name their targets themselves, by SOCKS5 or HTTP CONNECT. The cluster resolves the names
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    pub(crate) socks5: Option<ListenAddress>,
    /// Lead to targets at this node of the cluster, whose own agent connects: its sockets, its ports and its network. `underpass node
    /// list` shows the nodes
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
    /// Print a line for each connection
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The name of the user, in the directory or at an identity provider that takes passwords
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// File with the password, or - for standard input. Without it, the terminal asks
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Log in with a code that you confirm in a browser, at servers with GitHub as an identity provider
    #[arg(long, conflicts_with_all = ["user", "password_file"])]
    pub(crate) device: bool,
    /// Server with the same app at the identity provider, which a login with --device was made at before. One organization runs
    /// both: the server of this login gets a token that opens that one as well
    #[arg(long, requires = "device", value_name = "URL")]
    pub(crate) same_app_as: Option<String>,
    /// Life of the login's token, 12h at the most. Without it, 12h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Add a cluster, and print a join token for its agent once; with --kubeconfig, a cluster that the server reaches
    /// without an agent
    Add {
        /// 1 to 63 of a-z, 0-9 and '-'
        name: ClusterName,
        /// Label, by which bindings select the cluster; repeat for more
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Kubeconfig by which the server reaches the API server without an agent. It is read now, and its
        /// credential is stored encrypted. Replaces the endpoint and credential of such a cluster
        #[arg(
            long,
            value_name = "FILE",
            conflicts_with_all = ["static_token", "manifest", "uses", "expires", "role", "description", "output"]
        )]
        kubeconfig: Option<PathBuf>,
        /// Context of the kubeconfig. Without it, the current one
        #[arg(long, requires = "kubeconfig", value_name = "NAME")]
        context: Option<String>,
        #[command(flatten)]
        policy: DirectPolicy,
        #[command(flatten)]
        agent: FirstAgent,
    },
    /// Join tokens, with which agents register their own keys
    #[command(subcommand)]
    JoinToken(JoinToken),
    /// ServiceAccounts of a cluster whose pods join as agents, by their own tokens
    #[command(subcommand)]
    JoinAccount(JoinAccount),
    /// Credentials for clusters' API servers that agents register, for times at which none is connected
    #[command(subcommand)]
    Credentials(Credentials),
    /// List the clusters, and their connections
    List,
    /// Change the labels of a cluster
    Label {
        /// Name of the cluster
        name: ClusterName,
        /// Labels to set, and KEY- to remove one
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<String>,
    },
    /// Let agents on the nodes of a cluster serve its API server while no agent of the role cluster is connected, or forbid it.
    /// Then each administrator of a node whose agent's policy allows it can answer for the cluster
    StandIn {
        /// Name of the cluster
        name: ClusterName,
        /// Whether its nodes may
        #[arg(value_name = "allow|deny")]
        may: StandIn,
    },
    /// Remove a cluster: its agents are disconnected, and open streams to it end
    Remove {
        /// Name of the cluster
        name: ClusterName,
    },
}

/// May agents on nodes stand in for a cluster's agents?
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StandIn {
    Allow,
    Deny,
}

/// The impersonation policy of a direct cluster. Agents have their own for other clusters.
#[derive(Debug, Args)]
pub(crate) struct DirectPolicy {
    /// Allow impersonation of ServiceAccounts of this namespace; repeat for more
    #[arg(long, requires = "kubeconfig", value_name = "NAMESPACE")]
    pub(crate) allow_service_accounts: Vec<String>,
    /// Never impersonate this user; repeat for more. Users of Kubernetes itself (system:…) are never
    /// impersonated
    #[arg(long = "deny-user", requires = "kubeconfig", value_name = "NAME")]
    pub(crate) deny_users: Vec<String>,
    /// Never impersonate members of this group; repeat for more
    #[arg(long = "deny-group", requires = "kubeconfig", value_name = "NAME")]
    pub(crate) deny_groups: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Create a group of users, or replace its members
    Set {
        /// Name of the group, in clusters and bindings
        name: Name,
        /// User in the group; repeat for more
        #[arg(long = "member", value_name = "USER")]
        members: Vec<Name>,
        /// Authenticator whose group of this name is this group, as KIND/NAME, such as ldap/corp; repeat for more
        #[arg(long = "link", value_name = "AUTHORITY")]
        links: Vec<Authority>,
    },
    /// List the groups
    List,
    /// Remove a group, also from bindings
    Remove {
        /// Name of the group
        name: Name,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Binding {
    /// Create a binding, or replace it
    Set(NewBinding),
    /// List the bindings
    List,
    /// Remove a binding: streams that need it end
    Remove {
        /// Name of the binding
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewBinding {
    /// Name of the binding
    pub(crate) name: Name,
    /// Role of the subjects: view, access, shell, services, operate, operations or admin
    #[arg(long)]
    pub(crate) role: Role,
    /// User, of the directory or of an identity provider; repeat for more
    #[arg(long = "user", value_name = "USER")]
    pub(crate) users: Vec<Name>,
    /// Group, of the directory or of an identity provider; repeat for more
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// Authority that must vouch for these names: `directory`, or an authenticator as KIND/NAME, such as ldap/corp.
    /// Without it, any authority; names of the directory need a link all the same
    #[arg(long)]
    pub(crate) authority: Option<Authority>,
    /// Cluster; repeat for more
    #[arg(long = "cluster", value_name = "CLUSTER")]
    pub(crate) clusters: Vec<ClusterName>,
    /// Clusters with this label; with several, clusters with all of them
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Every cluster, also future ones
    #[arg(long)]
    pub(crate) all_clusters: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Create a user, or give an existing one more rights
    Add {
        /// Name of the user, in clusters
        name: Name,
        #[command(flatten)]
        rights: Rights,
        /// Authenticator whose user of this name is this user, as KIND/NAME, such as ldap/corp; repeat for more
        #[arg(long = "link", value_name = "AUTHORITY")]
        links: Vec<Authority>,
    },
    /// Set the authenticators that vouch for this user's name; users of this name at others are refused
    Link {
        /// Name of the user
        name: Name,
        /// Authenticators as KIND/NAME, such as ldap/corp or certificate/admins; none removes all links
        #[arg(value_name = "AUTHORITY")]
        authorities: Vec<Authority>,
    },
    /// List the users
    List,
    /// Set a user's password: logins with the old one end
    Password {
        /// Name of the user
        name: Name,
        /// File with the new password, or - for standard input. Without it, the terminal asks
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// File with the current password, which users need to change their own
        #[arg(long, value_name = "FILE")]
        current_password_file: Option<PathBuf>,
        /// Remove the password
        #[arg(long, conflicts_with_all = ["password_file", "current_password_file"])]
        remove: bool,
    },
    /// Suspend a user: their tokens stop working, and open streams end
    Disable {
        /// Name of the user
        name: Name,
    },
    /// End a suspension: the user's tokens work again
    Enable {
        /// Name of the user
        name: Name,
    },
    /// Remove a user and their tokens: open streams end
    Remove {
        /// Name of the user
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rights {
    /// Group of the user, in clusters; repeat for more
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// Cluster that the user may reach; repeat for more
    #[arg(long = "cluster", value_name = "CLUSTER")]
    pub(crate) clusters: Vec<ClusterName>,
    /// The user may reach every cluster
    #[arg(long)]
    pub(crate) all_clusters: bool,
    /// Role of the user there: view, access, shell, services, operate, operations or admin
    #[arg(long, default_value = "operate")]
    pub(crate) role: Role,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Create a token, and print it once
    Create(NewToken),
    /// List the tokens, without their secrets
    List {
        /// Only of this user
        #[arg(long)]
        user: Option<String>,
    },
    /// Revoke a token: streams that it opened end
    Revoke {
        /// Id of the token, from `token list`, or its first characters
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// User of the token. Without it, the current user
    #[arg(long)]
    pub(crate) user: Option<Name>,
    /// Life of the token, like 12h or 90d
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Duration,
    /// Limit the token to this cluster; repeat for more
    #[arg(long = "cluster", value_name = "CLUSTER")]
    pub(crate) clusters: Vec<ClusterName>,
    /// Limit the token to requests that change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Description, for lists
    #[arg(long)]
    pub(crate) description: Option<String>,
}

/// How a kubeconfig names clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    Name,
    Path,
}

#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    /// User of the new token, created if there is none
    #[arg(long, required_unless_present = "exec")]
    pub(crate) user: Option<Name>,
    /// Cluster to reach, for which the user gets the role; repeat for more
    #[arg(
        long = "cluster",
        required_unless_present = "exec",
        value_name = "CLUSTER"
    )]
    pub(crate) clusters: Vec<ClusterName>,
    /// Use the saved login instead of a new token: kubectl runs `underpass credential`. Without --cluster, all
    /// clusters that the user may reach
    #[arg(long, conflicts_with_all = ["user", "groups", "read_only", "expires"])]
    pub(crate) exec: bool,
    /// Group to add the user to; repeat for more
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// Role of the user there: view, access, shell, services, operate, operations or admin
    #[arg(long, default_value = "operate")]
    pub(crate) role: Role,
    /// Limit the new token to requests that change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Life of the new token, like 12h or 90d
    #[arg(long, default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Duration,
    /// How clusters are named there: by a name of their own, or by a path at the server's. Without it, by name where that works
    #[arg(
        long,
        value_enum,
        value_name = "name|path",
        hide_possible_values = true
    )]
    pub(crate) style: Option<Style>,
    /// URL of the server in the kubeconfig. Without it, the server's own
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// File to write, readable by its owner only. Without it, standard output
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

    /// Each program has the flags that mean something to it.
    #[test]
    fn no_flag_is_the_servers() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        let login = command.find_subcommand_mut("login").unwrap();
        for help in [help, login.render_long_help().to_string()] {
            assert!(!help.contains("--data-dir"), "{help}");
            assert!(!help.contains("--secrets-key-file"), "{help}");
        }
    }
}
