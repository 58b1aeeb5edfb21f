//! The output of command lines, and of logs. `underpass` and `underpass-server` write to stdout and stderr here and nowhere
//! else: clippy refuses `println!` and `eprintln!` everywhere else. [`Lines`] is where their logs, and the agent's, go.
//!
//! A text may be a peer's: a cluster's version, an identity provider's code, an answer of a server. On a terminal it could
//! move the cursor, or change earlier lines. So a line is always one visible line.

#[cfg(feature = "log")]
mod log;
mod printable;
mod raw;
mod relay;
mod tame;

use std::fmt;
use std::io::Write as _;

use zeroize::Zeroizing;

#[cfg(feature = "log")]
pub use self::log::{Log, LogForm, lost_log_lines, start_log};
pub use self::printable::{Lines, printable};
pub use self::raw::{Raw, Terminal, interject, obey};
pub use self::relay::{relay_to_stderr, relay_to_stdout};
pub use self::tame::Tame;

/// Tells the user something: a line on stderr, in the words of `format!`.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        $crate::tell(format_args!($($words)*))
    };
}

/// A line on stderr. Where it cannot be written, nobody can be told.
pub fn tell(words: fmt::Arguments<'_>) {
    let words = Zeroizing::new(format!("{}\n", *line(words)));
    let _ = std::io::stderr().write_all(words.as_bytes());
}

/// A line of what was asked for, on stdout.
pub fn show(words: impl fmt::Display) {
    let words = line(words);
    hand_over(&Zeroizing::new(format!("{}\n", *words)));
}

fn line(words: impl fmt::Display) -> Zeroizing<String> {
    // It may be a token.
    let words = Zeroizing::new(words.to_string());
    Zeroizing::new(printable(&words).into_owned())
}

/// Writes for a program, unchanged, to stdout: a credential, a kubeconfig. Their format escapes texts of peers. Where stdout
/// cannot be written, the process ends with an error.
pub fn hand_over(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => {}
        // The reader of a pipe has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            tell(format_args!("cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::line;

    #[test]
    fn rule_23_a_peers_text_is_one_visible_line_on_a_terminal() {
        let version = "v1.35.0\u{1b}]0;owned\u{7}\r\nLogged in as root\u{202e}";
        let written = line(format_args!("Its API server answers, and is {version}."));
        assert!(!written.chars().any(char::is_control), "{written:?}");
        assert!(!written.contains('\u{202e}'), "{written:?}");
        assert!(written.contains("v1.35.0\\u001b]0;owned"), "{written:?}");
    }

    /// Where `printable` is not applied, a peer writes on an administrator's terminal.
    #[test]
    fn rule_23_nothing_but_the_terminal_prints() {
        let mut found = Vec::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for program in ["../../cli/src", "../../server/src"] {
            look(&here.join(program), &mut found);
        }
        assert_eq!(found, [""; 0]);
    }

    fn look(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            // Audit events are JSON, which escapes; a container's log is where they are asked for.
            if path.ends_with("audit/stdout.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let prints = [
                    "println!", "print!", "eprint!", "dbg!", "stdout()", "stderr()",
                ];
                // The log's own writer does the same for log lines.
                let logs = ["Lines::new(", ".is_terminal()"];
                let logs = logs.iter().any(|log| code.contains(log));
                if !logs && prints.iter().any(|print| code.contains(print)) {
                    found.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
}
