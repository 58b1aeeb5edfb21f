//! Runs kubectl through a tunnel to a real API server. `cargo xtask demo` builds this and passes its flags on.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line prints"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use underpass_testenv::{
    Assets, CLUSTER_NAME, Cluster, ClusterOptions, Programs, Transport, Underpass,
    progress_to_stderr,
};
use xtask::{DemoOptions, Through, step};

/// The demo's user.
const USER: &str = "demo";

/// Gives the demo's user rights in a cluster of the caller's own, while the demo runs.
const BINDING: &str = "underpass-demo";

fn main() -> ExitCode {
    let options = DemoOptions::parse(&mut lexopt::Parser::from_env());
    let done = options.and_then(|options| match options {
        Some(options) => run(&options),
        None => {
            print!("{}", DemoOptions::HELP);
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const fn transport(through: Through) -> Transport {
    match through {
        Through::Auto => Transport::Auto,
        Through::Quic => Transport::Quic,
        Through::Websocket => Transport::WebSocket,
    }
}

fn run(options: &DemoOptions) -> Result<()> {
    let programs = Programs::beside(&std::env::current_exe()?);
    step(
        "get etcd and Kubernetes: usually 7 min the first time on two cores where they are built, at once later",
        "start a cluster",
    );
    let assets =
        Assets::ensure(progress_to_stderr).context("cannot get the Kubernetes programs")?;
    // Before anything is started: from here on Ctrl-C ends the demo in good order.
    let interrupt = Interrupt::listen()?;
    let backend = Backend::start(options, &assets)?;
    step(
        "start a server, and an agent that dials out to it: usually 2 s",
        "let the user in",
    );
    let agent = backend.agent_kubeconfig(&programs)?;
    let underpass = Underpass::start(programs, assets, &agent, transport(options.transport))?;
    let kubeconfig = underpass.kubeconfig(USER, &[])?;
    backend.let_in()?;

    step(
        &format!(
            "kubectl through the tunnel, as user `{USER}` ({}):",
            session(&underpass)?
        ),
        "",
    );
    call(&underpass, &kubeconfig, &["get", "namespaces"])?;
    if options.once {
        return Ok(());
    }
    suggest(options, &underpass, &kubeconfig)?;
    interrupt.wait();
    step("ending", "");
    Ok(())
}

/// Three commands to paste into another terminal.
fn suggest(options: &DemoOptions, underpass: &Underpass, kubeconfig: &Path) -> Result<()> {
    let kubectl = underpass.kubectl(kubeconfig);
    let folder = Path::new(kubectl.get_program()).parent();
    let folder = folder.context("kubectl is in a folder")?;
    println!("\nTry next, in another terminal:\n");
    println!(
        "export KUBECONFIG={} PATH={}:$PATH; kubectl auth whoami",
        quoted(kubeconfig),
        quoted(folder)
    );
    let [first, second] = if options.kubeconfig.is_some() {
        [
            "kubectl get pods --all-namespaces --watch",
            "kubectl auth can-i --list",
        ]
    } else {
        [
            "kubectl run clock --image=none --command -- sh -c 'while date; do sleep 1; done' && \
             kubectl wait --for=condition=Ready pod/clock && kubectl logs --follow clock",
            "kubectl exec --stdin --tty clock -- sh",
        ]
    };
    println!("{first}\n{second}\n");
    println!(
        "# kubectl is of the cluster's release; pods of the demo's cluster are processes of this machine"
    );
    println!(
        "# server {}, cluster {CLUSTER_NAME}; Ctrl-C here ends everything",
        underpass.url()
    );
    Ok(std::io::stdout().flush()?)
}

/// A path as a shell's word.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) {
        return path.into_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
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
    fn start(options: &DemoOptions, assets: &Assets) -> Result<Self> {
        if let Some(kubeconfig) = &options.kubeconfig {
            let kubeconfig = std::path::absolute(kubeconfig)?;
            return Ok(Self::Theirs {
                kubectl: assets.kubectl().to_owned(),
                kubeconfig,
            });
        }
        step(
            "start a cluster that only the agent can reach: usually 4 s",
            "start the server and the agent",
        );
        let cluster_options = ClusterOptions::default().with_assets(assets.clone());
        Ok(Self::Ours(Box::new(Cluster::start_blocking(
            cluster_options,
        )?)))
    }

    /// The agent's credential for the cluster: in ours of a ServiceAccount that may impersonate and
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
        step(
            &format!("bind the cluster role `{role}` to user `{USER}`, as long as this runs"),
            "run kubectl through the tunnel",
        );
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
