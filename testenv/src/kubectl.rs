//! The pinned kubectl, kept apart from the user's own settings.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::KubectlError;

/// A kubectl command with nothing of the caller's environment but the search path: no proxies, no settings, no plugins'
/// caches.
pub(crate) fn command(kubectl: &Path, kubeconfig: &Path, home: &Path) -> Command {
    let mut command = Command::new(kubectl);
    command
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home)
        .env("KUBECACHEDIR", home.join("cache"))
        .env("TERM", "dumb")
        // For `cp` and for what plugins call.
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs a command to its end and returns its standard output.
pub(crate) fn output(mut command: Command, input: Option<&[u8]>) -> Result<String, KubectlError> {
    command
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let arguments = command
        .get_args()
        .map(|a| a.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // It reads all of its input before it says anything, so this cannot block on its output. If it ended early,
        // its standard error says why.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(KubectlError::Failed { arguments, stderr })
}
