//! Events of known callers of whom nothing comes (security rule 23): each user has a share, each authenticator one for all
//! the users whom it vouches for, and all of them together one. So nobody rotates the history away with calls that they
//! may not make, and a captured provider does not with ever new names.

use underpass_core::{
    limits,
    rate::{Rate, RateLimiter},
};

#[derive(Debug)]
pub(super) struct Shares {
    /// The metric's label.
    of: &'static str,
    users: RateLimiter<(String, String)>,
    authorities: RateLimiter<String>,
    all: RateLimiter<()>,
}

impl Shares {
    pub(super) fn new(of: &'static str) -> Self {
        Self {
            of,
            users: RateLimiter::new(Rate {
                burst: limits::REFUSED_EVENTS,
                every: limits::REFUSED_EVENT_EVERY,
                sources: limits::REFUSED_USERS,
            }),
            authorities: RateLimiter::new(Rate {
                burst: limits::AUTHORITY_REFUSED_EVENTS,
                every: limits::AUTHORITY_REFUSED_EVENT_EVERY,
                sources: limits::REFUSED_AUTHORITIES,
            }),
            all: RateLimiter::new(Rate {
                burst: limits::ALL_REFUSED_EVENTS,
                every: limits::ALL_REFUSED_EVENT_EVERY,
                sources: 1,
            }),
        }
    }

    /// May one more event of this user be told? With how many were not before.
    pub(super) fn admit(&self, name: &str, by: &str) -> Option<u64> {
        let admitted = self.take(name, by);
        if admitted.is_none() {
            metrics::counter!("underpass_audit_suppressed_total", "of" => self.of).increment(1);
        }
        admitted
    }

    fn take(&self, name: &str, by: &str) -> Option<u64> {
        let user = self.users.take((by.to_owned(), name.to_owned()))?;
        let authority = self.authorities.take(by.to_owned())?;
        let all = self.all.take(())?;
        Some(user.saturating_add(authority).saturating_add(all))
    }
}
