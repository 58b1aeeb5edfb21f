//! How much each user and each cluster may have in flight, by the command line.

use clap::Args;
use underpass_gateway::{BudgetConfig, BudgetConfigError};

/// Flags about budgets.
#[derive(Debug, Args)]
#[group(id = "budgets")]
pub(crate) struct Options {
    /// Requests of one user at a time, in all clusters together; more wait, for 15 s at the most. No cluster gets all of
    /// them, so that a cluster that hangs leaves the others reachable
    #[arg(
        long,
        env = "UNDERPASS_REQUESTS_PER_USER",
        default_value = "512",
        value_name = "NUMBER"
    )]
    requests_per_user: usize,
    /// Requests of one user at a time in one cluster; more wait, for 15 s at the most
    #[arg(
        long,
        env = "UNDERPASS_REQUESTS_PER_USER_AND_CLUSTER",
        default_value = "128",
        value_name = "NUMBER"
    )]
    requests_per_user_and_cluster: usize,
    /// Requests at a time in one cluster; for more, users take turns
    #[arg(
        long,
        env = "UNDERPASS_REQUESTS_PER_CLUSTER",
        default_value = "600",
        value_name = "NUMBER"
    )]
    requests_per_cluster: usize,
    /// Watches, logs, shells and forwarded ports of one user, in all clusters together; more are refused
    #[arg(
        long,
        env = "UNDERPASS_STREAMS_PER_USER",
        default_value = "2000",
        value_name = "NUMBER"
    )]
    streams_per_user: usize,
    /// Watches, logs, shells and forwarded ports in one cluster; together with the requests, one agent's
    /// session takes 4096
    #[arg(
        long,
        env = "UNDERPASS_STREAMS_PER_CLUSTER",
        default_value = "3400",
        value_name = "NUMBER"
    )]
    streams_per_cluster: usize,
}

impl Options {
    pub(crate) fn config(&self) -> Result<BudgetConfig, BudgetConfigError> {
        BudgetConfig::default()
            .requests_per_user(self.requests_per_user)?
            .requests_per_user_and_cluster(self.requests_per_user_and_cluster)?
            .requests_per_cluster(self.requests_per_cluster)?
            .streams_per_user(self.streams_per_user)?
            .streams_per_cluster(self.streams_per_cluster)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn config(args: &[&str]) -> Result<BudgetConfig, BudgetConfigError> {
        let args = [&["x"], args].concat();
        Line::try_parse_from(args).unwrap().options.config()
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        assert_eq!(config(&[]), Ok(BudgetConfig::default()));
        let other = config(&["--requests-per-user", "7"]);
        assert_eq!(other, BudgetConfig::default().requests_per_user(7));
    }

    #[test]
    fn none_at_all_is_refused() {
        for flag in [
            "--requests-per-user",
            "--requests-per-user-and-cluster",
            "--requests-per-cluster",
            "--streams-per-user",
            "--streams-per-cluster",
        ] {
            assert!(config(&[flag, "0"]).is_err(), "{flag}");
        }
    }
}
