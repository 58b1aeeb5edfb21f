//! Helpers of several modules' tests.

use std::{
    error::Error,
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use underpass_testenv::testing::install_script;

/// A self-signed certificate of the loopback address.
pub(crate) struct Made {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: rcgen::KeyPair,
}

pub(crate) fn make() -> Made {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    Made {
        certificate: made.cert,
        key: made.signing_key,
    }
}

/// Everything that an error shows in any way.
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain
        .map(|error| format!("{error}\n{error:?}\n{error:#?}\n"))
        .collect()
}

/// A certificate of X.509 version 1 and its key. Made with `openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj
/// "/CN=alice/O=dev"` and `openssl x509 -req -CA … -days 36500`, without extensions.
pub(crate) fn version_1() -> (&'static str, &'static str) {
    let certificate = "-----BEGIN CERTIFICATE-----\n\
         MIIBKzCB0wIUJ/9rf0wVwNuG03zoUKPedioNpUEwCgYIKoZIzj0EAwIwEjEQMA4G\n\
         A1UEAwwHdGVzdCBjYTAgFw0yNjExMjkxMTAxMjBaGA8yMTI2MTEwNTExMDEyMFow\n\
         HjEOMAwGA1UEAwwFYWxpY2UxDDAKBgNVBAoMA2RldjBZMBMGByqGSM49AgEGCCqG\n\
         SM49AwEHA0IABAaP+6Y7Srp3uGPM5xWRhWIfn8uAbTtzokL61XNyqRDW5e3BYNrR\n\
         T9b7abKgLzxLwwpST93NzG9cWIuI/7hBCC8wCgYIKoZIzj0EAwIDRwAwRAIgZYhf\n\
         Oqcxr48r8kc1oKetq7YAWZzl5Iwp36snZIjgpSYCIA+hkpt1Y6Kq1vDorDpcvT/e\n\
         h4TES5Ttk3PKOqOlDsc0\n\
         -----END CERTIFICATE-----";
    let key = "-----BEGIN PRIVATE KEY-----\n\
         MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZmy4E6gvDpGP6m14\n\
         e39Ha2s3rzb9Dyugh95dZRNUsoShRANCAAQGj/umO0q6d7hjzOcVkYViH5/LgG07\n\
         c6JC+tVzcqkQ1uXtwWDa0U/W+2myoC88S8MKUk/dzcxvXFiLiP+4QQgv\n\
         -----END PRIVATE KEY-----";
    (certificate, key)
}

pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Waits for a condition.
pub(crate) async fn until(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.expect("it came to be so");
}

/// Scripts that note in a file that they run.
pub(crate) struct Script {
    pub(crate) dir: tempfile::TempDir,
}

impl Script {
    pub(crate) fn new(body: &str) -> Self {
        let script = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        script.replace(body);
        script
    }

    pub(crate) fn replace(&self, body: &str) {
        let runs = self.dir.path().join("runs");
        let text = format!("#!/bin/sh\necho $$ >> '{}'\n{body}\n", runs.display());
        let new = self.dir.path().join("new");
        install_script(&new, &text);
        std::fs::rename(new, self.path()).unwrap();
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("plugin")
    }

    /// The processes that it was.
    pub(crate) fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.dir.path().join("runs"));
        let runs = runs.unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }

    pub(crate) fn alive(&self) -> usize {
        self.runs()
            .iter()
            .filter(|process| is_alive(process))
            .count()
    }

    /// A kubeconfig's plugin.
    pub(crate) fn of_kubeconfig(&self) -> kube::config::ExecConfig {
        let exec = serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": self.path().to_str().unwrap(),
            "args": ["hunter2"],
            "env": [{ "name": "SECRET", "value": "hunter2" }],
            "interactiveMode": "Never",
        });
        serde_json::from_value(exec).unwrap()
    }
}

/// A zombie has ended too; another process reaps it.
pub(crate) fn is_alive(process: &str) -> bool {
    let stat = Path::new("/proc").join(process).join("stat");
    std::fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The command that prints a plugin's answer.
pub(crate) fn answer(status: &str) -> String {
    let head = r#""apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential""#;
    format!("printf '%s' '{{{head},\"status\":{status}}}'")
}

/// A credential's end, as plugins write it.
pub(crate) fn expiry(left: Duration) -> String {
    let end = time::OffsetDateTime::now_utc() + left;
    end.format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}

/// A file whose reader waits until somebody writes.
pub(crate) fn fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// The log of this thread, as agents and servers write theirs.
pub(crate) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn start() -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&text);
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(log),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}
