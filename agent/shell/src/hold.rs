//! Everything that a shell takes of the node beside its processes: a uid, a home, a cgroup.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::geteuid;
use underpass_agent_policy::{Protection, ShellRule};

use crate::base::{Base, Home};
use crate::cgroup::{Group, Groups};
use crate::error::OpenError;
use crate::protection::Lacks;
use crate::uids::{self, Lease};

/// The places from which shells take them.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) base: Base,
    pub(crate) groups: Groups,
}

/// Those of one shell. They are there until [`release`](Self::release).
#[derive(Debug, Default)]
pub(crate) struct Hold {
    lease: Option<Lease>,
    home: Option<Home>,
    group: Option<Group>,
}

impl Hold {
    /// Takes what a shell of this rule should have, and gives what is missing. Blocks.
    pub(crate) fn take(
        stores: &Stores,
        rule: &ShellRule,
        name: &str,
    ) -> Result<(Self, Lacks), OpenError> {
        let mut hold = Self::default();
        let mut lacks = Lacks::default();
        let taken = hold.fill(stores, rule, name, &mut lacks);
        match taken {
            Ok(()) => Ok((hold, lacks)),
            Err(error) => {
                hold.let_go();
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        stores: &Stores,
        rule: &ShellRule,
        name: &str,
        lacks: &mut Lacks,
    ) -> Result<(), OpenError> {
        if rule.wants(Protection::Uid) {
            let failed = |source: io::Error| OpenError::Home {
                base: stores.base.path().to_owned(),
                source,
            };
            let base = stores.base.open().map_err(failed)?;
            if geteuid().is_root() {
                let uids = rule.uids();
                let lease = uids::take(&base, uids).map_err(failed)?;
                let lease = lease.ok_or(OpenError::NoUid { uids })?;
                match base.home(name, Some(lease.uid)) {
                    Ok(home) => (self.lease, self.home) = (Some(lease), Some(home)),
                    // Root of a container, or of a user namespace that does not have this uid.
                    Err(error) => lacks.add(Protection::Uid, format!("the home's owner: {error}")),
                }
            } else {
                lacks.add(Protection::Uid, "the agent does not run as root");
            }
            if self.home.is_none() {
                self.home = Some(base.home(name, None).map_err(failed)?);
            }
        }
        if rule.wants(Protection::Cgroup) {
            match stores.groups.create(name, rule.resources()) {
                Ok((group, bounds)) => {
                    self.group = Some(group);
                    if let Some(why) = bounds {
                        lacks.add(Protection::Cgroup, why);
                    }
                }
                Err(why) => lacks.add(Protection::Cgroup, why),
            }
        }
        Ok(())
    }

    pub(crate) fn uid(&self) -> Option<u32> {
        self.lease.as_ref().map(|lease| lease.uid)
    }

    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.home.as_ref().map(Home::path)
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Gives everything back, once the shell's processes have ended.
    pub(crate) async fn release(self) {
        let released = tokio::task::spawn_blocking(move || self.let_go()).await;
        if let Err(error) = released {
            tracing::error!("what a shell had taken is not given back: {error}");
        }
    }

    fn let_go(self) {
        let Self { lease, home, group } = self;
        if let Some(Err(error)) = group.map(|group| group.end()) {
            tracing::error!("the cgroup of a shell that has ended stays: {error}");
        }
        if let Some(Err(error)) = home.map(|home| home.remove()) {
            tracing::error!("the home of a shell that has ended stays: {error}");
        }
        // Last: a home that stays is its own until then. Processes that stay keep the uid from being given again.
        drop(lease);
    }
}

/// The shells' own, so that a task can have them.
pub(crate) type SharedStores = Arc<Stores>;
