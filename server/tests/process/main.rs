//! The server as a process: signals, and few open files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass_core::process::raise_open_files;

const DEADLINE: Duration = Duration::from_secs(60);

/// A server with a folder of its own. It ends with its owner.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one in a shell that has run `limits`, and waits until it serves. `{}` in a flag is its folder.
    async fn start(limits: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, limits, flags).await
    }

    async fn start_in(folder: tempfile::TempDir, limits: &str, flags: &[&str]) -> Self {
        let mut server = Self::spawn(folder, limits, flags);
        server.logs("serving HTTPS and QUIC").await;
        server
    }

    /// Starts one, and does not wait.
    fn spawn(folder: tempfile::TempDir, limits: &str, flags: &[&str]) -> Self {
        let path = folder.path().to_str().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", &format!("{limits}\nexec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_underpass-server"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(flags.iter().map(|flag| flag.replace("{}", path)))
            .env_remove("UNDERPASS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until it has said so.
    async fn logs(&mut self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.log().contains(what) {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", self.log());
            assert!(Instant::now() < deadline, "no {what}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A question of the machine's operator.
    async fn operator(&self, path: &str) -> String {
        let socket = UnixStream::connect(self.path("data/api.sock")).await;
        ask(socket.unwrap(), path).await
    }

    /// A connection of a client without a credential.
    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.path("data/ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let url = fs::read_to_string(self.path("data/url")).unwrap();
        let port: u16 = url.trim().rsplit(':').next().unwrap().parse().unwrap();
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
    }

    /// How many events the audit log holds.
    fn events(&self) -> usize {
        let log = fs::read_to_string(self.path("data/audit.log")).unwrap();
        log.lines().count()
    }

    async fn has_events(&self, wanted: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.events() != wanted {
            assert!(
                Instant::now() < deadline,
                "{}: {}",
                self.events(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let asking = async {
        io.write_all(request.as_bytes()).await.unwrap();
        // The end of TLS may be missing where the connection is closed.
        let _ = io.read_to_string(&mut answer).await;
    };
    tokio::time::timeout(DEADLINE, asking)
        .await
        .expect("an answer");
    answer
}

#[track_caller]
fn assert_ok(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: LEVEL}]\n";

#[tokio::test]
async fn signals_that_ask_for_files_to_be_read_end_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let write = |folder: &std::path::Path, level: &str| {
        fs::write(folder.join("policy"), POLICY.replace("LEVEL", level)).unwrap();
    };
    write(folder.path(), "None");
    let flags = ["--audit-policy", "{}/policy"];
    let mut server = Server::start_in(folder, "", &flags).await;
    assert_ok(&server.operator("/v1/users").await);
    write(server.folder.path(), "Metadata");
    for (number, (signal, name)) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
    ]
    .into_iter()
    .enumerate()
    {
        server.signal(signal);
        server.logs(name).await;
        assert_ok(&server.operator("/v1/users").await);
        server.has_events(number + 1).await;
    }
    // A write beyond the largest file of a process.
    server.signal(Signal::XFSZ);
    fs::write(server.path("policy"), "rules: 7").unwrap();
    server.signal(Signal::HUP);
    server.logs("keeping the last good audit policy").await;
    assert_ok(&server.operator("/v1/users").await);
    server.has_events(4).await;

    // As logrotate's `copytruncate` does.
    File::create(server.path("data/audit.log")).unwrap();
    assert_ok(&server.operator("/v1/users").await);
    server.has_events(1).await;
    assert_ok(&ask(server.connect().await.unwrap(), "/readyz").await);

    server.signal(Signal::TERM);
    assert!(server.ended().await.success(), "{}", server.log());
}

/// Opening a pipe waits for its writer, and that would stop a thread of the runtime for good.
#[tokio::test]
async fn rule_23_a_pipe_in_the_place_of_a_file_stops_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (name, text) in [
        ("idp.pem", made.cert.pem()),
        ("tls.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
        ("policy", POLICY.replace("LEVEL", "Metadata")),
        ("auth.yaml", AUTHENTICATION.to_owned()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let flags = [
        "--name=localhost",
        "--authentication={}/auth.yaml",
        "--tls-certificate={}/tls.pem",
        "--tls-key={}/key.pem",
        "--audit-policy={}/policy",
    ];
    let mut server = Server::start_in(folder, "", &flags).await;
    fs::copy(server.path("tls.pem"), server.path("data/ca.pem")).unwrap();
    for name in ["idp.pem", "auth.yaml", "tls.pem", "key.pem", "policy"] {
        let (path, kept) = (server.path(name), server.path("kept"));
        fs::rename(&path, &kept).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        server.signal(Signal::HUP);
        server.logs(&format!("{name}: it is no regular file")).await;
        // One worker of the runtime for each connection, and more.
        for _ in 0..4 {
            assert_ok(&ask(server.connect().await.unwrap(), "/readyz").await);
        }
        assert_ok(&server.operator("/v1/users").await);
        fs::remove_file(&path).unwrap();
        fs::rename(&kept, &path).unwrap();
    }
    // And the files are followed still.
    let other = AUTHENTICATION.replace("name: corp", "name: other");
    fs::write(server.path("auth.yaml"), other).unwrap();
    server.logs("authenticators=\"tokens,other\"").await;
    let path = server.path("auth.yaml");
    fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
    server.signal(Signal::TERM);
    assert!(server.ended().await.success(), "{}", server.log());

    // Nor does one begin with it.
    let folder = std::mem::replace(&mut server.folder, tempfile::tempdir().unwrap());
    let mut server = Server::spawn(folder, "", &["--authentication={}/auth.yaml"]);
    assert!(!server.ended().await.success());
    assert!(
        server.log().contains("it is no regular file"),
        "{}",
        server.log()
    );
}

const AUTHENTICATION: &str = "
authenticators:
- name: tokens
  tokens: {}
- name: corp
  jwt:
    issuer:
      url: https://127.0.0.1:1
      audiences: [underpass]
      certificateAuthorityFile: idp.pem
    claimMappings:
      username: {claim: email, prefix: 'corp:'}
";

#[tokio::test]
async fn rule_23_few_open_files_keep_neither_health_nor_operators_out() {
    raise_open_files().unwrap();
    let server = Server::start("ulimit -n 256", &[]).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(server.connect().await.unwrap());
    }
    assert_ok(&ask(server.connect().await.unwrap(), "/readyz").await);
    assert_ok(&server.operator("/v1/users").await);
    let log = server.log();
    let complaints = log.lines().filter(|line| line.contains("cannot accept"));
    assert!(complaints.count() <= 1, "{log}");
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_none() {
    let server = Server::start("ulimit -S -n 64", &[]).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = files.unwrap().split_whitespace().skip(3);
    assert_eq!(numbers.next(), numbers.next(), "{limits}");
}

/// A full disk, and a log driver that is stuck: a pipe has 64 KiB.
#[tokio::test]
async fn a_server_whose_log_fails_goes_on() {
    for stderr in ["2>/dev/full", "2<>pipe"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let limits = format!("cd {path} && mkfifo pipe && exec {stderr}");
        let flags = ["--log", "trace", "--drain", "1s"];
        let mut server = Server::spawn(folder, &limits, &flags);
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(server.path("data/api.sock"))
            .await
            .is_err()
        {
            assert_eq!(server.child.try_wait().unwrap(), None, "{stderr}");
            assert!(Instant::now() < deadline, "{stderr}: it does not serve");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..300 {
            assert_ok(&server.operator("/v1/users").await);
            let tls = server.connect().await.unwrap();
            assert!(ask(tls, "/readyz").await.contains("200 OK"));
        }
        assert_eq!(server.log(), "", "it goes elsewhere");
        server.signal(Signal::TERM);
        assert!(server.ended().await.success(), "{stderr}");
    }
}
