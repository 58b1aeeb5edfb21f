//! Events of known callers' calls without effect (security rule 23): each user has a share, each authority one for all the
//! users whom it vouches for, and all of them together one. So a user cannot rotate the history away with refused calls, nor a
//! captured provider with ever new names.

use underpass_core::{
    limits,
    rate::{Rate, UserLimiter},
};

#[derive(Debug)]
pub(super) struct Shares {
    /// The metric's label.
    of: &'static str,
    limiter: UserLimiter,
}

impl Shares {
    pub(super) fn new(of: &'static str) -> Self {
        let user = Rate {
            burst: limits::REFUSED_EVENTS,
            every: limits::REFUSED_EVENT_EVERY,
            sources: limits::REFUSED_USERS,
        };
        let authority = Rate {
            burst: limits::AUTHORITY_REFUSED_EVENTS,
            every: limits::AUTHORITY_REFUSED_EVENT_EVERY,
            sources: limits::REFUSED_AUTHORITIES,
        };
        let all = Rate {
            burst: limits::ALL_REFUSED_EVENTS,
            every: limits::ALL_REFUSED_EVENT_EVERY,
            sources: 1,
        };
        Self {
            of,
            limiter: UserLimiter::new(user, authority, all),
        }
    }

    /// May one more event of this user be told? With how many were not before.
    pub(super) fn admit(&self, name: &str, authority: &str) -> Option<u64> {
        let admitted = self.limiter.take(authority, name);
        if admitted.is_none() {
            metrics::counter!("underpass_audit_suppressed_total", "of" => self.of).increment(1);
        }
        admitted
    }
}
