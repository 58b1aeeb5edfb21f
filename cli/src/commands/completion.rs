//! `underpass completion`

use clap::CommandFactory;
use clap_complete::Shell;
use underpass_terminal::hand_over;

use crate::args::Cli;

pub(crate) fn print(shell: Shell) {
    hand_over(&script(shell));
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "underpass", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_commands_and_flags() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["kubeconfig", "socket", "read-only"] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
    }
}
