//! Passwords, from a terminal or a file.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use underpass_core::{files, limits};
use zeroize::Zeroizing;

/// Asks at the terminal, or reads the first line of a file; `-` is standard input.
pub(crate) fn read_password(file: Option<&Path>, prompt: &str) -> Result<Zeroizing<String>> {
    let text = match file {
        Some(path) if path == Path::new("-") => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        Some(path) => {
            let text = files::read_text_once(path, limits::TOKEN_FILE_BYTES);
            text.with_context(|| format!("cannot read {}", path.display()))?
        }
        None if !std::io::stdin().is_terminal() => {
            bail!(
                "standard input is no terminal to ask for a password; give --password-file FILE, or - for standard input"
            )
        }
        None => Zeroizing::new(rpassword::prompt_password(prompt)?),
    };
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("the password is empty");
    }
    Ok(Zeroizing::new(line.to_owned()))
}
