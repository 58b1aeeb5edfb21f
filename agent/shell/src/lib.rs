//! Shells on an agent's node: programs with a terminal that outlive their viewers.
//!
//! [`Shells::open`] starts the program of a policy's rule at a pseudoterminal. The terminal belongs to the shell and not to its
//! viewers: [`Shells::attach`] gives a [`Viewer`], which gets the screen as it is, and then everything after it, once and in order. Viewers come
//! and go; of several, one writes. The program waits for a viewer that is slow. Without a viewer it goes on, and ends after the time
//! that its rule allows.
//!
//! The crate knows neither the tunnel nor Kubernetes, and decides nothing: its caller has asked the policy, and ends the shells of
//! users whose access ends ([`Shells::revoke`]).
//!
//! # Protections
//! A shell of the kind `kubectl` is somebody's on a node that is somebody else's. It has, each where the kernel allows it:
//!
//! | protection | what it is here |
//! |---|---|
//! | `uid` | a uid and gid of the policy's range, no other group; the terminal is its own |
//! | `pidNamespace` | it sees its own processes alone, by a `/proc` of its own (`hidepid`). Its first process is the helper, which reaps all others; the kernel ends them with it |
//! | `mountNamespace` | a home, `/tmp`, `/var/tmp` and `/dev/shm` of its own, in memory, as large as the rule's `memory` together; all else is read-only, and what [`Settings::hide`] names is empty |
//! | `ipcNamespace` | no message queue, semaphore or shared memory of others |
//! | `noNewPrivileges` | `no_new_privs`: set-uid programs and file capabilities give nothing |
//! | `capabilities` | none, in any of the five sets |
//! | `resourceLimits` | of each process: memory (`RLIMIT_DATA`) and the size of a file (the rule's `memory`), processes of the uid (the rule's `processes`), open files, no core files; see [`limits`]. Its files are made for itself (umask 077), and the kernel ends it before other programs where the node has no memory |
//! | `cgroup` | memory, processes and processor time of all its processes together, and `cgroup.kill` at its end |
//!
//! A shell of the kind `node` is there to see and change the node: it has the `cgroup` alone.
//!
//! A refusal of the system is found by trying, for each shell and by [`Shells::probe`]. Where the rule does not say that it may be missing,
//! nothing runs, and [`OpenError::Unprotected`] names it with the reason; otherwise [`ShellRecord::lacks`] does.
//!
//! A shell of either kind gets no descriptor of the agent's, no variable but those that its rule names, and the usual effect of each signal.
//!
//! **Without a cgroup**, memory is bounded for each process and not for all together, and memory that processes share is not bounded. **Without
//! a mount namespace**, files that a shell leaves outside of its home, as in `/tmp`, are those of a later shell with the same uid.
//!
//! # When the agent dies
//! The kernel hangs up each terminal (SIGHUP). Where a shell has a PID namespace, its helper ends all of it [`limits::HANGUP_GRACE`] later. The
//! next agent ends what is left in cgroups, and removes homes. Without both, a program that ignores the hangup lives on.

pub mod helper;
pub mod limits;

mod audience;
mod base;
mod cgroup;
mod error;
mod given;
mod hold;
mod life;
mod messages;
mod modes;
mod mountinfo;
mod processes;
mod protection;
mod pty;
mod record;
mod recorder;
mod ring;
mod screen;
mod shared;
mod shell;
mod size;
mod start;
mod talk;
mod uids;
mod utf8;
mod viewer;

use std::path::PathBuf;
use std::sync::Arc;

use underpass_agent_policy::ShellRule;

pub use self::audience::{RecordedPlace, Recording, Writes};
pub use self::error::{AttachError, InputError, OpenError, UnknownShell};
pub use self::given::{Given, HomeFile};
pub use self::helper::Helper;
pub use self::protection::Lack;
pub use self::record::{BadShellId, Cause, End, Exit, Fault, Owner, ShellId, ShellRecord};
pub use self::recorder::{Acks, Recorder, RecorderEvent};
pub use self::size::Size;
pub use self::viewer::{Event, Input, Viewer};

use self::shared::Shared;

/// The shells of a node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Shells(Arc<Shared>);

/// The files and folders of an agent that its shells need, or must not see.
#[derive(Clone, Debug)]
pub struct Settings {
    helper: Helper,
    hide: Vec<PathBuf>,
    homes: PathBuf,
}

impl Settings {
    /// With this helper, with homes in `/run/underpass-shells` (for an agent that is not root, in a folder of the system's temporary one),
    /// and with nothing hidden.
    pub fn new(helper: Helper) -> Self {
        let user = rustix::process::geteuid();
        let homes = match user.is_root() {
            true => "/run/underpass-shells".into(),
            false => std::env::temp_dir().join(format!("underpass-shells-{}", user.as_raw())),
        };
        Self {
            helper,
            hide: Vec::new(),
            homes,
        }
    }

    /// Has shells with a mount namespace see these files and folders empty: the agent's token, its keys, its kubeconfig. Name **folders**
    /// where you can: a file that is replaced by another of the same name, as a token that is renewed often is, shows again.
    #[must_use]
    pub fn hide(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.hide.extend(paths);
        self
    }

    /// Has the homes of shells be in this folder, which is the agents' own: it is made where it is missing, and everybody may pass through
    /// it. Several agents may share it. Its parents must be root's, or the agent's own user's.
    #[must_use]
    pub fn homes(mut self, folder: impl Into<PathBuf>) -> Self {
        self.homes = folder.into();
        self
    }
}

/// The terminal that a new shell is opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Its size.
    pub size: Size,
    /// Its kind, as in `xterm-256color`: the variable `TERM`.
    pub term: String,
}

/// How a viewer attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Whether it writes.
    pub writes: Writes,
    /// The size of its terminal, which the shell gets where the viewer writes.
    pub size: Option<Size>,
    /// The bytes of output that it has had already. Where the rest is kept, it goes on behind them; otherwise, and without a number,
    /// it gets the screen.
    pub had: Option<u64>,
}

impl Shells {
    /// A node without shells. The helper starts their programs.
    pub fn new(helper: Helper) -> Self {
        Self::with(Settings::new(helper))
    }

    /// A node without shells, with these settings.
    pub fn with(settings: Settings) -> Self {
        Self(Shared::new(settings))
    }

    /// Tries what shells of this rule would have, and gives the protections that are missing and may be. Call it when the agent starts,
    /// for its log: it also ends what an earlier agent has left.
    ///
    /// # Errors
    /// A shell of this rule could not be opened, for this reason.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn probe(&self, rule: &Arc<ShellRule>) -> Result<Vec<Lack>, OpenError> {
        self.0.probe(rule).await
    }

    /// Opens a shell. It has no viewer: attach one before its rule's time for detached shells is over.
    ///
    /// # Errors
    /// There is no new shell, for this reason.
    ///
    /// # Cancel safety
    /// Dropping the future opens the shell or not; [`list`](Self::list) shows it.
    pub async fn open(
        &self,
        rule: &Arc<ShellRule>,
        owner: Owner,
        terminal: Terminal,
    ) -> Result<ShellRecord, OpenError> {
        self.open_with(rule, owner, terminal, Given::default())
            .await
    }

    /// Opens a shell, as [`open`](Self::open) does, that has variables and files beside those of its rule.
    ///
    /// # Errors
    /// There is no new shell, for this reason.
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn open_with(
        &self,
        rule: &Arc<ShellRule>,
        owner: Owner,
        terminal: Terminal,
        given: Given,
    ) -> Result<ShellRecord, OpenError> {
        self.open_recorded(rule, owner, terminal, given, None).await
    }

    /// Opens a shell, as [`open_with`](Self::open_with) does, that is recorded from its beginning. See [`record`](Self::record).
    ///
    /// # Errors
    /// There is no new shell, for this reason.
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn open_recorded(
        &self,
        rule: &Arc<ShellRule>,
        owner: Owner,
        terminal: Terminal,
        given: Given,
        recording: Option<Recording>,
    ) -> Result<ShellRecord, OpenError> {
        let recording = recording.map(|recording| Recording {
            wait: recording.wait.min(limits::RECORDER_WAIT_MOST),
            ..recording
        });
        self.0.open(rule, owner, terminal, given, recording).await
    }

    /// Attaches the recorder of a shell, which has written down what comes before a place, and takes the place of another one. It goes on
    /// at that place, or at the first one behind it that is kept; a shell whose recording is required ends where that is another one.
    ///
    /// # Errors
    /// The owner has no such shell.
    pub fn record(
        &self,
        id: &ShellId,
        owner: &Owner,
        had: RecordedPlace,
    ) -> Result<Recorder, UnknownShell> {
        self.0.record(id, owner, had)
    }

    /// Attaches a viewer to a shell, also to one that has ended a short while ago.
    ///
    /// # Errors
    /// The owner has no such shell, or it has too many viewers.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn attach(
        &self,
        id: &ShellId,
        owner: &Owner,
        attach: Attach,
    ) -> Result<Viewer, AttachError> {
        self.0.attach(id, owner, attach).await
    }

    /// A shell of this owner.
    ///
    /// # Errors
    /// There is none.
    pub fn read(&self, id: &ShellId, owner: &Owner) -> Result<ShellRecord, UnknownShell> {
        Ok(self.0.find(id, owner)?.record())
    }

    /// The shells that fit, the newest first.
    pub fn list(&self, fits: impl Fn(&ShellRecord) -> bool) -> Vec<ShellRecord> {
        let all = self.0.all();
        let records = all.iter().map(|shell| shell.record());
        let mut records: Vec<_> = records.filter(fits).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records
    }

    /// Has a shell of this owner end: SIGHUP to all of its processes, and SIGKILL after [`limits::HANGUP_GRACE`]. Viewers hear of the end
    /// when it has come.
    ///
    /// # Errors
    /// There is none.
    pub fn end(&self, id: &ShellId, owner: &Owner) -> Result<ShellRecord, UnknownShell> {
        let shell = self.0.find(id, owner)?;
        shell.ask_end(Cause::Owner);
        Ok(shell.record())
    }

    /// Waits until a shell of this owner has ended, with all of its processes.
    ///
    /// # Errors
    /// There is none.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn ended(&self, id: &ShellId, owner: &Owner) -> Result<ShellRecord, UnknownShell> {
        let shell = self.0.find(id, owner)?;
        shell.until_ended().await;
        Ok(shell.record())
    }

    /// Waits until a shell of this owner begins to end, for any reason: its processes may have some seconds yet.
    ///
    /// # Errors
    /// There is none.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn ending(&self, id: &ShellId, owner: &Owner) -> Result<(), UnknownShell> {
        self.0.find(id, owner)?.end_asked().await;
        Ok(())
    }

    /// Whether there is a program of this name on the `PATH` of this rule's shells. Blocks.
    pub fn finds(rule: &ShellRule, program: &str) -> bool {
        start::finds(rule, program)
    }

    /// Has the shells end that are not allowed any more.
    pub fn revoke(&self, fits: impl Fn(&ShellRecord) -> bool) {
        let all = self.0.all();
        let fitting = all.iter().filter(|shell| fits(&shell.record()));
        fitting.for_each(|shell| shell.ask_end(Cause::Revoked));
    }

    /// Ends every shell, and waits until all have ended.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}
