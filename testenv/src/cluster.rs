//! A running cluster.

use std::fs::{File, Permissions};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::certs::Authority;
use crate::components::{self, Layout};
use crate::kubeconfig::{self, Credential, write_private};
use crate::options::{ClusterOptions, NODE_NAME};
use crate::supervisor::{Start, Supervisor, tail};
use crate::{Assets, ClusterError, Programs, agent, kubectl, ports, progress_to_stderr};

/// How often a port may be lost to another process before it is an error.
const ATTEMPTS: usize = 3;

/// The pause between two questions whether something is ready.
const POLL: Duration = Duration::from_millis(100);

/// The time for an API server to finish its requests before a restart kills it.
const RESTART_GRACE: Duration = Duration::from_secs(10);

/// A real Kubernetes cluster on loopback.
///
/// It is `Send` and `Sync`: a test binary can share one in a `static`. Dropping it ends its processes and removes its
/// folder, also during a panic; a cluster that is never dropped, because it is in a `static` or the process was killed,
/// ends when the process does. Dropping blocks for a fraction of a second, which is fine in an async test.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    assets: Assets,
    options: ClusterOptions,
    authority: Authority,
    api_url: String,
    ca_pem: String,
    admin_kubeconfig: PathBuf,
    audit_log: Option<PathBuf>,
    /// Numbers the files of [`Self::kubeconfig_for`].
    users: AtomicUsize,
    /// `kubectl apply` looks for an object and creates it where there is none: of two at the same time one fails.
    applying: Mutex<()>,
    api_server: Start,
    supervisor: Supervisor,
}

impl Cluster {
    /// Starts a cluster and waits until it is ready; building its programs first, if need be.
    ///
    /// # Errors
    /// The programs are missing and cannot be built, or a part of the cluster ends or does not get ready in time; the
    /// error then holds the end of its log. Processes that were started are ended.
    ///
    /// # Cancel safety
    /// Dropping the future ends what it has started, as soon as it has started.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        match tokio::task::spawn_blocking(|| Self::start_blocking(options)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down, so nobody will look at this.
                Err(_) => Err(ClusterError::SupervisorGone),
            },
        }
    }

    /// [`Self::start`] for where there is no runtime, such as in a `LazyLock`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_blocking(mut options: ClusterOptions) -> Result<Self, ClusterError> {
        let assets = match options.assets.take() {
            Some(assets) => assets,
            None => Assets::ensure(progress_to_stderr)?,
        };
        let mut attempt = 1;
        loop {
            match Self::attempt(&assets, &options) {
                Err(ClusterError::ComponentEnded { log, .. })
                    if attempt < ATTEMPTS && log.contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn attempt(assets: &Assets, options: &ClusterOptions) -> Result<Self, ClusterError> {
        let [etcd_port, etcd_peer_port, api_port] =
            ports::free().map_err(ClusterError::io("find free ports"))?;
        let dir = tempfile::Builder::new()
            .prefix("underpass-testenv-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(ClusterError::io("create the cluster's folder"))?;
        let layout = Layout {
            dir: dir.path().to_owned(),
            etcd_port,
            etcd_peer_port,
            api_port,
        };
        let authority = Authority::generate()?;
        components::write_files(&layout, &authority)?;
        let log = File::create(layout.path("supervise.log"))
            .map_err(ClusterError::io("create the supervisor's log"))?;
        let supervisor = Supervisor::spawn(assets.supervise(), dir.path(), log)
            .map_err(ClusterError::io("start the supervisor"))?;
        // From here on the folder is the supervisor's to remove, after the last process that writes to it.
        let _ = dir.keep();
        let cluster = Self {
            api_url: layout.api_url(),
            ca_pem: authority.pem(),
            admin_kubeconfig: layout.admin_kubeconfig(),
            audit_log: options.audit_log.then(|| layout.audit_log()),
            api_server: components::api_server(&layout, assets, options),
            assets: assets.clone(),
            options: options.clone(),
            users: AtomicUsize::new(0),
            applying: Mutex::new(()),
            layout,
            authority,
            supervisor,
        };
        cluster.bring_up()?;
        Ok(cluster)
    }

    fn bring_up(&self) -> Result<(), ClusterError> {
        let etcd = components::etcd(&self.layout, &self.assets);
        self.supervisor.start(&etcd)?;
        // It waits for etcd by itself.
        self.supervisor.start(&self.api_server)?;
        self.wait_for_api_server(&[&etcd, &self.api_server])?;
        let controllers = components::controller_manager(&self.layout, &self.assets);
        let node = components::node(&self.layout, &self.assets, &self.options);
        if self.options.controller_manager {
            self.supervisor.start(&controllers)?;
        }
        if self.options.node {
            self.supervisor.start(&node)?;
            self.wait_for(&node, &[&node], || {
                let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
                match self.ask(&["get", "node", NODE_NAME, "-o", path])?.as_str() {
                    "True" => Ok(()),
                    other => Err(format!("condition Ready is {other:?}")),
                }
            })?;
        }
        if self.options.controller_manager {
            // Without it a pod that is created at once is refused.
            self.wait_for(&controllers, &[&controllers], || {
                self.ask(&["get", "serviceaccount", "default"]).map(drop)
            })?;
        }
        Ok(())
    }

    fn wait_for_api_server(&self, involved: &[&Start]) -> Result<(), ClusterError> {
        self.wait_for(&self.api_server, involved, || {
            // Cheaper than a kubectl that cannot connect, as long as nobody listens.
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.layout.api_port))
                .map_err(|e| e.to_string())?;
            self.ask(&["get", "--raw=/readyz"]).map(drop)
        })
    }

    /// Asks until the answer is yes. Fails when a process that is involved ends, and at the deadline.
    fn wait_for(
        &self,
        component: &Start,
        involved: &[&Start],
        mut ready: impl FnMut() -> Result<(), String>,
    ) -> Result<(), ClusterError> {
        let begin = Instant::now();
        loop {
            let Err(last) = ready() else { return Ok(()) };
            for process in involved {
                self.supervisor.check(process, Duration::ZERO)?;
            }
            self.supervisor.check(component, POLL)?;
            let waited = begin.elapsed();
            if waited > self.options.deadline {
                let (name, log) = (component.name, tail(&component.log));
                return Err(ClusterError::NotReady {
                    name,
                    waited,
                    last,
                    log,
                });
            }
        }
    }

    /// A question whose answer may be that nobody answers yet.
    fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.kubectl();
        command.arg("--request-timeout=5s").args(arguments);
        kubectl::output(command, None).map_err(|e| e.to_string())
    }

    /// Ends the cluster and removes its folder. So does dropping it; this does not block the runtime.
    pub async fn stop(self) {
        // It ends even if the task that waits for it is not polled to its end.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Ends the cluster and removes its folder; the same as dropping it, but says so.
    pub fn stop_blocking(self) {}

    /// The URL of the API server's etcd, which asks for no credential.
    #[must_use]
    pub fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.layout.etcd_port)
    }

    /// The API server's address, `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn api_server_url(&self) -> &str {
        &self.api_url
    }

    /// The certificate authority of the API server, which also signs client certificates.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The cluster's folder, which holds `<component>.log` for each of its processes. It is removed with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.layout.dir
    }

    /// The API server's audit log: one `audit.k8s.io/v1` Event per line, at level Metadata.
    #[must_use]
    pub fn audit_log(&self) -> Option<&Path> {
        self.audit_log.as_deref()
    }

    /// A kubeconfig that may do everything (group `system:masters`).
    #[must_use]
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin_kubeconfig
    }

    /// Writes a kubeconfig for a user in groups, who is known by a client certificate and may do what RBAC lets them.
    ///
    /// # Errors
    /// The certificate cannot be issued or the file cannot be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf, ClusterError> {
        let identity = self.authority.client(user, groups)?;
        self.write_kubeconfig(user, Credential::Certificate(&identity))
    }

    /// Writes a kubeconfig that sends a bearer token. The name is only for the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> Result<PathBuf, ClusterError> {
        self.write_kubeconfig(name, Credential::Token(token))
    }

    /// Writes a kubeconfig for an Underpass agent: a token of ServiceAccount `underpass-system/underpass-agent`, which
    /// may impersonate and do nothing else. Creates the account if it is not there.
    ///
    /// # Errors
    /// The API server refuses, or the file cannot be written.
    pub fn agent_kubeconfig(&self) -> Result<PathBuf, ClusterError> {
        self.apply(&agent::manifest())?;
        let token = self.service_account_token(agent::NAMESPACE, agent::NAME)?;
        self.kubeconfig_with_token(agent::NAME, &token)
    }

    /// The same by what `underpass-agent rbac` prints for that namespace with these arguments: a kubeconfig of the
    /// ServiceAccount `underpass-agent` in it.
    ///
    /// # Errors
    /// The program fails, the API server refuses, or the file cannot be written.
    pub fn agent_account(
        &self,
        programs: &Programs,
        namespace: &str,
        arguments: &[&str],
    ) -> Result<PathBuf, ClusterError> {
        let arguments = [&["--namespace", namespace], arguments].concat();
        self.apply_text(&programs.agent_manifests(&arguments)?)?;
        let token = self.service_account_token(namespace, agent::NAME)?;
        self.kubeconfig_with_token(namespace, &token)
    }

    /// A token of a ServiceAccount that exists, good for an hour.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<String, ClusterError> {
        let token = self.run_kubectl(&["create", "token", name, "-n", namespace])?;
        Ok(token.trim().to_owned())
    }

    fn write_kubeconfig(
        &self,
        name: &str,
        credential: Credential<'_>,
    ) -> Result<PathBuf, ClusterError> {
        let number = self.users.fetch_add(1, Ordering::Relaxed);
        let path = kubeconfig::file_for(&self.layout.path("users"), number, name);
        let document = kubeconfig::document(&self.api_url, &self.ca_pem, credential);
        write_private(&path, document.to_string().as_bytes())
            .map_err(ClusterError::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// The pinned kubectl as the administrator, with a home and a cache of its own and without proxies.
    /// `tokio::process::Command::from` makes it an asynchronous one.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        self.kubectl_with(&self.admin_kubeconfig)
    }

    /// [`Self::kubectl`] with another kubeconfig.
    #[must_use]
    pub fn kubectl_with(&self, kubeconfig: &Path) -> Command {
        kubectl::command(self.assets.kubectl(), kubeconfig, &self.layout.path("home"))
    }

    /// Runs kubectl as the administrator and returns its standard output.
    ///
    /// # Errors
    /// It fails; the error holds its standard error.
    pub fn run_kubectl(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        let mut command = self.kubectl();
        command.args(arguments);
        Ok(kubectl::output(command, None)?)
    }

    /// Applies a manifest, which may be a `List`, as the administrator.
    ///
    /// # Errors
    /// kubectl fails; the error holds its standard error.
    pub fn apply(&self, manifest: &Value) -> Result<(), ClusterError> {
        self.apply_text(&manifest.to_string())
    }

    /// Applies manifests in YAML, as the administrator. Calls for the same cluster wait for each other.
    ///
    /// # Errors
    /// kubectl fails; the error holds its standard error.
    pub fn apply_text(&self, manifests: &str) -> Result<(), ClusterError> {
        let mut command = self.kubectl();
        command.args(["apply", "-f", "-"]);
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        kubectl::output(command, Some(manifests.as_bytes()))?;
        Ok(())
    }

    /// Ends kube-apiserver, which closes every connection to it, starts it again at the same address and waits until it
    /// is ready.
    ///
    /// # Errors
    /// It does not come up again.
    pub fn restart_api_server(&self) -> Result<(), ClusterError> {
        self.supervisor.stop(self.api_server.name, RESTART_GRACE)?;
        self.supervisor.start(&self.api_server)?;
        self.wait_for_api_server(&[&self.api_server])
    }
}
