//! Decisions that streams in flight rest on, so that taking one back ends them (rule 12).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use underpass_proxy::authenticate::TokenHash;
use underpass_proxy::{ClusterName, Revocation};

use super::Access;

/// Something that was decided from the access file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Grant {
    /// The token is this user's, whom clusters know as this.
    Token {
        hash: TokenHash,
        user: String,
        uid: Option<String>,
        groups: Vec<String>,
        extra: BTreeMap<String, Vec<String>>,
    },
    /// The user may reach the cluster.
    Reach { user: String, cluster: ClusterName },
}

impl Grant {
    fn holds(&self, access: &Access) -> bool {
        match self {
            Self::Token {
                hash,
                user,
                uid,
                groups,
                extra,
            } => access.token(hash).is_some_and(|(owner, _)| {
                owner.name == *user
                    && owner.uid == *uid
                    && owner.groups == *groups
                    && owner.extra == *extra
            }),
            Self::Reach { user, cluster } => {
                access.has_cluster(cluster)
                    && access
                        .user(user)
                        .is_some_and(|user| user.may_reach(cluster))
            }
        }
    }
}

/// The decisions that something may rest on now.
#[derive(Debug, Default)]
pub(super) struct Grants(Mutex<HashMap<Grant, CancellationToken>>);

impl Grants {
    /// The life of a decision that was just made from some version of the file.
    pub(super) fn revocation(&self, grant: Grant, current: &ArcSwap<Access>) -> Revocation {
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The file may have changed since: then `recheck` has been here before, or waits for the
        // lock, and sees the grant only in the latter case.
        if !grant.holds(&current.load()) {
            let revoked = CancellationToken::new();
            revoked.cancel();
            return Revocation::when(revoked);
        }
        Revocation::when(grants.entry(grant).or_default().clone())
    }

    /// Takes back every decision that the changed file no longer makes.
    pub(super) fn recheck(&self, access: &Access) {
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.retain(|grant, token| {
            let holds = grant.holds(access);
            if !holds {
                token.cancel();
            }
            holds
        });
    }
}
