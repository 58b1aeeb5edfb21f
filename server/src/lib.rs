//! The Underpass server as a library: [`Server::start`] puts it together from a [`ServerConfig`] and serves. Its program is
//! [`main`], which makes the configuration of flags.

mod api;
mod audit;
mod authentication;
mod budgets;
mod cli;
mod commands;
mod data_dir;
mod directory;
mod etcd;
mod files;
mod first_administrator;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod limits;
mod listen;
mod metrics;
mod nodes;
mod occasional;
mod pki;
mod proxies;
mod questions;
mod readiness;
mod recordings;
mod recover;
mod registrations;
mod router;
mod secrets;
mod server;
mod service_roots;
mod sessions;
mod shells;
mod silence;
mod socket;
mod stand_in;
mod supervise;
mod targets;
#[cfg(target_os = "linux")]
mod tcp_info;
mod tls_files;
mod tunnel;
mod vanished;

pub use self::recordings::{Record, RecordingsConfig};
pub use self::server::{Server, ServerConfig, StartError};
pub use self::supervise::Ended;
pub use self::tls_files::TlsFiles;

use std::process::ExitCode;

use clap::Parser;

use underpass_terminal::{LogForm, start_log};

use crate::cli::{Cli, Command};
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
        Command::Serve(options) => commands::serve::run(&cli.data_dir, *options),
        Command::CaPin => {
            // The data directory may have something to say.
            let _log = start_log("warn", LogForm::Text)?;
            commands::ca_pin::run(&DataDir::open(&cli.data_dir)?)
        }
        Command::Recover(options) => {
            let _log = start_log("warn", LogForm::Text)?;
            runtime()?.block_on(recover::run(&cli.data_dir, *options))
        }
        Command::Directory(command) => {
            let _log = start_log("warn", LogForm::Text)?;
            runtime()?.block_on(commands::directory::run(&cli.data_dir, *command))
        }
    }
}

/// For a command that is over soon.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
