//! The Underpass agent as a library: parse, build, run, drain. Its program is [`main`]; [`serve()`] is one agent among others of a
//! process.

mod cli;
mod cluster;
mod connection;
mod descriptors;
mod files;
mod join;
mod keeping;
mod key;
mod kube_api;
mod limits;
mod policy;
mod rbac;
mod register;
mod rotation;
mod serve;
mod targets;
mod telemetry;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::task::AbortOnDropHandle;
use underpass_agent_operations::{OpenError, Operations, Retention};
use underpass_agent_shell::{Helper, helper};
use underpass_core::process::{self, Signals, raise_open_files};
use underpass_terminal::{start_log, tell};
use underpass_tunnel::chain;
use underpass_upstream::ApiServer;

use crate::cli::{Cli, LogFormat, Task};
use crate::connection::Connection;
use crate::join::Joining;
use crate::keeping::Keeping;
use crate::key::Origin;
use crate::kube_api::KubeApi;
use crate::policy::{Policies, PolicyCommand};
use crate::rbac::Rbac;
use crate::register::Registering;
use crate::rotation::{Questions, Rotating, Wake};
use crate::serve::Sessions;
use crate::targets::{AgentShells, OwnFiles, Targets};

/// The first argument of a process that becomes a shell's program. No flag and no command of the agent's is like it.
const SHELL_HELPER: &str = "__shell-helper";

/// The program: reads the command line, and does what it says.
pub fn main() -> ExitCode {
    descriptors::close_inherited();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == SHELL_HELPER)
    {
        return helper::run();
    }
    let task = Task::parse();
    let (filter, format) = match &task {
        Task::Serve(cli) => (cli.log.as_str(), cli.log_format),
        Task::Rbac(_) | Task::Policy(_) => (cli::LOG, LogFormat::Text),
    };
    let _log = match start_log(filter, format.into()) {
        Ok(log) => log,
        Err(error) => {
            tell(format_args!("cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = match task {
        Task::Serve(cli) => run(*cli).map(|()| ExitCode::SUCCESS),
        Task::Rbac(options) => print_manifests(options).map(|()| ExitCode::SUCCESS),
        Task::Policy(command) => answer(&command),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs an agent with these arguments, the program's name among them, until a signal asks the process to stop. It starts neither
/// threads nor a log, which a process has once for all of its agents.
///
/// # Errors
/// The arguments are wrong or ask for something else than to serve, or a file that they name cannot be used.
///
/// # Cancel safety
/// Dropping the future stops dialling. A session that stands goes on until its server, or this process, ends it.
pub async fn serve(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    match Task::try_parse_from(arguments)? {
        // The process's program is another one, which becomes no shell.
        Task::Serve(cli) => serve_until_stopped(*cli, None).await,
        Task::Rbac(_) | Task::Policy(_) => anyhow::bail!("the arguments ask for no agent"),
    }
}

fn print_manifests(options: Rbac) -> Result<()> {
    print(&rbac::manifests(options)?)
}

fn answer(command: &PolicyCommand) -> Result<ExitCode> {
    let answer = command.run()?;
    print(&answer.text)?;
    Ok(match answer.yes {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn print(text: &str) -> Result<()> {
    // The reader of the pipe may have closed it.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot print"),
    }
}

fn run(cli: Cli) -> Result<()> {
    process::can_have_threads().context("cannot start threads")?;
    let mut runtime = match cli.threads.get() {
        // Its tasks run in the order in which they were woken: the one that moves bytes on finds those of many others.
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(threads);
            runtime
        }
    };
    let runtime = runtime
        .enable_all()
        .thread_keep_alive(process::BLOCKING_THREAD_IDLE)
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(async {
        let _keeping = AbortOnDropHandle::new(tokio::spawn(process::keep_blocking_thread()));
        let helper = Helper::of_this_program([SHELL_HELPER]);
        serve_until_stopped(cli, Some(helper)).await
    });
    // A file system that hangs, or a pipe in the place of a file, keeps no process.
    runtime.shutdown_timeout(process::LAST_TASKS);
    ended
}

async fn serve_until_stopped(cli: Cli, helper: Option<Helper>) -> Result<()> {
    let mut signals = Signals::listen()?;
    let open_files = match raise_open_files() {
        Ok(files) => {
            tracing::debug!(files, "open files");
            files
        }
        Err(error) => {
            tracing::warn!("the limit of open files stays as it is: {error}");
            None
        }
    };
    let prepared = tokio::select! {
        prepared = Prepared::of(&cli) => prepared?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before it had started");
            return Ok(());
        }
    };
    let Prepared {
        policies,
        joining,
        registering,
        origin,
        mut connection,
        api_server,
        operations,
    } = prepared;
    let _asking = api_server.clone().map(|asked| {
        let reporting = async move { cluster::report(&asked).await };
        AbortOnDropHandle::new(tokio::spawn(reporting))
    });
    let own = own_files(&cli);
    let kube = KubeApi::new(api_server, cli.key.role(), Arc::clone(&policies));
    let shells = helper.map(|helper| {
        let policies = Arc::clone(&policies);
        Arc::new(AgentShells::new(helper, policies, kube.clone(), &own))
    });
    let targets = Targets::new(Arc::clone(&policies), own, open_files)
        .with_operations(operations.clone())
        .with_shells(shells.clone());
    let _enforcing = shells.clone().map(|shells| {
        let enforcing = async move {
            shells.report().await;
            shells.enforce().await;
        };
        AbortOnDropHandle::new(tokio::spawn(enforcing))
    });
    let (questions, mut asked) = Questions::new();
    let sessions = Sessions::new(kube, Arc::new(targets), questions).with_registering(registering);
    let following = Arc::clone(&policies);
    let _following = AbortOnDropHandle::new(tokio::spawn(async move { following.follow().await }));
    if let Some(address) = cli.metrics {
        telemetry::serve(address, sessions.clone())?;
    }
    let joining = joining.as_ref();
    if origin == Origin::Made && !join_first(&cli, joining, &mut signals).await {
        return Ok(());
    }
    let mut session = None;
    loop {
        sessions.serve_as(cli.key.role());
        let keeping = Keeping {
            cli: &cli,
            sessions: &sessions,
            policies: &policies,
            joining,
            connection: &connection,
        };
        let kept = keeping.until_asked(session, &mut signals, &mut asked).await;
        let Some(next) = kept else { break };
        (connection, session) = (next.connection, next.session);
        tokio::spawn(sessions.leave(cli.drain));
    }
    tracing::info!(deadline = ?cli.drain, "stopping; the signal again stops at once");
    let following = Rotating {
        cli: &cli,
        connection: &connection,
        sessions: &sessions,
        asked: &mut asked,
        wake: &Wake::default(),
    };
    // Shells end with the agent: their viewers read that at once, and hold up no drain.
    let ending = async {
        if let Some(shells) = shells {
            shells.stop().await;
        }
    };
    let draining = async { tokio::join!(sessions.drain(cli.drain), ending) };
    tokio::select! {
        ((), ()) = draining => {}
        never = following.follow() => match never {},
        _ = signals.stop() => {}
    }
    if let Some(operations) = operations {
        // A disk that hangs keeps a run from being written down.
        tokio::select! {
            () = operations.stop() => {}
            _ = signals.stop() => {}
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// The state of an agent that has read its files.
struct Prepared {
    policies: Arc<Policies>,
    joining: Option<Joining>,
    registering: Arc<Registering>,
    origin: Origin,
    connection: Connection,
    api_server: Option<Arc<ApiServer>>,
    operations: Option<Operations>,
}

impl Prepared {
    async fn of(cli: &Cli) -> Result<Self> {
        let policies = Arc::new(Policies::read(cli.policy.clone(), cli.impersonation())?);
        let joining = Joining::of(cli)?;
        let registering = Arc::new(Registering::of(cli, Arc::clone(&policies))?);
        let origin = key::prepare(cli).await?;
        Ok(Self {
            policies,
            joining,
            registering,
            origin,
            connection: Connection::read(cli)?,
            api_server: cluster::api_server_of(cli).await?.map(Arc::new),
            operations: operations(cli).await?,
        })
    }
}

/// The records of operations, where the agent has a state directory. One that cannot be used costs the node its operations, and not
/// its agent.
async fn operations(cli: &Cli) -> Result<Option<Operations>> {
    let Some(folder) = cli.state_dir.clone() else {
        return Ok(None);
    };
    let opening = move || Operations::open(&folder.join("operations"), Retention::default());
    let opened = tokio::task::spawn_blocking(opening).await;
    match opened.context("reading the operations was given up")? {
        Ok(operations) => Ok(Some(operations)),
        Err(error @ OpenError::InUse(_)) => Err(error.into()),
        Err(error) => {
            tracing::error!(
                "this agent runs no operations until it is started again: {}",
                chain(&error)
            );
            Ok(None)
        }
    }
}

/// The files of the agent's own credentials, and the policy itself.
fn own_files(cli: &Cli) -> OwnFiles {
    let files = [
        &cli.kubeconfig,
        &cli.ca_file,
        &cli.proxy_ca_file,
        &cli.policy,
        &cli.state_dir,
    ];
    let files = files.into_iter().flatten().chain(cli.key.files());
    OwnFiles::new(files.cloned())
}

/// Joins with a key that was just made, where there is a join token. False: a signal asks to stop.
async fn join_first(cli: &Cli, joining: Option<&Joining>, signals: &mut Signals) -> bool {
    let Some(joining) = joining else {
        tracing::warn!("a new key was made, which no server knows: give --join-token-file");
        return true;
    };
    tracing::info!("a new key was made: joining with it");
    tokio::select! {
        () = joining.join(cli) => true,
        _ = signals.stop() => false,
    }
}
