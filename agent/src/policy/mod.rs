//! The agent's own policy (security rule 17): the command line's part and the file's, which may change.

mod command;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{Notify, watch};
use underpass_agent_policy::{Policy, PolicyError, limits as file_limits};
use underpass_core::ImpersonationPolicy;
use underpass_core::files::{Readings, Stamps, Stuck};
use underpass_tunnel::chain;

pub(crate) use self::command::PolicyCommand;
use crate::files::{self, FileError};
use crate::limits;

/// The rules that count at one moment.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) targets: Policy,
    pub(crate) impersonation: ImpersonationPolicy,
}

/// The rules in force, and those that follow them.
#[derive(Debug)]
pub(crate) struct Policies {
    file: Option<PathBuf>,
    /// The command line's.
    flags: ImpersonationPolicy,
    current: watch::Sender<Arc<InForce>>,
    asked: Notify,
}

/// Why a policy's file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("there is no policy to use")]
    File(#[source] FileError),
    #[error("cannot use {}", .path.display())]
    Invalid { path: PathBuf, source: PolicyError },
    #[error("the policy is not read")]
    Stuck(#[source] Stuck),
}

/// Reads a policy. Blocks, but for no other program.
pub(crate) fn read(path: &Path) -> Result<Policy, ReadError> {
    let most = u64::try_from(file_limits::POLICY_BYTES).unwrap_or(u64::MAX);
    let text = files::read(path, most).map_err(ReadError::File)?;
    Policy::from_yaml(&text).map_err(|source| ReadError::Invalid {
        path: path.to_owned(),
        source,
    })
}

impl InForce {
    fn new(targets: Policy, flags: &ImpersonationPolicy) -> Arc<Self> {
        let impersonation = targets.impersonation(flags.clone());
        Arc::new(Self {
            targets,
            impersonation,
        })
    }
}

impl Policies {
    /// Reads the file, where there is one. Blocks.
    pub(crate) fn read(
        file: Option<PathBuf>,
        flags: ImpersonationPolicy,
    ) -> Result<Self, ReadError> {
        let targets = file.as_deref().map(read).transpose()?;
        let in_force = InForce::new(targets.unwrap_or_default(), &flags);
        Ok(Self {
            file,
            flags,
            current: watch::Sender::new(in_force),
            asked: Notify::new(),
        })
    }

    /// The rules for a stream that begins now.
    pub(crate) fn current(&self) -> Arc<InForce> {
        Arc::clone(&self.current.borrow())
    }

    /// Whether others may follow the current rules.
    pub(crate) fn may_change(&self) -> bool {
        self.file.is_some()
    }

    /// Has [`follow`](Self::follow) read the file at once.
    pub(crate) fn look(&self) {
        self.asked.notify_one();
    }

    /// Waits until the rules deny something, which `denied` finds out from those of a moment. Those of now are among them, since
    /// they may have changed since a stream was decided on (security rule 25).
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn until<T>(&self, mut denied: impl FnMut(&Arc<InForce>) -> Option<T>) -> T {
        let mut changes = self.current.subscribe();
        loop {
            let now = Arc::clone(&changes.borrow_and_update());
            if let Some(found) = denied(&now) {
                return found;
            }
            drop(now);
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Looks at the file from time to time, and when it is asked to. A file that cannot be used changes nothing, and the log says so
    /// once, until the file changes again.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn follow(&self) {
        let Some(path) = &self.file else {
            return std::future::pending().await;
        };
        let mut seen = Seen::default();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(limits::POLICY_AGE) => false,
                () = self.asked.notified() => true,
            };
            self.look_again(path, &mut seen, asked).await;
        }
    }

    /// Reads the file where it has changed since it was `seen`, or where it is asked to.
    async fn look_again(&self, path: &Path, seen: &mut Seen, asked: bool) {
        // Asked to, it reads a file that has not changed as well.
        let known = seen.stamps.clone().filter(|_| !asked);
        let path = path.to_owned();
        let read = seen
            .readings
            .next(move || read_again(&path, known.as_ref()));
        let found = match read.await {
            Ok(None) => {
                seen.stuck = false;
                return;
            }
            Ok(Some((stamps, found))) => {
                (seen.stamps, seen.stuck) = (Some(stamps), false);
                found
            }
            // Once, until it is read.
            Err(_) if seen.stuck && !asked => return,
            Err(error) => {
                seen.stuck = true;
                Err(ReadError::Stuck(error))
            }
        };
        match found {
            Ok(policy) => self.enforce(policy),
            Err(error) => {
                let error = chain(&error);
                tracing::error!("keeping the policy as it was: {error}");
            }
        }
    }

    /// Has other rules count, beside the command line's.
    pub(crate) fn enforce(&self, policy: Policy) {
        let changed = self.current.send_if_modified(|current| {
            let differs = current.targets != policy;
            if differs {
                *current = InForce::new(policy, &self.flags);
            }
            differs
        });
        if changed {
            tracing::info!("the policy has changed: it counts now, for open streams too");
        }
    }
}

/// The file as it was read last.
#[derive(Debug, Default)]
struct Seen {
    /// None at first: the file may have changed since the start.
    stamps: Option<Stamps>,
    readings: Readings<Option<Reading>>,
    /// Reading it takes too long, and the log says so.
    stuck: bool,
}

type Reading = (Stamps, Result<Policy, ReadError>);

/// Reads the file where it is not as it was known. Blocks.
fn read_again(path: &Path, known: Option<&Stamps>) -> Option<Reading> {
    // Before it is read: a change meanwhile is seen the next time.
    let stamps = Stamps::of(vec![path.to_owned()]);
    (known != Some(&stamps)).then(|| (stamps, read(path)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use underpass_core::{Identity, Target};

    use super::*;

    fn allows(in_force: &InForce, target: &str) -> bool {
        let target: Target = target.parse().unwrap();
        in_force.targets.decide(&target).is_ok()
    }

    #[tokio::test]
    async fn rule_17_a_policy_that_changes_counts_and_one_with_a_mistake_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let write = |text: &str| fs::write(&path, text).unwrap();
        let flags = ImpersonationPolicy::default();
        write("tcp: [{name: a, addresses: [10.0.0.1]}]");
        let policies = Policies::read(Some(path.clone()), flags).unwrap();
        let allowed = || {
            let now = policies.current();
            let targets = ["tcp:10.0.0.1:80", "tcp:10.0.0.2:80"];
            targets.map(|target| allows(&now, target))
        };
        let mut seen = Seen::default();
        assert_eq!(allowed(), [true, false]);
        for (text, expected) in [
            ("tcp: [{name: a, adresses: [10.0.0.2]}]", [true, false]),
            ("", [true, false]),
            ("tcp: [{name: a, addresses: [10.0.0.2]}]", [false, true]),
            ("{}", [false, false]),
        ] {
            write(text);
            policies.look_again(&path, &mut seen, false).await;
            assert_eq!(allowed(), expected, "{text}");
        }
        fs::remove_file(&path).unwrap();
        policies.look_again(&path, &mut seen, false).await;
        assert_eq!(allowed(), [false, false]);
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_has_changed_or_when_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        fs::write(&path, "{}").unwrap();
        let flags = ImpersonationPolicy::default();
        let policies = Policies::read(Some(path.clone()), flags).unwrap();
        let mut seen = Seen::default();
        policies.look_again(&path, &mut seen, false).await;
        // Other rules than the file's: a file that is read again brings its own back.
        let other = Policy::from_yaml("tcp: [{name: a, addresses: [10.0.0.1]}]").unwrap();
        policies.enforce(other);
        policies.look_again(&path, &mut seen, false).await;
        assert!(allows(&policies.current(), "tcp:10.0.0.1:80"), "not read");
        policies.look_again(&path, &mut seen, true).await;
        assert!(!allows(&policies.current(), "tcp:10.0.0.1:80"), "read");
    }

    #[tokio::test]
    async fn rule_12_a_waiter_learns_that_its_permission_is_taken_back() {
        let policies = Policies::read(None, ImpersonationPolicy::default()).unwrap();
        let allow = "tcp: [{name: a, addresses: [10.0.0.1]}]";
        policies.enforce(Policy::from_yaml(allow).unwrap());
        let gone = |now: &Arc<InForce>| (!allows(now, "tcp:10.0.0.1:80")).then_some(());
        let mut waiting = std::pin::pin!(policies.until(gone));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        policies.enforce(Policy::default());
        waiting.await;
        // One that comes later learns it at once.
        policies.until(gone).await;
    }

    #[tokio::test]
    async fn rule_17_the_file_adds_to_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        fs::write(&path, "impersonation: {deniedUsers: [root]}").unwrap();
        let flags = ImpersonationPolicy::default().deny_user("mallory");
        let policies = Policies::read(Some(path), flags).unwrap();
        let check = |user: &str| {
            let made = Identity::new(user.to_owned(), None, vec![], Default::default());
            policies.current().impersonation.check(&made.unwrap())
        };
        check("root").unwrap_err();
        check("mallory").unwrap_err();
        check("alice").unwrap();
    }

    /// A reader that waited for a writer would keep the policy as it is, and read no later file.
    #[tokio::test]
    async fn rule_17_a_pipe_in_the_place_of_the_policy_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        fs::write(&path, "tcp: [{name: a, addresses: [10.0.0.1]}]").unwrap();
        let flags = ImpersonationPolicy::default();
        let policies = Policies::read(Some(path.clone()), flags.clone()).unwrap();
        fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let error = Policies::read(Some(path.clone()), flags).unwrap_err();
        let error = chain(&error).to_string();
        assert!(error.contains("policy.yaml is no regular file"), "{error}");
        let mut seen = Seen::default();
        policies.look_again(&path, &mut seen, false).await;
        assert!(allows(&policies.current(), "tcp:10.0.0.1:80"), "as it was");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{}").unwrap();
        policies.look_again(&path, &mut seen, false).await;
        assert!(!allows(&policies.current(), "tcp:10.0.0.1:80"), "followed");
    }

    #[test]
    fn a_policy_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let error = |path: &Path| {
            let flags = ImpersonationPolicy::default();
            let error = Policies::read(Some(path.to_owned()), flags).unwrap_err();
            chain(&error).to_string()
        };
        let missing = error(&path);
        assert!(missing.contains("policy.yaml"), "{missing}");
        fs::write(&path, "tcp: [{name: a, ports: [22]}]").unwrap();
        let invalid = error(&path);
        assert!(
            invalid.contains("policy.yaml") && invalid.contains("tcp[0]"),
            "{invalid}"
        );
        fs::write(&path, vec![b' '; file_limits::POLICY_BYTES * 2]).unwrap();
        let large = error(&path);
        assert!(large.contains("may have"), "{large}");
    }
}
