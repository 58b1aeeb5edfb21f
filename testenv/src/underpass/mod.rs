//! A running Underpass: real server and agent processes in front of a cluster.

mod agent;
mod programs;

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use programs::Programs;

use crate::supervisor::{Start, Supervisor, tail};
use crate::{Assets, ClusterError, KubectlError, kubectl};

/// The cluster's name at the server.
pub const CLUSTER_NAME: &str = "edge";

/// The file that says how callers are authenticated.
const AUTHENTICATION: &str = "authentication.yaml";

/// Its first line.
const TOKENS: &str = "authenticators: [{name: tokens, tokens: {}}]\n";

/// The program that direct clusters may have as their credential plugin.
const EXEC_PLUGIN: &str = "exec-plugin";

/// How long anything may take on a busy machine before it is an error.
const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two questions whether something is ready.
const POLL: Duration = Duration::from_millis(20);

/// The time for a process to finish when it is asked to end.
const GRACE: Duration = Duration::from_secs(10);

/// How the agent reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// QUIC, and WebSocket where that fails.
    Auto,
    /// QUIC only.
    Quic,
    /// WebSocket only.
    WebSocket,
}

impl Transport {
    /// As the agent's command line says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
        }
    }
}

/// A server, and an agent of one cluster, as processes with a folder of their own. Dropping it ends them and removes the
/// folder, also during a panic; it ends with the process that started it in any case.
#[derive(Debug)]
pub struct Underpass {
    programs: Programs,
    assets: Assets,
    dir: PathBuf,
    url: String,
    server: Start,
    agent_kubeconfig: PathBuf,
    supervisor: Supervisor,
}

impl Underpass {
    /// Starts a server and an agent that reaches its API server with `agent_kubeconfig`, and waits until the agent is
    /// connected. Blocks.
    ///
    /// # Errors
    /// A process ends or does not get ready in time; the error holds the end of its log. Processes that were started are ended.
    pub fn start(
        programs: Programs,
        assets: Assets,
        agent_kubeconfig: &Path,
        transport: Transport,
    ) -> Result<Self, ClusterError> {
        Self::start_with(programs, assets, agent_kubeconfig, transport, &[])
    }

    /// The same, with further flags of `underpass-server serve`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        programs: Programs,
        assets: Assets,
        agent_kubeconfig: &Path,
        transport: Transport,
        flags: &[&str],
    ) -> Result<Self, ClusterError> {
        let dir = tempfile::Builder::new()
            .prefix("underpass-testenv-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(ClusterError::io("create Underpass's folder"))?;
        let log = File::create(dir.path().join("supervise.log"))
            .map_err(ClusterError::io("create the supervisor's log"))?;
        let supervisor = Supervisor::spawn(assets.supervise(), dir.path(), log)
            .map_err(ClusterError::io("start the supervisor"))?;
        // From here on the folder is the supervisor's to remove, after the last process that writes to it.
        let dir = dir.keep();
        fs::write(dir.join(AUTHENTICATION), TOKENS)
            .map_err(ClusterError::io("write the authentication file"))?;
        let mut underpass = Self {
            server: server(&programs, &dir, "127.0.0.1:0", flags),
            url: String::new(),
            agent_kubeconfig: agent_kubeconfig.to_owned(),
            programs,
            assets,
            dir,
            supervisor,
        };
        underpass.start_server()?;
        let port = underpass.url.rsplit(':').next().unwrap_or_default();
        // From here on it is where the agents and kubeconfigs look for it.
        underpass.server = server(
            &underpass.programs,
            &underpass.dir,
            &format!("127.0.0.1:{port}"),
            flags,
        );
        let token = underpass.administer(&["cluster", "add", CLUSTER_NAME, "--static-token"])?;
        fs::write(underpass.token_file(), token)
            .map_err(ClusterError::io("write the agent's token"))?;
        underpass.start_agent(transport)?;
        Ok(underpass)
    }

    /// Starts the server, which must not be running, where it was before, and waits until it serves.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_server(&self) -> Result<(), ClusterError> {
        self.restart_server_with(&[])
    }

    /// The same, with further flags of `underpass-server serve`, for this run of it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_server_with(&self, flags: &[&str]) -> Result<(), ClusterError> {
        let mut server = self.server.clone();
        server
            .argv
            .extend(flags.iter().map(|&flag| flag.to_owned()));
        self.run_server(&server)?;
        self.wait_serving()
    }

    fn start_server(&mut self) -> Result<(), ClusterError> {
        self.url = self.run_server(&self.server)?;
        self.wait_serving()
    }

    /// The server listens before it writes its URL, and serves right after.
    fn wait_serving(&self) -> Result<(), ClusterError> {
        self.wait_for(&self.server, "server", || self.get("/readyz").map(drop))
    }

    /// Gives its URL.
    fn run_server(&self, server: &Start) -> Result<String, ClusterError> {
        // Files of an earlier run would look like this one's.
        let _ = fs::remove_file(self.data_dir().join("url"));
        self.supervisor.start(server)?;
        self.wait_for(server, "server", || {
            fs::read_to_string(self.data_dir().join("url")).map(|url| url.trim().to_owned())
        })
    }

    /// Ends the server as SIGTERM does, and waits for its end.
    ///
    /// # Errors
    /// There is no way to ask for it.
    pub fn stop_server(&self) -> Result<(), ClusterError> {
        self.supervisor.stop(self.server.name, GRACE)
    }

    /// Ends the server as SIGKILL does: nobody is told.
    ///
    /// # Errors
    /// There is no way to ask for it.
    pub fn kill_server(&self) -> Result<(), ClusterError> {
        self.supervisor.stop(self.server.name, Duration::ZERO)
    }

    /// Runs `underpass` with `arguments` at this server's socket, and returns its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn administer(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        let mut command = Command::new(self.programs.cli());
        command
            .env_clear()
            .arg("--socket")
            .arg(self.socket())
            .args(arguments);
        kubectl::output(command, None).map_err(ClusterError::Kubectl)
    }

    /// Writes a kubeconfig for a user, who is made if need be, and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig(&self, user: &str, groups: &[&str]) -> Result<PathBuf, ClusterError> {
        self.kubeconfig_of(user, groups, &[])
    }

    /// The same, with further flags of `underpass kubeconfig`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig_of(
        &self,
        user: &str,
        groups: &[&str],
        flags: &[&str],
    ) -> Result<PathBuf, ClusterError> {
        let path = self.dir.join(format!("{user}.kubeconfig"));
        let output = path.to_string_lossy();
        let mut arguments = vec!["kubeconfig", "--cluster", CLUSTER_NAME, "--user", user];
        arguments.extend(["--output", &output]);
        arguments.extend(groups.iter().flat_map(|group| ["--group", group]));
        arguments.extend(flags);
        self.administer(&arguments)?;
        Ok(path)
    }

    /// The pinned kubectl with a kubeconfig, kept apart from the caller's own settings.
    #[must_use]
    pub fn kubectl(&self, kubeconfig: &Path) -> Command {
        kubectl::command(self.assets.kubectl(), kubeconfig, &self.dir.join("home"))
    }

    /// Where users reach the server: `https://localhost:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's CA certificate, as PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.data_dir().join("ca.pem")
    }

    /// The server's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The socket at which the server's operator works.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data_dir().join("api.sock")
    }

    /// The file that holds the agent's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("agent.token")
    }

    /// The file that says how callers are authenticated; at first, by Underpass's own tokens.
    #[must_use]
    pub fn authentication_file(&self) -> PathBuf {
        self.dir.join(AUTHENTICATION)
    }

    /// Where the server takes a credential plugin from, for direct clusters. There is none at first.
    #[must_use]
    pub fn exec_plugin(&self) -> PathBuf {
        self.dir.join(EXEC_PLUGIN)
    }

    /// A folder for files of the caller, removed at the end.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn server_log(&self) -> io::Result<String> {
        fs::read_to_string(&self.server.log)
    }

    /// The programs that run.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The server's metrics, by way of its socket in the data directory: no other user of the machine, and nothing on
    /// the network, gets them.
    ///
    /// # Errors
    /// No server runs, or it answers with another status than 200.
    pub fn metrics(&self) -> io::Result<String> {
        let mut socket = UnixStream::connect(self.socket())?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.starts_with("HTTP/1.1 200") {
            Ok(body.to_owned())
        } else {
            Err(io::Error::other(head.to_owned()))
        }
    }

    /// A path of the server's own, like `/healthz`.
    ///
    /// # Errors
    /// It answers with another status than 200, or not at all.
    pub fn get(&self, path: &str) -> Result<String, KubectlError> {
        let mut command = self.kubectl(Path::new("/dev/null"));
        command
            .arg("--server")
            .arg(&self.url)
            .arg("--certificate-authority")
            .arg(self.ca_file());
        // Without any, kubectl asks for a name and password; these paths look at none.
        command.args(["--token", "none", "get", "--raw", path]);
        kubectl::output(command, None)
    }

    /// Asks until there is an answer.
    fn wait_for<T, E: std::error::Error>(
        &self,
        process: &Start,
        name: &'static str,
        ask: impl Fn() -> Result<T, E>,
    ) -> Result<T, ClusterError> {
        let begin = Instant::now();
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if begin.elapsed() > DEADLINE => {
                    return Err(ClusterError::NotReady {
                        name,
                        waited: DEADLINE,
                        last: error.to_string(),
                        log: tail(&process.log),
                    });
                }
                Err(_) => self.supervisor.check(process, POLL)?,
            }
        }
    }
}

fn server(programs: &Programs, dir: &Path, listen: &str, flags: &[&str]) -> Start {
    let data = dir.join("data");
    let (authentication, plugin) = (dir.join(AUTHENTICATION), dir.join(EXEC_PLUGIN));
    let argv = [
        &*programs.server().to_string_lossy(),
        "serve",
        "--listen",
        listen,
        "--data-dir",
        &data.to_string_lossy(),
        "--authentication",
        &authentication.to_string_lossy(),
        "--allow-exec-plugin",
        &plugin.to_string_lossy(),
        "--allow-exec-plugin-variable",
        "TOKEN",
        "--drain",
        "5s",
    ];
    // Streams of an agent that was killed end after that.
    let window = ["--resume-window", "5s"];
    let is_usual = !flags.contains(&"--resume-window");
    let window = window.iter().filter(|_| is_usual);
    let argv = argv.iter().chain(window).chain(flags);
    let argv = argv.map(|&word| word.to_owned());
    start("server", argv.collect(), dir)
}

fn start(name: &'static str, argv: Vec<String>, dir: &Path) -> Start {
    let mut env = vec!["RUST_BACKTRACE=1".to_owned()];
    if let Ok(filter) = std::env::var("UNDERPASS_LOG") {
        env.push(format!("UNDERPASS_LOG={filter}"));
    }
    let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
    let log = dir.join(format!("{name}.log"));
    Start {
        name,
        argv,
        env,
        dir: dir.to_owned(),
        log,
        grace_ms,
        has_children: false,
    }
}
