//! Shells: programs with a terminal that callers may open on the node, by the policy's own words about each kind.

mod read;
mod uids;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use underpass_core::ShellKind;

pub(crate) use self::read::Shells;
pub use self::uids::ShellUids;
use crate::Denied;
use crate::command::Callers;

/// The protections that a shell of this kind needs, unless its rule says that they may be missing. A shell of the node is there to see and
/// change the node: its bounds alone protect the node from it.
const fn protections(kind: ShellKind) -> &'static [Protection] {
    match kind {
        ShellKind::Kubectl => &Protection::ALL,
        ShellKind::Node => &[Protection::Cgroup],
    }
}

/// A protection of the node, of the agent and of other shells from a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protection {
    /// A uid of its own, which no other process has.
    Uid,
    /// A PID namespace of its own: it sees no other processes.
    PidNamespace,
    /// A mount namespace of its own.
    MountNamespace,
    /// An IPC namespace of its own.
    IpcNamespace,
    /// `no_new_privs`: no program gives it privileges.
    NoNewPrivileges,
    /// No capabilities.
    Capabilities,
    /// Resource limits (setrlimit(2)).
    ResourceLimits,
    /// A cgroup of its own, which bounds memory, processes and processor time, and by which all of its processes are killed.
    Cgroup,
}

impl Protection {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Uid,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::IpcNamespace,
        Self::NoNewPrivileges,
        Self::Capabilities,
        Self::ResourceLimits,
        Self::Cgroup,
    ];

    /// Its name in the policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::PidNamespace => "pidNamespace",
            Self::MountNamespace => "mountNamespace",
            Self::IpcNamespace => "ipcNamespace",
            Self::NoNewPrivileges => "noNewPrivileges",
            Self::Capabilities => "capabilities",
            Self::ResourceLimits => "resourceLimits",
            Self::Cgroup => "cgroup",
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|own| own.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no protection: they are {names}")
        })
    }
}

/// The resources of one shell, which the protection [`Cgroup`](Protection::Cgroup) bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShellResources {
    /// Memory, in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Processor time, in thousandths of a processor.
    pub cpu_millis: u32,
}

/// The policy's words about shells of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellRule {
    pub(crate) kind: ShellKind,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) takes_command: bool,
    /// The caller's command, in the place of program and arguments.
    pub(crate) command: Option<(PathBuf, Vec<String>)>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) pass: Vec<String>,
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) callers: Callers,
    pub(crate) resources: ShellResources,
    pub(crate) idle: Duration,
    pub(crate) detached: Duration,
    pub(crate) per_user: usize,
    pub(crate) per_node: usize,
    pub(crate) may_be_missing: Vec<Protection>,
    pub(crate) uids: ShellUids,
}

impl ShellRule {
    /// The kind of shell that it allows.
    pub fn kind(&self) -> ShellKind {
        self.kind
    }

    /// The program, by its absolute path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The command that a shell begins with: the rule's program with its arguments, or else the caller's. A name without a slash is looked
    /// up on the shell's own PATH.
    pub fn command(&self) -> (&Path, &[String]) {
        match &self.command {
            Some((program, arguments)) => (program, arguments),
            None => (&self.program, &self.arguments),
        }
    }

    /// The same rule with a command of the caller's. Without words it is the rule itself.
    ///
    /// # Errors
    /// The rule takes none.
    pub fn with_command(&self, words: &[String]) -> Result<Self, Denied> {
        let command = match words.split_first() {
            None => None,
            Some(_) if !self.takes_command => return Err(Denied::ShellCommand(self.kind)),
            Some((program, arguments)) => Some((program.into(), arguments.to_vec())),
        };
        Ok(Self {
            command,
            ..self.clone()
        })
    }

    /// The program's working directory, and its `HOME` where the shell has no home of its own.
    pub fn directory(&self) -> &Path {
        self.named_directory().unwrap_or(Path::new("/"))
    }

    /// The working directory that the rule names. Without one, a shell with a home of its own begins there.
    pub fn named_directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The uids of shells whose kind has the protection [`Uid`](Protection::Uid). All rules of a policy have the same.
    pub fn uids(&self) -> ShellUids {
        self.uids
    }

    /// Whether shells of this kind should have this protection.
    pub fn wants(&self, protection: Protection) -> bool {
        protections(self.kind).contains(&protection)
    }

    /// Variables of the agent's environment that the program gets.
    pub fn passed_variables(&self) -> &[String] {
        &self.pass
    }

    /// Variables that the program gets beside them.
    pub fn set_variables(&self) -> &BTreeMap<String, String> {
        &self.set
    }

    /// The resources of one shell.
    pub fn resources(&self) -> ShellResources {
        self.resources
    }

    /// The time without input and output after which a shell ends.
    pub fn idle_limit(&self) -> Duration {
        self.idle
    }

    /// The time that a shell lives without a viewer.
    pub fn detached_lifetime(&self) -> Duration {
        self.detached
    }

    /// Shells of this kind that one user may have at once.
    pub fn per_user(&self) -> usize {
        self.per_user
    }

    /// Shells of this kind that all users together may have at once.
    pub fn per_node(&self) -> usize {
        self.per_node
    }

    /// The protections that a shell of this kind should have.
    pub fn protections(&self) -> &'static [Protection] {
        protections(self.kind)
    }

    /// The protections without which no shell of this kind is opened.
    pub fn required_protections(&self) -> impl Iterator<Item = Protection> + '_ {
        let needed = protections(self.kind).iter().copied();
        needed.filter(|needed| !self.may_be_missing.contains(needed))
    }

    /// May this caller open one?
    pub(crate) fn is_for(&self, user: &str, groups: &[String]) -> bool {
        self.callers.have(user, groups)
    }

    /// The program and the bounds, for people.
    pub(crate) fn describe(&self) -> String {
        let mut text = self.program.display().to_string();
        for argument in &self.arguments {
            text.push(' ');
            text.push_str(argument);
        }
        if self.takes_command {
            text.push_str(", or the caller's command");
        }
        let ShellResources {
            memory,
            processes,
            cpu_millis,
        } = self.resources;
        let [idle, detached] = [self.idle, self.detached].map(humantime::format_duration);
        let (mebibytes, per_user, per_node) =
            (memory / read::MEBIBYTE, self.per_user, self.per_node);
        text.push_str(&format!(
            "; {mebibytes}Mi of memory, {processes} processes, {cpu_millis}m of a processor; idle for {idle} and detached for \
             {detached} at the most; {per_user} for each user and {per_node} for the node"
        ));
        if self.wants(Protection::Uid) && self.uids != ShellUids::default() {
            text.push_str(&format!("; uids {}", self.uids));
        }
        if !self.may_be_missing.is_empty() {
            let names: Vec<_> = self.may_be_missing.iter().map(|own| own.name()).collect();
            text.push_str(&format!("; also without {}", names.join(", ")));
        }
        text.push_str(&self.callers.describe());
        text
    }
}
