//! `cargo xtask demo`

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use underpass_testenv::{
    Assets, CLUSTER_NAME, Cluster, ClusterOptions, Programs, Transport, Underpass,
    progress_to_stderr,
};

use crate::setup;

/// Who calls in the demo.
const USER: &str = "demo";

/// What gives the demo's user rights in a cluster of the caller's own, while the demo runs.
const BINDING: &str = "underpass-demo";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How the agent reaches the server
    #[arg(long, default_value = "auto")]
    transport: Through,
    /// A cluster of your own instead of a new one. Its user must be able to impersonate, and to
    /// bind the role `view` to the demo's user while the demo runs
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// End after the call instead of staying up
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Through {
    Auto,
    Quic,
    Websocket,
}

impl From<Through> for Transport {
    fn from(through: Through) -> Self {
        match through {
            Through::Auto => Self::Auto,
            Through::Quic => Self::Quic,
            Through::Websocket => Self::WebSocket,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_demo()?;
    // Before anything is started: from here on Ctrl-C ends the demo in good order.
    let interrupt = Interrupt::listen()?;
    step("building underpass-server and underpass-agent (minutes the first time)");
    let programs = Programs::build()?;
    step("finding the Kubernetes programs (about 12 minutes the first time)");
    let assets =
        Assets::ensure(progress_to_stderr).context("cannot get the Kubernetes programs")?;
    let backend = Backend::start(options, &assets)?;
    step("starting a server, and an agent that dials out to it");
    let transport = options.transport.into();
    let agent = backend.agent_kubeconfig(&programs)?;
    let underpass = Underpass::start(programs, assets, &agent, transport)?;
    let kubeconfig = underpass.kubeconfig(USER, &[])?;
    backend.let_in()?;

    step(&format!(
        "kubectl through the tunnel, as user `{USER}` ({}):",
        session(&underpass)?
    ));
    call(&underpass, &kubeconfig, &["get", "namespaces"])?;
    if options.once {
        return Ok(());
    }
    let path = underpass.kubectl(&kubeconfig);
    println!("\nexport KUBECONFIG={}", kubeconfig.display());
    println!(
        "# kubectl of the cluster's release: {}",
        path.get_program().to_string_lossy()
    );
    println!(
        "# server {}, cluster {CLUSTER_NAME}; Ctrl-C ends everything",
        underpass.url()
    );
    std::io::stdout().flush()?;
    interrupt.wait();
    step("ending");
    Ok(())
}

fn step(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m==> {what}\x1b[0m");
    } else {
        eprintln!("==> {what}");
    }
}

/// Shows a kubectl call and its output.
fn call(underpass: &Underpass, kubeconfig: &Path, arguments: &[&str]) -> Result<()> {
    println!("$ kubectl {}", arguments.join(" "));
    std::io::stdout().flush()?;
    let status = underpass.kubectl(kubeconfig).args(arguments).status();
    let status = status.context("cannot run kubectl")?;
    if !status.success() {
        bail!(
            "kubectl ended with {status}; the server's log:\n{}\nthe agent's log:\n{}",
            underpass.server_log()?,
            underpass.agent_log()?
        );
    }
    Ok(())
}

/// Which transport the session is on, from the server's own figures.
fn session(underpass: &Underpass) -> Result<&'static str> {
    let metrics = underpass.metrics()?;
    let quic = metrics
        .lines()
        .any(|line| line == "underpass_agent_sessions{transport=\"quic\"} 1");
    Ok(if quic { "over QUIC" } else { "over WebSocket" })
}

/// The cluster behind the agent.
enum Backend {
    /// One of ours.
    Ours(Box<Cluster>),
    /// The caller's.
    Theirs {
        kubectl: PathBuf,
        kubeconfig: PathBuf,
    },
}

impl Backend {
    fn start(options: &Options, assets: &Assets) -> Result<Self> {
        if let Some(kubeconfig) = &options.kubeconfig {
            let kubeconfig = std::path::absolute(kubeconfig)?;
            return Ok(Self::Theirs {
                kubectl: assets.kubectl().to_owned(),
                kubeconfig,
            });
        }
        step("starting a cluster that only the agent can reach");
        let cluster_options = ClusterOptions::default().with_assets(assets.clone());
        Ok(Self::Ours(Box::new(Cluster::start_blocking(
            cluster_options,
        )?)))
    }

    /// What the agent reaches the cluster with: in ours a ServiceAccount that may impersonate and
    /// nothing else.
    fn agent_kubeconfig(&self, programs: &Programs) -> Result<PathBuf> {
        match self {
            Self::Ours(cluster) => Ok(cluster.agent_account(programs, "underpass-system", &[])?),
            Self::Theirs { kubeconfig, .. } => Ok(kubeconfig.clone()),
        }
    }

    /// Lets the demo's user see things.
    fn let_in(&self) -> Result<()> {
        let (role, mut command) = match self {
            Self::Ours(cluster) => ("cluster-admin", cluster.kubectl()),
            Self::Theirs {
                kubectl,
                kubeconfig,
            } => ("view", theirs(kubectl, kubeconfig)),
        };
        let arguments = [
            BINDING,
            &format!("--clusterrole={role}"),
            &format!("--user={USER}"),
        ]
        .map(str::to_owned);
        step(&format!(
            "binding the cluster role `{role}` to user `{USER}`, as long as this runs"
        ));
        let output = command
            .args(["create", "clusterrolebinding"])
            .args(arguments)
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && !stderr.contains("already exists") {
            bail!("cannot bind a role: {}", stderr.trim());
        }
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Ours ends with its cluster.
        if let Self::Theirs {
            kubectl,
            kubeconfig,
        } = self
        {
            let mut command = theirs(kubectl, kubeconfig);
            command.args([
                "delete",
                "clusterrolebinding",
                BINDING,
                "--ignore-not-found",
            ]);
            if !command.status().is_ok_and(|status| status.success()) {
                eprintln!("delete it yourself: kubectl delete clusterrolebinding {BINDING}");
            }
        }
    }
}

/// kubectl as the caller, with the caller's own environment: their credential may need it.
fn theirs(kubectl: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(kubectl);
    command.env("KUBECONFIG", kubeconfig);
    command
}

/// SIGINT and SIGTERM, caught instead of ending the process.
struct Interrupt(std::sync::mpsc::Receiver<()>);

impl Interrupt {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (caught, waits) = std::sync::mpsc::channel();
        let (mut interrupt, mut terminate) = {
            let _guard = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            // Nobody waits any more where the demo has ended by itself.
            let _ = caught.send(());
        });
        Ok(Self(waits))
    }

    fn wait(&self) {
        // An error means that the thread is gone, and with it the reason to wait.
        let _ = self.0.recv();
    }
}
