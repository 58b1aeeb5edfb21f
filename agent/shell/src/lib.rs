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
//! **Shells are not protected yet**: see [`OpenError::Unprotected`]. A rule has to say that each protection may be missing.
//!
//! When the agent dies, the kernel hangs up each terminal (SIGHUP). A program that ignores that lives on without one.

pub mod helper;
pub mod limits;

mod audience;
mod error;
mod life;
mod modes;
mod processes;
mod protection;
mod pty;
mod record;
mod ring;
mod screen;
mod shared;
mod shell;
mod size;
mod start;
mod utf8;
mod viewer;

use std::sync::Arc;

use underpass_agent_policy::ShellRule;

pub use self::audience::Writes;
pub use self::error::{AttachError, InputError, OpenError, UnknownShell};
pub use self::helper::Helper;
pub use self::record::{BadShellId, Cause, End, Exit, Owner, ShellId, ShellRecord};
pub use self::size::Size;
pub use self::viewer::{Event, Input, Viewer};

use self::shared::Shared;

/// The shells of a node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Shells(Arc<Shared>);

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
        Self(Shared::new(helper))
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
        self.0.open(rule, owner, terminal).await
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
