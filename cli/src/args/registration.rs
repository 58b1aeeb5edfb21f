//! `underpass cluster credentials`

use clap::Subcommand;
use underpass_core::{ClusterName, Network};

#[derive(Debug, Subcommand)]
pub(crate) enum Credentials {
    /// Let the agents of a cluster that are started with --register-credentials hand over a credential for its API server. The
    /// server reaches it with that while no agent is connected; an attacker who captures the server has the credential then
    Allow {
        /// Cluster of the agents
        cluster: ClusterName,
        /// Network in which the API server has to be, and nowhere else; repeat for more. Without it, anywhere but at this server's
        /// machine and at addresses of clouds' metadata
        #[arg(long = "address", value_name = "ADDRESS|NETWORK")]
        addresses: Vec<Network>,
    },
    /// Let the agents of a cluster register no credential any more, and delete the one that is there: open streams that use it end
    Deny {
        /// Cluster of the agents
        cluster: ClusterName,
    },
    /// List the registered credentials, with their ends, and the clusters whose agents may register one. Tokens are never shown
    List,
    /// Delete the registered credential of a cluster: open streams that use it end. Its agent registers another one within the
    /// hour, unless `deny` forbids it
    Delete {
        /// Cluster of the credential
        cluster: ClusterName,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;

    #[test]
    fn networks_are_read_strictly() {
        let parses = |line: &[&str]| {
            let line = [&["underpass", "cluster", "credentials"], line].concat();
            Cli::try_parse_from(line).is_ok()
        };
        for good in [
            &["list"][..],
            &["allow", "edge"],
            &[
                "allow",
                "edge",
                "--address",
                "10.0.0.0/8",
                "--address",
                "2001:db8::1",
            ],
            &["deny", "edge"],
            &["delete", "edge"],
        ] {
            assert!(parses(good), "{good:?}");
        }
        for bad in [
            &["allow"][..],
            &["allow", "edge", "--address", "api.example"],
            &["allow", "edge", "--address", "10.0.0.1/8"],
            &["delete"],
        ] {
            assert!(!parses(bad), "{bad:?}");
        }
    }
}
