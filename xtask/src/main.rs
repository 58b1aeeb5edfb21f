//! The project's own commands. `cargo xtask --help` lists them.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line prints"
)]

mod bench;
mod demo;
mod fuzz;
mod language;
mod layers;
mod lint;
mod process;
mod rules;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::Arg;
use xtask::DemoOptions;

const HELP: &str = "\
Underpass's own commands. Each installs or builds what it misses, outside the checkout.

Usage: cargo xtask COMMAND [OPTIONS]

  demo   Run kubectl through a tunnel to a real API server, and keep it up until Ctrl-C
  test   Run every test
  bench  Measure Underpass beside its peers and beside a floor
  lint   Check format, lints, dependencies, docs and the table of rules
  fuzz   Run each fuzz target for a while

`cargo xtask COMMAND --help` lists a command's options.
";

fn main() -> ExitCode {
    match run(lexopt::Parser::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: lexopt::Parser) -> Result<()> {
    let command = match arguments.next()? {
        Some(Arg::Value(command)) => command,
        Some(Arg::Long("help") | Arg::Short('h')) => return help(HELP),
        Some(other) => return Err(other.unexpected().into()),
        None => bail!("a command is missing\n\n{HELP}"),
    };
    match command.to_str() {
        Some("demo") => match DemoOptions::parse(&mut arguments)? {
            Some(options) => demo::run(&options),
            None => help(DemoOptions::HELP),
        },
        Some("test") => match test::Options::parse(&mut arguments)? {
            Some(options) => test::run(&options),
            None => help(test::HELP),
        },
        Some("bench") => match bench::Options::parse(&mut arguments)? {
            Some(options) => bench::run(&options),
            None => help(bench::HELP),
        },
        Some("lint") => match arguments.next()? {
            Some(Arg::Long("help") | Arg::Short('h')) => help(lint::HELP),
            Some(other) => Err(other.unexpected().into()),
            None => lint::run(),
        },
        Some("fuzz") => match fuzz::Options::parse(&mut arguments)? {
            Some(options) => fuzz::run(&options),
            None => help(fuzz::HELP),
        },
        Some("help") => help(HELP),
        _ => bail!("there is no command {}\n\n{HELP}", command.display()),
    }
}

fn help(text: &str) -> Result<()> {
    print!("{text}");
    Ok(())
}
