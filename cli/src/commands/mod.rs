//! The commands.

mod agent;
mod binding;
mod cluster;
mod completion;
mod direct;
mod exec;
mod forward;
mod join;
mod join_account;
mod kubeconfig;
mod login;
mod manifest;
pub(crate) mod node;
mod proxy;
mod registration;
mod shell;
mod token;
mod user;

use anyhow::Result;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use underpass_terminal::{printable, say, show};

use crate::args::{Cli, Command};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let which = &cli.which;
    if cli.command.has_many_connections() {
        raise_open_files();
    }
    match cli.command {
        Command::Login(options) => login::log_in(which, options).await,
        Command::Logout => login::log_out(which).await,
        Command::Credential => login::print_credential(which).await,
        Command::Whoami => login::who_am_i(&which.client().await?).await,
        Command::Forward(options) => forward::run(which, options).await,
        Command::Shell(options) => shell::run(which, options).await,
        Command::Exec(options) => exec::run(which, options).await,
        Command::Proxy(options) => proxy::run(which, options).await,
        Command::Kubeconfig(options) => kubeconfig::run(which, options).await,
        Command::Cluster(command) => cluster::run(&which.client().await?, command).await,
        Command::Agent(command) => agent::run(&which.client().await?, command).await,
        Command::Node(command) => node::run(&which.client().await?, command).await,
        Command::User(command) => user::run(&which.client().await?, command).await,
        Command::Group(command) => user::run_group(&which.client().await?, command).await,
        Command::Binding(command) => binding::run(&which.client().await?, command).await,
        Command::Token(command) => token::run(&which.client().await?, command).await,
        Command::Completion { shell } => {
            completion::print(shell);
            Ok(())
        }
    }
}

/// Each connection and each stream's target takes a file, and systems give 256 (macOS) or 1,024.
fn raise_open_files() {
    if let Err(error) = underpass_core::process::raise_open_files() {
        say!("underpass: the limit of open files stays as it is: {error}");
    }
}

/// Columns of which each is as wide as its longest cell.
fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .map(|cell| printable(cell).into_owned())
                .collect()
        })
        .collect();
    let rows = rows.as_slice();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = std::iter::once(&header)
                .chain(rows)
                .filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        show(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn timestamp(time: OffsetDateTime) -> anyhow::Result<String> {
    Ok(time.format(&Rfc3339)?)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(",")
    }
}
