//! An agent from its files to its end.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use underpass_agent_operations::{OpenError, Operations, Retention};
use underpass_agent_shell::Helper;
use underpass_core::process::{Signals, raise_open_files};
use underpass_tunnel::chain;
use underpass_upstream::ApiServer;

use crate::cli::Cli;
use crate::connection::Connection;
use crate::join::Joining;
use crate::keeping::Keeping;
use crate::key::Origin;
use crate::kube_api::KubeApi;
use crate::policy::Policies;
use crate::register::Registering;
use crate::rotation::{Asked, Questions, Rotating, Wake};
use crate::serve::Sessions;
use crate::targets::{AgentShells, OwnFiles, Targets};
use crate::{cluster, key, telemetry};

/// Runs an agent until a signal asks the process to stop, and drains it. Without a helper it opens no shells.
pub(crate) async fn run_until_stopped(cli: Cli, helper: Option<Helper>) -> Result<()> {
    let mut signals = Signals::listen()?;
    let open_files = open_files();
    let prepared = tokio::select! {
        prepared = Prepared::of(&cli) => prepared?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before it had started");
            return Ok(());
        }
    };
    let origin = prepared.origin;
    let mut agent = Agent::assemble(cli, prepared, helper, open_files)?;
    if origin == Origin::Made && !agent.join_first(&mut signals).await {
        return Ok(());
    }
    agent.serve(&mut signals).await;
    agent.stop(&mut signals).await;
    Ok(())
}

/// The limit of open files, raised as far as it goes.
fn open_files() -> Option<u64> {
    match raise_open_files() {
        Ok(files) => {
            tracing::debug!(files, "open files");
            files
        }
        Err(error) => {
            tracing::warn!("the limit of open files stays as it is: {error}");
            None
        }
    }
}

/// The parts of an agent. Its tasks end with it.
struct Agent {
    cli: Cli,
    policies: Arc<Policies>,
    joining: Option<Joining>,
    connection: Connection,
    sessions: Sessions,
    asked: mpsc::Receiver<Asked>,
    shells: Option<Arc<AgentShells>>,
    operations: Option<Operations>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Agent {
    /// Puts the parts together, and starts their tasks.
    fn assemble(
        cli: Cli,
        prepared: Prepared,
        helper: Option<Helper>,
        open_files: Option<u64>,
    ) -> Result<Self> {
        let Prepared {
            policies,
            joining,
            registering,
            origin: _,
            connection,
            api_server,
            operations,
        } = prepared;
        let mut tasks = Vec::new();
        let mut start = |task| tasks.push(AbortOnDropHandle::new(task));
        if let Some(asked) = api_server.clone() {
            start(tokio::spawn(async move { cluster::report(&asked).await }));
        }
        let own = own_files(&cli);
        let kube = KubeApi::new(api_server, cli.key.role(), Arc::clone(&policies));
        let shells = helper.map(|helper| {
            let policies = Arc::clone(&policies);
            Arc::new(AgentShells::new(helper, policies, kube.clone(), &own))
        });
        let targets = Targets::new(Arc::clone(&policies), own, open_files)
            .with_operations(operations.clone())
            .with_shells(shells.clone());
        if let Some(shells) = shells.clone() {
            start(tokio::spawn(async move {
                shells.report().await;
                shells.enforce().await;
            }));
        }
        let following = Arc::clone(&policies);
        start(tokio::spawn(async move { following.follow().await }));
        let (questions, asked) = Questions::new();
        let sessions = Sessions::new(kube, Arc::new(targets), questions);
        let sessions = sessions.with_registering(registering);
        if let Some(address) = cli.metrics {
            telemetry::serve(address, sessions.clone())?;
        }
        Ok(Self {
            cli,
            policies,
            joining,
            connection,
            sessions,
            asked,
            shells,
            operations,
            _tasks: tasks,
        })
    }

    /// Joins with a key that was just made, where there is a join token. False: a signal asks to stop.
    async fn join_first(&self, signals: &mut Signals) -> bool {
        let Some(joining) = &self.joining else {
            tracing::warn!("a new key was made, which no server knows: give --join-token-file");
            return true;
        };
        tracing::info!("a new key was made: joining with it");
        tokio::select! {
            () = joining.join(&self.cli) => true,
            _ = signals.stop() => false,
        }
    }

    /// Keeps a session until a signal asks to stop.
    async fn serve(&mut self, signals: &mut Signals) {
        let mut session = None;
        loop {
            self.sessions.serve_as(self.cli.key.role());
            let keeping = Keeping {
                cli: &self.cli,
                sessions: &self.sessions,
                policies: &self.policies,
                joining: self.joining.as_ref(),
                connection: &self.connection,
            };
            let kept = keeping.until_asked(session, signals, &mut self.asked).await;
            let Some(next) = kept else { return };
            (self.connection, session) = (next.connection, next.session);
            tokio::spawn(self.sessions.leave(self.cli.drain));
        }
    }

    /// Drains until the deadline, or the next signal.
    async fn stop(mut self, signals: &mut Signals) {
        let deadline = self.cli.drain;
        tracing::info!(?deadline, "stopping; the signal again stops at once");
        let following = Rotating {
            cli: &self.cli,
            connection: &self.connection,
            sessions: &self.sessions,
            asked: &mut self.asked,
            wake: &Wake::default(),
        };
        // Shells end with the agent: their viewers read that at once, and hold up no drain.
        let ending = async {
            if let Some(shells) = &self.shells {
                shells.stop().await;
            }
        };
        let draining = async { tokio::join!(self.sessions.drain(deadline), ending) };
        tokio::select! {
            ((), ()) = draining => {}
            never = following.follow() => match never {},
            _ = signals.stop() => {}
        }
        if let Some(operations) = &self.operations {
            // A disk that hangs keeps a run from being written down.
            tokio::select! {
                () = operations.stop() => {}
                _ = signals.stop() => {}
            }
        }
        tracing::info!("stopped");
    }
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
