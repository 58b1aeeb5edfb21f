//! Decisions that streams in flight rest on, so that taking one back ends them (rule 12).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    snapshot::{Right, Snapshot},
    standing::Facts,
};
use underpass_core::Revocation;

/// Something that was decided from the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Grant {
    /// The token's owner is this to clusters.
    Token { id: String, facts: Facts },
    /// A caller with these claims of an authenticator is admitted as this.
    Claim { claimed: Facts, admitted: Facts },
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
            Self::Claim { claimed, admitted } => snapshot.admit(claimed).as_ref() == Ok(admitted),
            Self::Right(right) => snapshot.has_cluster(&right.cluster) && snapshot.gives(right),
        }
    }
}

/// The decisions that something rests on now.
#[derive(Debug, Default)]
pub(super) struct Grants(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    grants: HashMap<Grant, Decision>,
    /// The map is swept when it has grown to this.
    sweep_at: usize,
}

/// A decision, and whether anything rests on it.
#[derive(Debug)]
struct Decision {
    taken_back: CancellationToken,
    rest: Weak<DropGuard>,
}

impl Decision {
    /// The decision, and one that rests on it.
    fn new() -> (Self, Arc<DropGuard>) {
        // Nothing waits for it: `is_used` counts its references.
        let rest = Arc::new(CancellationToken::new().drop_guard());
        let decision = Self {
            taken_back: CancellationToken::new(),
            rest: Arc::downgrade(&rest),
        };
        (decision, rest)
    }

    fn revocation(&self, rest: Arc<DropGuard>) -> Revocation {
        Revocation::when(self.taken_back.clone()).until_unused(rest)
    }

    fn is_used(&self) -> bool {
        self.rest.strong_count() > 0
    }
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
        if let Some(decision) = live.grants.get(&grant)
            && let Some(rest) = decision.rest.upgrade()
        {
            return decision.revocation(rest);
        }
        live.make_room();
        let (decision, rest) = Decision::new();
        let revocation = decision.revocation(rest);
        live.grants.insert(grant, decision);
        revocation
    }

    /// Takes back every decision that the changed directory no longer makes.
    pub(super) fn recheck(&self, snapshot: &Snapshot) {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.grants.retain(|grant, decision| {
            let holds = decision.is_used() && grant.holds(snapshot);
            if !holds {
                decision.taken_back.cancel();
            }
            holds
        });
    }
}

impl Live {
    /// Forgets decisions that nothing rests on any more, now and then: the map holds at most twice the decisions in use.
    fn make_room(&mut self) {
        const FEW: usize = 1024;
        if self.grants.len() >= self.sweep_at.max(FEW) {
            self.grants.retain(|_, decision| decision.is_used());
            self.sweep_at = self.grants.len().saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Permission, Subject};
    use underpass_core::ClusterName;

    #[test]
    fn decisions_that_nothing_rests_on_are_forgotten() {
        let mut live = Live::default();
        let mut kept = None;
        for number in 0..10_000 {
            live.make_room();
            let right = Right {
                binding: number.to_string(),
                subject: Subject::user("alice".parse().unwrap()),
                cluster: ClusterName::new("c").unwrap(),
                permission: Permission::Read,
            };
            let (decision, rest) = Decision::new();
            kept.get_or_insert(rest);
            live.grants.insert(Grant::Right(right), decision);
        }
        assert!(live.grants.len() <= 1025, "{}", live.grants.len());
        assert!(live.grants.values().any(Decision::is_used));
    }
}
