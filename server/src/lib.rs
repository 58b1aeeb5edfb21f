//! The Underpass server: parse, build, run, drain. A library, so that what it does can be fuzzed; its program is
//! [`main`].

mod api;
mod audit;
mod authentication;
mod budgets;
mod cli;
mod client;
mod commands;
mod data_dir;
mod directory;
mod files;
mod first_administrator;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hops;
mod http;
mod limits;
mod listen;
mod metrics;
mod occasional;
mod pki;
mod reach;
mod saved;
mod secrets;
mod socket;
mod supervise;
mod tunnel;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::data_dir::DataDir;

/// The program: reads the command line, and does what it says.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(options) => {
            commands::serve::run(&cli.data_dir, *options, &cli.secrets_key_files)
        }
        Command::CaPin => commands::ca_pin::run(&DataDir::open(&cli.data_dir)?),
        _ => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(administer(cli)),
    }
}

/// The subcommands that ask the API.
async fn administer(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Login(options) => return commands::login::log_in(&cli.elsewhere, options).await,
        Command::Logout => return commands::login::log_out(&cli.elsewhere).await,
        Command::Credential => return commands::login::print_credential(&cli.elsewhere).await,
        _ => {}
    }
    let data = cli.data_dir.as_path();
    let client = Client::find(data, &cli.elsewhere, &cli.secrets_key_files).await?;
    match cli.command {
        Command::Cluster(command) => commands::cluster::run(&client, data, command).await,
        Command::Agent(command) => commands::cluster::run_agent(&client, command).await,
        Command::User(command) => commands::user::run(&client, command).await,
        Command::Group(command) => commands::user::run_group(&client, command).await,
        Command::Binding(command) => commands::binding::run(&client, command).await,
        Command::Token(command) => commands::token::run(&client, command).await,
        Command::Kubeconfig(options) => commands::kubeconfig::run(&client, data, options).await,
        Command::Whoami => commands::login::who_am_i(&client).await,
        Command::Serve(_)
        | Command::CaPin
        | Command::Login(_)
        | Command::Logout
        | Command::Credential => Ok(()),
    }
}
