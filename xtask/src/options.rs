//! The demo's flags. `cargo xtask` parses them before it builds anything, and passes them on.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::Arg;

/// Options of `cargo xtask demo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// How the agent reaches the server.
    pub transport: Through,
    /// A cluster of the caller's own instead of a new one.
    pub kubeconfig: Option<PathBuf>,
    /// End after the call instead of staying up.
    pub once: bool,
}

/// How the agent reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// QUIC, or WebSocket where QUIC does not pass.
    Auto,
    /// QUIC only.
    Quic,
    /// WebSocket only.
    Websocket,
}

impl DemoOptions {
    /// The text of `--help`.
    pub const HELP: &str = "\
Run kubectl through a tunnel to a real API server, and keep it up until Ctrl-C

Usage: cargo xtask demo [OPTIONS]

      --transport auto|quic|websocket
                         How the agent reaches the server [default: auto]
      --kubeconfig FILE  A cluster of your own instead of a new one. Its user must be able to
                         impersonate, and to bind the role `view` to the demo's user while the
                         demo runs
      --once             End after the call instead of staying up
";

    /// Reads the flags; `None` where they ask for help.
    ///
    /// # Errors
    /// A flag is unknown, or lacks a usable value.
    pub fn parse(arguments: &mut lexopt::Parser) -> Result<Option<Self>> {
        let mut options = Self {
            transport: Through::Auto,
            kubeconfig: None,
            once: false,
        };
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Long("transport") => options.transport = transport(&arguments.value()?)?,
                Arg::Long("kubeconfig") => options.kubeconfig = Some(arguments.value()?.into()),
                Arg::Long("once") => options.once = true,
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Some(options))
    }

    /// The flags that parse to these options.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<OsString> {
        let transport = match self.transport {
            Through::Auto => "auto",
            Through::Quic => "quic",
            Through::Websocket => "websocket",
        };
        let mut arguments = vec!["--transport".into(), transport.into()];
        if let Some(kubeconfig) = &self.kubeconfig {
            arguments.extend(["--kubeconfig".into(), kubeconfig.into()]);
        }
        if self.once {
            arguments.push("--once".into());
        }
        arguments
    }
}

fn transport(name: &OsString) -> Result<Through> {
    Ok(match name.to_str() {
        Some("auto") => Through::Auto,
        Some("quic") => Through::Quic,
        Some("websocket") => Through::Websocket,
        _ => bail!("--transport is auto, quic or websocket"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Option<DemoOptions>> {
        DemoOptions::parse(&mut lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn options_survive_being_passed_on() {
        for line in [
            "--once",
            "--transport quic --once",
            "--transport=websocket --kubeconfig cluster.yaml",
        ] {
            let options = parse(line.split(' ')).unwrap().unwrap();
            let again = parse(options.to_arguments()).unwrap().unwrap();
            assert_eq!(options, again);
        }
    }

    #[test]
    fn unknown_flags_and_values_are_refused() {
        for line in ["--twice", "--transport tcp", "--kubeconfig", "word"] {
            assert!(parse(line.split(' ')).is_err(), "{line}");
        }
        assert_eq!(parse(["--help"]).unwrap(), None);
    }
}
