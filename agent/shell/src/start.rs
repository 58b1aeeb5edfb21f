//! The start of a shell's program.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use underpass_agent_policy::{Protection, ShellRule};

use crate::Settings;
use crate::error::OpenError;
use crate::given::Given;
use crate::hold::{Hold, SharedStores};
use crate::limits;
use crate::messages::{Messages, Start};
use crate::processes::{self, Processes};
use crate::protection::Lacks;
use crate::record::{Exit, ShellId};
use crate::talk::{HomePlan, Named, Plan, Program, Stage, Want};

/// Where programs are: the agent's own PATH is not passed by itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The parts of a start.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) rule: &'a Arc<ShellRule>,
    pub(crate) id: &'a ShellId,
    pub(crate) term: &'a str,
    pub(crate) given: &'a Given,
    /// Without a program, all the rest is tried.
    pub(crate) is_trial: bool,
}

/// A shell's program that runs, or has ended and is not reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) all: Processes,
    pub(crate) hold: Hold,
    pub(crate) lacks: Lacks,
    ended: AsyncFd<OwnedFd>,
    /// Of a program that is not the child itself, but the child's.
    messages: Option<Messages>,
    exit: Option<Exit>,
}

impl Process {
    /// The uid that is its own alone.
    pub(crate) fn uid(&self) -> Option<u32> {
        let uid = self.hold.uid();
        uid.filter(|_| !self.lacks.have(Protection::Uid))
    }

    /// Waits until the program has ended. It is not reaped by that.
    pub(crate) async fn ended(&mut self) {
        if let Some(messages) = &mut self.messages {
            self.exit = messages.end().await;
        }
        if self.exit.is_none() && self.ended.readable().await.is_err() {
            // The runtime ends.
            std::future::pending::<()>().await;
        }
    }

    /// Ends what is left, once every process of the program's has ended or been killed.
    pub(crate) async fn finish(mut self) -> Exit {
        if self.messages.is_some() && timeout(limits::INIT_TIME, self.child.wait()).await.is_err() {
            self.all.kill_namespace();
        }
        if let Some(group) = self.hold.group()
            && let Err(error) = group.kill()
        {
            tracing::debug!("the cgroup of a shell cannot be killed: {error}");
        }
        // Only now: until it is reaped, the session's number is its own.
        let status = self.child.wait().await;
        if let (None, Some(messages)) = (self.exit, &mut self.messages) {
            // All that hold the other end have ended.
            let ended = timeout(limits::INIT_TIME, messages.end()).await;
            self.exit = ended.unwrap_or_default();
        }
        self.hold.release().await;
        let exit = self.exit.or_else(|| status.ok().map(Exit::of));
        exit.unwrap_or(Exit::Unknown)
    }
}

/// The environment of a shell's program: the agent's own is none of it but the variables that the rule names.
fn environment(order: Order<'_>, hold: &Hold) -> BTreeMap<OsString, OsString> {
    let Order {
        rule, given, term, ..
    } = order;
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    let home = hold.home().unwrap_or_else(|| rule.directory().into());
    all.insert("PATH".into(), PATH.into());
    all.insert("HOME".into(), home.clone().into());
    all.insert("SHELL".into(), rule.program().into());
    for variable in rule.passed_variables() {
        if let Some(value) = std::env::var_os(variable) {
            all.insert(variable.into(), value);
        }
    }
    let set = rule.set_variables().iter().chain(&given.environment);
    all.extend(set.map(|(variable, value)| (variable.into(), value.into())));
    for file in &given.files {
        if let Some(variable) = &file.variable {
            all.insert(variable.into(), home.join(&file.name).into());
        }
    }
    all.insert("TERM".into(), term.into());
    all.insert(processes::MARK.into(), order.id.as_str().into());
    all
}

/// Whether there is a program of this name on the `PATH` of this rule's shells.
pub(crate) fn finds(rule: &ShellRule, program: &str) -> bool {
    let passed = || {
        let is_passed = rule.passed_variables().iter().any(|own| own == "PATH");
        is_passed.then(|| std::env::var_os("PATH")).flatten()
    };
    let set = rule.set_variables().get("PATH").map(OsString::from);
    let path = set.or_else(passed).unwrap_or_else(|| PATH.into());
    std::env::split_paths(&path).any(|folder| {
        let found = std::fs::metadata(folder.join(program));
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

fn plan(order: Order<'_>, hold: &Hold, is_refused: bool) -> Plan {
    let Order { rule, given, .. } = order;
    let required: Vec<_> = rule.required_protections().collect();
    let wants = rule.protections().iter().map(|protection| Want {
        protection: Named(*protection),
        is_required: required.contains(protection),
    });
    let home = hold.home();
    let directory = rule.named_directory().map(Into::into);
    let directory = directory.or_else(|| home.clone());
    let (path, arguments) = rule.command();
    let program = Program {
        path: path.to_owned(),
        arguments: arguments.to_vec(),
        environment: environment(order, hold).into_iter().collect(),
        directory: directory.unwrap_or_else(|| rule.directory().into()),
    };
    let files = given.files.iter();
    let files = files.map(|file| (file.name.clone(), file.content.clone()));
    Plan {
        stage: Stage::Outer,
        program: (!order.is_trial).then_some(program),
        wants: wants.collect(),
        is_refused,
        uid: hold.uid(),
        home: home.map(|path| HomePlan {
            path,
            base: order.settings.homes.clone(),
            files: files.collect(),
        }),
        hide: order.settings.hide.clone(),
        memory: rule.resources().memory,
        processes: rule.resources().processes,
    }
}

/// Starts the program of a rule at a terminal. Gives it once it runs.
///
/// # Cancel safety
/// Not cancel safe: a uid, a home and a cgroup may stay taken.
pub(crate) async fn start(
    order: Order<'_>,
    stores: &SharedStores,
    terminal: OwnedFd,
) -> Result<Process, OpenError> {
    let (taking, rule) = (Arc::clone(stores), Arc::clone(order.rule));
    let name = order.id.as_str().to_owned();
    let taken = tokio::task::spawn_blocking(move || Hold::take(&taking, &rule, &name)).await;
    let taken = taken.map_err(|gone| OpenError::Helper(io::Error::other(gone)));
    let (hold, lacks) = taken??;
    let (mut child, talk) = match spawn(order, terminal) {
        Ok(spawned) => spawned,
        Err(error) => {
            hold.release().await;
            return Err(OpenError::Helper(error));
        }
    };
    match launch(order, &child, talk, &hold, lacks).await {
        Ok(launched) => Ok(Process {
            child,
            all: launched.all,
            hold,
            lacks: launched.lacks,
            ended: launched.ended,
            messages: launched.messages,
            exit: None,
        }),
        Err(error) => {
            // It may have ended already.
            let _ = child.kill().await;
            hold.release().await;
            Err(error)
        }
    }
}

fn spawn(order: Order<'_>, terminal: OwnedFd) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = Blocking::pair()?;
    ours.set_nonblocking(true)?;
    let talk = UnixStream::from_std(ours)?;
    let mut command = Command::from(order.settings.helper.command(terminal, theirs.into())?);
    command.env(processes::MARK, order.id.as_str());
    // It has the terminal, and the other end of the talk, until it is dropped: neither would ever end.
    Ok((command.kill_on_drop(true).spawn()?, talk))
}

struct Launched {
    all: Processes,
    ended: AsyncFd<OwnedFd>,
    lacks: Lacks,
    messages: Option<Messages>,
}

async fn launch(
    order: Order<'_>,
    child: &Child,
    talk: UnixStream,
    hold: &Hold,
    mut lacks: Lacks,
) -> Result<Launched, OpenError> {
    let number = child.id().and_then(|number| i32::try_from(number).ok());
    let leader = number.and_then(Pid::from_raw);
    let leader =
        leader.ok_or_else(|| OpenError::Helper(io::Error::other("it has no process id")))?;
    let ended = watch_end(leader).map_err(OpenError::Helper)?;
    // It waits for its plan meanwhile, and has started nothing.
    if let Some(Err(error)) = hold.group().map(|group| group.enter(leader)) {
        lacks.add(Protection::Cgroup, format!("cgroup.procs: {error}"));
    }
    let plan = plan(order, hold, lacks.check(order.rule).is_err());
    let mut messages = Messages::new(talk);
    let talked = async {
        messages.send(&plan).await?;
        messages.start(&mut lacks).await
    };
    let start = timeout(limits::START_TIME, talked).await;
    let start = start.map_err(|_| OpenError::Slow)?;
    // First: another failure may come of it.
    lacks.check(order.rule)?;
    let start = start.map_err(|error| error.named(plan.program.as_ref()))?;
    let has_init = start == Start::Child;
    Ok(Launched {
        all: Processes::new(leader, order.id, hold.group().cloned(), has_init),
        ended,
        lacks,
        messages: has_init.then_some(messages),
    })
}

/// Readable once the process has ended. It is not reaped by that.
#[expect(
    deprecated,
    reason = "unsound for types that let go of their descriptor, which an OwnedFd does not; what follows it needs `unsafe`"
)]
fn watch_end(process: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd_open(process, PidfdFlags::NONBLOCK)?)
}
