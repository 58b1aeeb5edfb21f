//! The programs of this checkout.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::{ClusterError, kubectl};

/// `underpass-server`, `underpass-agent` and `underpass`, built from this checkout.
#[derive(Debug, Clone)]
pub struct Programs {
    server: PathBuf,
    agent: PathBuf,
    cli: PathBuf,
}

/// Which build of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    Dev,
    Release,
}

/// A line of cargo's output.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

impl Programs {
    /// Builds them as tests are built; an instant if nothing has changed. Blocks.
    ///
    /// # Errors
    /// They do not compile, or cargo is missing.
    pub fn build() -> Result<Self, ClusterError> {
        Self::build_as(Profile::Dev)
    }

    /// Builds them as users run them, for benchmarks. Blocks, for minutes the first time.
    ///
    /// # Errors
    /// They do not compile, or cargo is missing.
    pub fn build_release() -> Result<Self, ClusterError> {
        Self::build_as(Profile::Release)
    }

    /// Those that cargo put beside `program`, another program of the same build.
    #[must_use]
    pub fn beside(program: &Path) -> Self {
        Self {
            server: program.with_file_name("underpass-server"),
            agent: program.with_file_name("underpass-agent"),
            cli: program.with_file_name("underpass"),
        }
    }

    fn build_as(profile: Profile) -> Result<Self, ClusterError> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args([
                "build",
                "--quiet",
                "--message-format=json-render-diagnostics",
            ])
            .args([
                "--package",
                "underpass-server",
                "--package",
                "underpass-agent",
                "--package",
                "underpass-cli",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        if profile == Profile::Release {
            command.arg("--release");
        }
        let output = command
            .output()
            .map_err(ClusterError::io("run cargo to build Underpass"))?;
        if !output.status.success() {
            let failed = std::io::Error::other(format!("cargo ended with {}", output.status));
            return Err(ClusterError::io("build Underpass")(failed));
        }
        let messages = output.stdout.split(|byte| *byte == b'\n');
        let built: Vec<PathBuf> = messages
            .filter_map(|line| serde_json::from_slice::<Message>(line).ok()?.executable)
            .collect();
        Ok(Self {
            server: find(&built, "underpass-server")?,
            agent: find(&built, "underpass-agent")?,
            cli: find(&built, "underpass")?,
        })
    }

    /// `underpass-server`.
    #[must_use]
    pub fn server(&self) -> &Path {
        &self.server
    }

    /// `underpass-agent`.
    #[must_use]
    pub fn agent(&self) -> &Path {
        &self.agent
    }

    /// `underpass`, the program that people run.
    #[must_use]
    pub fn cli(&self) -> &Path {
        &self.cli
    }

    /// The output of `underpass-agent rbac` with these arguments.
    ///
    /// # Errors
    /// It fails.
    pub fn agent_manifests(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        let mut command = Command::new(&self.agent);
        command.env_clear().arg("rbac").args(arguments);
        Ok(kubectl::output(command, None)?)
    }
}

fn find(built: &[PathBuf], name: &str) -> Result<PathBuf, ClusterError> {
    let found = built
        .iter()
        .find(|path| path.file_stem().is_some_and(|stem| stem == name));
    found.cloned().ok_or_else(|| {
        let missing = std::io::Error::other(format!("cargo built no {name}"));
        ClusterError::io("build Underpass")(missing)
    })
}
