//! The Underpass server: parse, build, run, drain.

mod access;
mod audit;
mod authentication;
mod budgets;
mod cli;
mod commands;
mod data_dir;
mod http;
mod limits;
mod listen;
mod pki;
mod tunnel;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::data_dir::DataDir;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let data = DataDir::open(&cli.data_dir)?;
    match cli.command {
        Command::Serve(options) => commands::serve::run(data, options),
        Command::Cluster(command) => commands::cluster::run(&data, command),
        Command::User(command) => commands::user::run(&data, command),
        Command::Token(command) => commands::token::run(&data, command),
        Command::Kubeconfig(options) => commands::kubeconfig::run(&data, options),
        Command::CaPin => commands::ca_pin::run(&data),
    }
}
