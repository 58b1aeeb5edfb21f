//! Decisions that streams in flight rest on, so that taking one back ends them (rule 12).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::snapshot::{Facts, Right, Snapshot};
use crate::Revocation;

/// Something that was decided from the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Grant {
    /// The token's owner is this to clusters.
    Token { id: String, facts: Facts },
    /// A binding gives this right.
    Right(Right),
}

impl Grant {
    fn holds(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Token { id, facts } => {
                let token = snapshot.get(id);
                token
                    .and_then(|token| snapshot.facts(&token.object))
                    .as_ref()
                    == Some(facts)
            }
            Self::Right(right) => snapshot.has_cluster(&right.cluster) && snapshot.gives(right),
        }
    }
}

/// The decisions that something rests on now.
#[derive(Debug, Default)]
pub(super) struct Grants(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    grants: HashMap<Grant, Weak<CancellationToken>>,
    /// The map is swept when it has grown to this.
    sweep_at: usize,
}

impl Grants {
    /// The life of a decision that was just made from some version of the directory.
    pub(super) fn revocation(&self, grant: Grant, current: &ArcSwap<Snapshot>) -> Revocation {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The directory may have changed since: then `recheck` has been here before, or waits for the lock, and sees
        // the grant only in the latter case.
        if !grant.holds(&current.load()) {
            let revoked = CancellationToken::new();
            revoked.cancel();
            return Revocation::when(revoked);
        }
        if let Some(token) = live.grants.get(&grant).and_then(Weak::upgrade) {
            return Revocation::shared(token);
        }
        live.make_room();
        let token = Arc::new(CancellationToken::new());
        live.grants.insert(grant, Arc::downgrade(&token));
        Revocation::shared(token)
    }

    /// Takes back every decision that the changed directory no longer makes.
    pub(super) fn recheck(&self, snapshot: &Snapshot) {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.grants.retain(|grant, token| {
            let Some(token) = token.upgrade() else {
                return false;
            };
            let holds = grant.holds(snapshot);
            if !holds {
                token.cancel();
            }
            holds
        });
    }
}

impl Live {
    /// Forgets decisions that nothing rests on any more, now and then: what is kept is at most twice what is in use.
    fn make_room(&mut self) {
        const FEW: usize = 1024;
        if self.grants.len() >= self.sweep_at.max(FEW) {
            self.grants.retain(|_, token| token.strong_count() > 0);
            self.sweep_at = self.grants.len().saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterName, directory::Ability, directory::object::Subject};

    #[test]
    fn decisions_that_nothing_rests_on_are_forgotten() {
        let mut live = Live::default();
        let kept = Arc::new(CancellationToken::new());
        for number in 0..10_000 {
            live.make_room();
            let right = Right {
                binding: number.to_string(),
                subject: Subject::User("alice".parse().unwrap()),
                cluster: ClusterName::new("c").unwrap(),
                ability: Ability::Read,
            };
            let token = if number == 0 {
                Arc::downgrade(&kept)
            } else {
                Weak::new()
            };
            live.grants.insert(Grant::Right(right), token);
        }
        assert!(live.grants.len() <= 1025, "{}", live.grants.len());
        assert!(live.grants.values().any(|token| token.strong_count() > 0));
    }
}
