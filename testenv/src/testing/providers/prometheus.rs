//! A real Prometheus: Debian's, which nothing is installed for.

use std::fs;
use std::process::Command;

use super::installed::installed;
use super::program::Program;
use crate::ports;

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    program: Program,
    port: u16,
}

impl Prometheus {
    /// Starts one with this configuration, on a free port.
    pub async fn start(configuration: &str) -> Self {
        let program = Program::new("prometheus");
        let fetched = || {
            installed(
                "prometheus",
                &["fetch.sh"],
                Command::new("sh").arg("fetch.sh"),
            )
        };
        let fetched = tokio::task::spawn_blocking(fetched).await.unwrap();
        fs::write(program.dir.join("prometheus.yml"), configuration).unwrap();
        let [port] = ports::free::<1>().unwrap();
        program.run(&[
            &fetched.join("usr/bin/prometheus").to_string_lossy(),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            &format!("--web.listen-address=127.0.0.1:{port}"),
        ]);
        Self { program, port }
    }

    /// A URL of its API.
    #[must_use]
    pub fn api(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/api/v1/{path}", self.port)
    }

    /// Its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }
}
