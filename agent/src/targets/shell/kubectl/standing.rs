//! The permissions of a shell's programs at the API server.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;
use underpass_core::Permission;

use crate::limits;

/// The permissions of a shell's programs, by the server's word. The server stands by its word for as long as it has a stream about the shell:
/// by that stream it takes the permission back. Some time after the last one has ended, they may ask for nothing.
#[derive(Debug)]
pub(super) struct Standing(watch::Sender<State>);

#[derive(Debug)]
struct State {
    may: BTreeSet<Permission>,
    /// The server's streams about the shell.
    streams: usize,
    /// How many of them there have been.
    begun: u64,
    is_lapsed: bool,
}

/// Why a shell's programs may not ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayNot {
    /// The server never said that they may, or has taken it back.
    Ask,
    /// The server has had no stream about the shell for too long.
    AskNow,
}

impl State {
    fn decide(&self, needs: Permission) -> Result<(), MayNot> {
        match self.may.contains(&needs) {
            false => Err(MayNot::Ask),
            true if self.is_lapsed => Err(MayNot::AskNow),
            true => Ok(()),
        }
    }
}

impl Standing {
    pub(super) fn new(may: &[Permission]) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(State {
            may: may.iter().copied().collect(),
            streams: 0,
            begun: 0,
            is_lapsed: false,
        })))
    }

    pub(super) fn decide(&self, needs: Permission) -> Result<(), MayNot> {
        self.0.borrow().decide(needs)
    }

    /// Waits until a request that needs this may go on no more.
    pub(super) fn over(&self, needs: Permission) -> impl Future<Output = ()> + Send + 'static {
        let mut states = self.0.subscribe();
        async move {
            // Without its sender there is no shell.
            let _ = states.wait_for(|state| state.decide(needs).is_err()).await;
        }
    }

    /// They may ask for no more than this from now on.
    pub(super) fn narrow(&self, may: &[Permission]) {
        self.0
            .send_modify(|state| state.may.retain(|permission| may.contains(permission)));
    }

    /// The server has a stream about the shell, until this is dropped.
    pub(super) fn kept(self: &Arc<Self>) -> Kept {
        self.0.send_modify(|state| {
            state.streams = state.streams.saturating_add(1);
            state.begun = state.begun.saturating_add(1);
            state.is_lapsed = false;
        });
        Kept(Arc::clone(self))
    }

    /// Lapses after a while, unless another stream begins meanwhile.
    fn left(self: &Arc<Self>) {
        let mut seen = None;
        self.0.send_modify(|state| {
            state.streams = state.streams.saturating_sub(1);
            seen = (state.streams == 0).then_some(state.begun);
        });
        let Some(begun) = seen else { return };
        let standing = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(limits::SHELL_UNKEPT).await;
            if let Some(standing) = standing.upgrade() {
                standing
                    .0
                    .send_modify(|state| state.is_lapsed |= state.begun == begun);
            }
        });
    }
}

/// A stream of the server's about a shell.
#[derive(Debug)]
pub(in super::super) struct Kept(Arc<Standing>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.left();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn rule_12_what_the_server_does_not_stand_by_lapses() {
        let standing = Standing::new(&[Permission::Read]);
        assert_eq!(standing.decide(Permission::Read), Ok(()));
        assert_eq!(standing.decide(Permission::Services), Err(MayNot::Ask));
        let (first, second) = (standing.kept(), standing.kept());
        let over = tokio::spawn(standing.over(Permission::Read));
        drop(first);
        sleep(10 * limits::SHELL_UNKEPT).await;
        assert_eq!(standing.decide(Permission::Read), Ok(()));
        // A server that comes back in time, and is gone again.
        drop(second);
        sleep(limits::SHELL_UNKEPT - MOMENT).await;
        drop(standing.kept());
        sleep(limits::SHELL_UNKEPT - MOMENT).await;
        assert_eq!(standing.decide(Permission::Read), Ok(()));
        assert!(!over.is_finished());
        sleep(2 * MOMENT).await;
        assert_eq!(standing.decide(Permission::Read), Err(MayNot::AskNow));
        over.await.unwrap();
        let _again = standing.kept();
        assert_eq!(standing.decide(Permission::Read), Ok(()));
    }

    #[tokio::test]
    async fn rule_12_a_server_takes_back_and_gives_nothing_anew() {
        let standing = Standing::new(&[Permission::Read, Permission::Services]);
        let over = tokio::spawn(standing.over(Permission::Services));
        standing.narrow(&[Permission::Read, Permission::Write]);
        over.await.unwrap();
        for (permission, decided) in [
            (Permission::Read, Ok(())),
            (Permission::Services, Err(MayNot::Ask)),
            (Permission::Write, Err(MayNot::Ask)),
        ] {
            assert_eq!(standing.decide(permission), decided);
        }
    }
}
