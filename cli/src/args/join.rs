//! The command line of agents and their join tokens.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use underpass_core::service_account::Account;
use underpass_core::{AgentRole, ClusterName};

/// A join token to make.
#[derive(Debug, Args)]
pub(crate) struct NewJoinToken {
    /// Number of agents that may join with the token, 1000 at the most
    #[arg(long, default_value = "1", value_name = "NUMBER")]
    pub(crate) uses: u32,
    /// Time in which they may, 30d at the most
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Duration,
    /// Role of the agents: cluster serves the API server, node is for an agent on a node
    #[arg(long, default_value = "cluster", value_name = "cluster|node")]
    pub(crate) role: AgentRole,
    /// Description, for lists
    #[arg(long)]
    pub(crate) description: Option<String>,
}

/// Where a secret goes that is shown once.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// New file for it, readable by its owner only, instead of standard output. A file that exists is not overwritten
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// The first agent of a cluster.
#[derive(Debug, Args)]
pub(crate) struct FirstAgent {
    #[command(flatten)]
    pub(crate) join: NewJoinToken,
    /// Print manifests of an agent with this image that runs in its cluster, instead of the token alone. Apply what
    /// `underpass-agent rbac --key-secret underpass-agent-key` prints first
    #[arg(long, value_name = "IMAGE")]
    pub(crate) manifest: Option<String>,
    /// Print a static token instead, a key that the server makes: for agents that cannot keep a key of their own
    #[arg(long, conflicts_with_all = ["manifest", "uses", "expires", "role", "description"])]
    pub(crate) static_token: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinToken {
    /// Create a join token, and print it once
    Create {
        /// Cluster of the agents
        cluster: ClusterName,
        #[command(flatten)]
        join: NewJoinToken,
        #[command(flatten)]
        output: Output,
    },
    /// List the join tokens of a cluster, without their secrets
    List {
        /// Cluster of the tokens
        cluster: ClusterName,
    },
    /// Delete a join token: no agent joins with it any more, and those that have joined stay
    Delete {
        /// Cluster of the token
        cluster: ClusterName,
        /// Id of the token, from `cluster join-token list`
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinAccount {
    /// Let the pods of a ServiceAccount join. An agent of the role cluster has to be connected while they do
    Add {
        /// Cluster of the account
        cluster: ClusterName,
        /// The account
        #[arg(value_name = "NAMESPACE/ACCOUNT")]
        account: Account,
        /// Role of its pods
        #[arg(long, value_name = "cluster|node")]
        role: AgentRole,
    },
    /// List the accounts of a cluster
    List {
        /// Cluster of the accounts
        cluster: ClusterName,
    },
    /// Let no more pods of a ServiceAccount join. Those that have joined stay: `underpass agent revoke` ends them
    Delete {
        /// Cluster of the account
        cluster: ClusterName,
        /// The account
        #[arg(value_name = "NAMESPACE/ACCOUNT")]
        account: Account,
    },
}

/// Agents whose keys are to be rotated.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AgentsToRotate {
    /// Id of the agent, from `agent list`; it stays
    pub(crate) id: Option<String>,
    /// All agents of this cluster that are connected, four each second at the most. Each has a line on standard output. One that fails
    /// stops none of the others, and gives the exit status 1; those that are not connected, and those with static tokens, are skipped
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) all: Option<ClusterName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List the agents, with the join token or ServiceAccount that they have joined by, their nodes, and since when they have
    /// their keys
    List {
        /// Only of this cluster
        #[arg(long)]
        cluster: Option<ClusterName>,
    },
    /// Have an agent that is connected, or all of a cluster, rotate its key now. Nothing that is open breaks. By itself an agent does so
    /// when its key is old enough (`underpass-agent --key-lifetime`)
    Rotate(AgentsToRotate),
    /// Revoke an agent: it is disconnected, and its key counts for nothing. Other agents of the cluster stay
    Revoke {
        /// Id of the agent, from `agent list`
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;

    fn parses(line: &[&str]) -> bool {
        Cli::try_parse_from([&["underpass", "cluster"], line].concat()).is_ok()
    }

    #[test]
    fn one_agent_is_rotated_or_all_of_a_cluster() {
        let parses = |line: &[&str]| {
            let line = [&["underpass", "agent", "rotate"], line].concat();
            Cli::try_parse_from(line).is_ok()
        };
        for good in [&["0123"][..], &["--all", "edge"]] {
            assert!(parses(good), "{good:?}");
        }
        for bad in [&[][..], &["--all"], &["0123", "--all", "edge"], &["a", "b"]] {
            assert!(!parses(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_agent_joins_or_has_a_static_token_or_is_not_needed() {
        for good in [
            &["add", "edge"][..],
            &[
                "add",
                "edge",
                "--uses",
                "3",
                "--role",
                "node",
                "--expires",
                "2d",
            ],
            &["add", "edge", "--static-token", "--label", "a=b"],
            &["add", "edge", "--manifest", "agent:1"],
            &["add", "edge", "--output", "f"],
            &["join-account", "add", "edge", "a/b", "--role", "node"],
            &["join-account", "delete", "edge", "a/b"],
            &["join-token", "create", "edge", "--output", "f"],
            &["join-token", "create", "edge", "--uses", "9"],
            &["join-token", "delete", "edge", "0123"],
        ] {
            assert!(parses(good), "{good:?}");
        }
        for bad in [
            &["add", "edge", "--static-token", "--uses", "3"][..],
            &["add", "edge", "--static-token", "--manifest", "agent:1"],
            &["add", "edge", "--kubeconfig", "k", "--static-token"],
            &["add", "edge", "--kubeconfig", "k", "--manifest", "agent:1"],
            &["add", "edge", "--kubeconfig", "k", "--uses", "3"],
            &["add", "edge", "--kubeconfig", "k", "--output", "f"],
            &["add", "edge", "--role", "king"],
            &["join-token", "create"],
            &["join-account", "add", "edge", "a/b"],
            &["join-account", "add", "edge", "a", "--role", "node"],
        ] {
            assert!(!parses(bad), "{bad:?}");
        }
    }
}
