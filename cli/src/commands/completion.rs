//! `underpass completion`

use clap::CommandFactory;
use clap_complete::Shell;
use underpass_terminal::hand_over;

use crate::args::Cli;

pub(crate) fn print(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "underpass", &mut script);
    hand_over(&String::from_utf8_lossy(&script));
}
