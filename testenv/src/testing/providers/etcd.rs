//! A real etcd of one member or of several, for what is kept in one.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::certs::Authority;
use crate::supervisor::{Start, Supervisor, tail};
use crate::testing::eventually;
use crate::{Assets, ports, progress_to_stderr};

/// The members' names, for the supervisor.
const NAMES: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

/// The certificate by which a client is known as [`EtcdMembers::CLIENT`].
const CLIENT: &str = "client";

/// How to run the members.
#[derive(Debug, Clone, Copy)]
pub struct EtcdSetup {
    /// One or three.
    pub members: usize,
    /// TLS, and clients with a certificate alone.
    pub tls: bool,
    /// Bytes that the members take, before they are full.
    pub quota: u64,
}

impl Default for EtcdSetup {
    fn default() -> Self {
        Self {
            members: 1,
            tls: false,
            quota: 512 << 20,
        }
    }
}

/// Running members. Dropping it ends them and removes their folder.
#[derive(Debug)]
pub struct EtcdMembers {
    dir: PathBuf,
    setup: EtcdSetup,
    starts: Vec<Start>,
    urls: Vec<String>,
    tools: PathBuf,
    supervisor: Supervisor,
}

impl EtcdMembers {
    /// The name in the client certificate.
    pub const CLIENT: &str = "underpass";

    /// Starts them, and waits until each serves.
    pub async fn start(setup: EtcdSetup) -> Self {
        let started = tokio::task::spawn_blocking(move || Self::run(setup));
        let members = started.await.unwrap();
        members.healthy(None).await;
        members
    }

    fn run(setup: EtcdSetup) -> Self {
        let assets = Assets::ensure(progress_to_stderr).unwrap();
        let tools = Assets::etcd_tools(progress_to_stderr).unwrap();
        let dir = tempfile::Builder::new()
            .prefix("underpass-testenv-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        let log = File::create(dir.path().join("supervise.log")).unwrap();
        let supervisor = Supervisor::spawn(assets.supervise(), dir.path(), log).unwrap();
        // From here on the folder is the supervisor's to remove.
        let dir = dir.keep();
        let authority = Authority::generate().unwrap();
        let server = authority.server(&["localhost"]).unwrap();
        let client = authority.client(Self::CLIENT, &[]).unwrap();
        for (name, identity) in [("server", server), (CLIENT, client)] {
            fs::write(dir.join(format!("{name}.pem")), identity.certificate).unwrap();
            fs::write(dir.join(format!("{name}.key")), identity.key).unwrap();
        }
        fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
        let ports: [u16; 6] = ports::free().unwrap();
        let scheme = if setup.tls { "https" } else { "http" };
        let members: Vec<_> = NAMES
            .iter()
            .zip(ports.chunks(2))
            .take(setup.members)
            .collect();
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let peer = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster = members
            .iter()
            .map(|(name, ports)| format!("{name}={}", peer(ports[1])));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let starts = members.iter().map(|(name, ports)| {
            let (client, peer) = (url(ports[0]), peer(ports[1]));
            let data = dir.join(name);
            let mut argv = vec![
                assets.etcd().to_string_lossy().into_owned(),
                format!("--name={name}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={cluster}"),
                format!("--quota-backend-bytes={}", setup.quota),
                // Only a test's data would be lost with the power.
                "--unsafe-no-fsync".to_owned(),
                "--enable-grpc-gateway=false".to_owned(),
                "--log-level=warn".to_owned(),
            ];
            if setup.members == 1 {
                // It elects itself.
                argv.extend(["--heartbeat-interval=20", "--election-timeout=200"].map(Into::into));
            }
            if setup.tls {
                let file = |name: &str| dir.join(name).display().to_string();
                argv.push(format!("--cert-file={}", file("server.pem")));
                argv.push(format!("--key-file={}", file("server.key")));
                argv.push(format!("--trusted-ca-file={}", file("ca.pem")));
                argv.push("--client-cert-auth".to_owned());
            }
            Start {
                name,
                argv,
                env: vec![format!("HOME={}", dir.display())],
                dir: dir.clone(),
                log: dir.join(format!("{name}.log")),
                grace_ms: 0,
                has_children: false,
            }
        });
        let starts: Vec<_> = starts.collect();
        for start in &starts {
            supervisor.start(start).unwrap();
        }
        let urls = members.iter().map(|(_, ports)| url(ports[0])).collect();
        Self {
            dir,
            setup,
            starts,
            urls,
            tools,
            supervisor,
        }
    }

    /// Where clients reach each member.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The CA of the members' certificates and of clients'.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A client's certificate, and its key.
    #[must_use]
    pub fn client_files(&self) -> [PathBuf; 2] {
        ["pem", "key"].map(|end| self.dir.join(format!("{CLIENT}.{end}")))
    }

    /// A folder for files of the caller.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends a member as SIGKILL does.
    pub fn kill(&self, member: usize) {
        let name = self.starts[member].name;
        self.supervisor.stop(name, Duration::ZERO).unwrap();
    }

    /// Starts a member again that was ended.
    pub fn start_again(&self, member: usize) {
        self.supervisor.start(&self.starts[member]).unwrap();
    }

    /// Stops a member as SIGSTOP does, or lets it go on.
    pub fn pause(&self, member: usize, paused: bool) {
        let signal = if paused { "-STOP" } else { "-CONT" };
        let status = Command::new("kill")
            .args([signal, &self.pid(member)])
            .status();
        assert!(status.unwrap().success());
    }

    fn pid(&self, member: usize) -> String {
        let data = self.dir.join(self.starts[member].name);
        let wanted = format!("--data-dir={}", data.display());
        let mut processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let found = processes.find(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|word| word == wanted.as_bytes())
        });
        let found = found.expect("the member runs").file_name();
        found.to_string_lossy().into_owned()
    }

    /// Waits until all members serve, or one of them.
    pub async fn healthy(&self, member: Option<usize>) {
        let urls = match member {
            Some(member) => self.urls[member].clone(),
            None => self.urls.join(","),
        };
        eventually("etcd serves", async || {
            let asked = self.try_ctl(&["endpoint", "health", "--endpoints", &urls]);
            match asked.status.success() {
                true => Ok(()),
                false => {
                    let logs = self.starts.iter().map(|start| tail(&start.log));
                    Err((asked, logs.collect::<Vec<_>>()))
                }
            }
        })
        .await;
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        eventually("a member leads", async || {
            for (member, url) in self.urls.iter().enumerate() {
                let status = ["endpoint", "status", "-w", "fields", "--endpoints", url];
                let status = self.try_ctl(&status);
                let text = String::from_utf8_lossy(&status.stdout).into_owned();
                let field = |name: &str| {
                    let line = text.lines().find(|line| line.starts_with(name));
                    line.and_then(|line| line.split(" : ").nth(1))
                        .map(str::to_owned)
                };
                let leader = field("\"Leader\"");
                if leader.is_some() && leader == field("\"MemberID\"") {
                    return Ok(member);
                }
            }
            Err("none")
        })
        .await
    }

    /// The output of etcdctl, which succeeds.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.try_ctl(arguments);
        assert!(output.status.success(), "etcdctl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs etcdctl, at all members unless the arguments name one.
    #[must_use]
    pub fn try_ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.tools.join("etcdctl"));
        command
            .env_clear()
            .arg("--command-timeout=5s")
            .args(arguments)
            .stdin(Stdio::null());
        if !arguments.contains(&"--endpoints") {
            command.arg("--endpoints").arg(self.urls.join(","));
        }
        if self.setup.tls {
            let [certificate, key] = self.client_files();
            command.arg("--cacert").arg(self.ca_file());
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.output().unwrap()
    }
}
