//! Caches the results of credential checks.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{error::Unspecified, hmac, rand};
use lru::LruCache;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{AuthenticateError, Authenticated, CredentialError, Source, error::Shared};
use underpass_core::{BoxError, Identity, Revocation, limits};

/// Credentials that are being checked: `Remote` bounds them by client.
const FLIGHTS: usize = limits::CHECKS_WAITING + limits::CHECKS_WAITING_KNOWN;

/// A credential's name in a [`Cache`]: a keyed hash, so that the cache tells nothing of the credential, and nobody outside can
/// choose two of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

/// How a check ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Vouched(Box<Authenticated>),
    Rejected(CredentialError),
    Unavailable(Shared),
    Wait(Duration),
}

impl Outcome {
    pub(super) fn into_result(self) -> Result<Authenticated, AuthenticateError> {
        match self {
            Self::Vouched(authenticated) => Ok(*authenticated),
            Self::Rejected(rejection) => Err(AuthenticateError::Rejected(rejection)),
            Self::Unavailable(error) => Err(AuthenticateError::Unavailable(Box::new(error))),
            Self::Wait(wait) => Err(AuthenticateError::Wait(wait)),
        }
    }
}

/// A check's result, before it is cached.
#[derive(Debug)]
pub(super) enum Found {
    Identity(Identity),
    Rejected(CredentialError),
    Unavailable(BoxError),
    /// It was not looked at, since too many were wrong before it.
    Wait(Duration),
}

/// The end of a check that is under way.
pub(super) type Pending = watch::Receiver<Option<Outcome>>;

/// The cache's answer for a credential.
pub(super) enum Asked {
    /// It was checked a short while ago.
    Known(Outcome),
    /// A check of it is under way.
    Wait(Pending),
    /// Check it, and say how it ended.
    Check(Flight, Pending),
    /// Too many others are being checked.
    Full,
}

/// How long a result counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    pub(super) good: Duration,
    pub(super) bad: Duration,
}

/// Results by credential, and the checks that are under way. Good and bad results are kept apart, so that a flood of made-up
/// credentials evicts no known identity.
pub(super) struct Cache {
    key: hmac::Key,
    source: Source,
    lifetimes: Lifetimes,
    state: Mutex<State>,
}

struct State {
    good: LruCache<Digest, Good>,
    bad: LruCache<Digest, (CredentialError, Instant)>,
    flights: HashMap<Digest, Pending>,
}

/// It stays when its time is over: the next check may find that its decision is to be taken back.
struct Good {
    authenticated: Authenticated,
    until: Instant,
    decision: CancellationToken,
}

impl Cache {
    /// Makes an empty one for the identities of `source`.
    ///
    /// # Errors
    /// The system has no randomness for the hash's key.
    pub(super) fn new(source: Source, lifetimes: Lifetimes) -> Result<Arc<Self>, Unspecified> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        let room = |entries| NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        Ok(Arc::new(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            source,
            lifetimes,
            state: Mutex::new(State {
                good: LruCache::new(room(limits::CACHED_IDENTITIES)),
                bad: LruCache::new(room(limits::CACHED_REJECTIONS)),
                flights: HashMap::new(),
            }),
        }))
    }

    /// The name of a credential that consists of these parts.
    pub(super) fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            // Without the lengths "a" and "bc" were "ab" and "c".
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        let tag = context.sign();
        digest
            .iter_mut()
            .zip(tag.as_ref())
            .for_each(|(to, from)| *to = *from);
        Digest(digest)
    }

    /// Looks a credential up, and makes the caller check it where there is no result and no check under way.
    pub(super) fn ask(self: &Arc<Self>, digest: Digest) -> Asked {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(good) = state.good.get(&digest)
            && now < good.until
        {
            return Asked::Known(Outcome::Vouched(Box::new(good.authenticated.clone())));
        }
        if let Some((rejection, until)) = state.bad.get(&digest)
            && now < *until
        {
            return Asked::Known(Outcome::Rejected(rejection.clone()));
        }
        if let Some(pending) = state.flights.get(&digest) {
            return Asked::Wait(pending.clone());
        }
        if state.flights.len() >= FLIGHTS {
            return Asked::Full;
        }
        let (tell, pending) = watch::channel(None);
        state.flights.insert(digest, pending.clone());
        let flight = Flight {
            cache: Arc::clone(self),
            digest,
            tell,
        };
        Asked::Check(flight, pending)
    }

    /// Whether it was good when it was checked last, however long ago.
    pub(super) fn was_good(&self, digest: &Digest) -> bool {
        self.state().good.contains(digest)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A streams' decision goes on as long as each check brings the same caller.
    fn remember(&self, digest: Digest, found: Found) -> Outcome {
        let now = Instant::now();
        let mut state = self.state();
        match found {
            Found::Unavailable(error) => Outcome::Unavailable(Shared(Arc::new(error))),
            Found::Wait(wait) => Outcome::Wait(wait),
            Found::Rejected(rejection) => {
                if let Some(good) = state.good.pop(&digest) {
                    good.decision.cancel();
                }
                let until = now + self.lifetimes.bad;
                state.bad.put(digest, (rejection.clone(), until));
                Outcome::Rejected(rejection)
            }
            Found::Identity(identity) => {
                state.bad.pop(&digest);
                let before = state.good.pop(&digest);
                let decision = match before {
                    Some(good) if good.authenticated.identity.is_same_caller(&identity) => {
                        good.decision
                    }
                    Some(good) => {
                        good.decision.cancel();
                        self.source.decision()
                    }
                    None => self.source.decision(),
                };
                let authenticated = Authenticated {
                    identity,
                    claimed: None,
                    revocation: Revocation::when(decision.clone()),
                };
                let good = Good {
                    authenticated: authenticated.clone(),
                    until: now + self.lifetimes.good,
                    decision,
                };
                state.good.put(digest, good);
                Outcome::Vouched(Box::new(authenticated))
            }
        }
    }
}

/// A check under way. Dropping it without an end lets the next caller start again.
pub(super) struct Flight {
    cache: Arc<Cache>,
    digest: Digest,
    tell: watch::Sender<Option<Outcome>>,
}

impl Flight {
    pub(super) fn land(self, found: Found) {
        let outcome = self.cache.remember(self.digest, found);
        self.tell.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cache.state().flights.remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Assertion, Reserved};
    use underpass_core::AuthenticationMethod;

    const LIFETIMES: Lifetimes = Lifetimes {
        good: Duration::from_secs(60),
        bad: Duration::from_secs(5),
    };

    fn source() -> Source {
        let name = "test";
        Source::new(
            name,
            AuthenticationMethod::Ldap,
            Reserved::default(),
            CancellationToken::new(),
        )
    }

    fn cache() -> Arc<Cache> {
        Cache::new(source(), LIFETIMES).unwrap()
    }

    fn alice(groups: &[&str]) -> Found {
        let identity = source().identity(Assertion {
            user: "alice".to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..Assertion::default()
        });
        Found::Identity(identity.unwrap())
    }

    fn check(cache: &Arc<Cache>, digest: Digest) -> Flight {
        match cache.ask(digest) {
            Asked::Check(flight, _) => flight,
            _ => panic!("somebody knows it"),
        }
    }

    fn revocation(cache: &Arc<Cache>, digest: Digest) -> Revocation {
        match cache.ask(digest) {
            Asked::Known(Outcome::Vouched(authenticated)) => authenticated.revocation,
            _ => panic!("nobody knows it"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_known_for_their_time() {
        let cache = cache();
        let (good, bad) = (cache.digest(&[b"good"]), cache.digest(&[b"bad"]));
        check(&cache, good).land(alice(&[]));
        check(&cache, bad).land(Found::Rejected(CredentialError::Unknown));
        assert!(matches!(cache.ask(good), Asked::Known(Outcome::Vouched(_))));
        assert!(matches!(cache.ask(bad), Asked::Known(Outcome::Rejected(_))));
        tokio::time::advance(LIFETIMES.bad).await;
        assert!(matches!(cache.ask(good), Asked::Known(_)));
        drop(check(&cache, bad));
        tokio::time::advance(LIFETIMES.good).await;
        drop(check(&cache, good));
    }

    #[tokio::test]
    async fn what_could_not_be_checked_is_not_kept() {
        let cache = cache();
        let digest = cache.digest(&[b"x"]);
        check(&cache, digest).land(Found::Unavailable("down".into()));
        check(&cache, digest).land(alice(&[]));
        assert!(matches!(
            cache.ask(digest),
            Asked::Known(Outcome::Vouched(_))
        ));
    }

    #[tokio::test]
    async fn the_same_credential_is_checked_once() {
        let cache = cache();
        let digest = cache.digest(&[b"x"]);
        let flight = check(&cache, digest);
        let Asked::Wait(mut pending) = cache.ask(digest) else {
            panic!("checked twice");
        };
        flight.land(alice(&[]));
        let outcome = pending.wait_for(Option::is_some).await.unwrap().clone();
        assert!(matches!(outcome, Some(Outcome::Vouched(_))));
    }

    #[tokio::test]
    async fn a_check_that_was_given_up_is_begun_again() {
        let cache = cache();
        let digest = cache.digest(&[b"x"]);
        let flight = check(&cache, digest);
        let Asked::Wait(mut pending) = cache.ask(digest) else {
            panic!("checked twice");
        };
        drop(flight);
        assert!(pending.wait_for(Option::is_some).await.is_err());
        drop(check(&cache, digest));
    }

    #[tokio::test]
    async fn rule_11_checks_and_entries_are_bounded() {
        let cache = cache();
        let digest = |n: usize| cache.digest(&[&n.to_be_bytes()]);
        let flights: Vec<_> = (0..FLIGHTS).map(|n| check(&cache, digest(n))).collect();
        assert!(matches!(cache.ask(digest(usize::MAX)), Asked::Full));
        drop(flights);
        for n in 0..=limits::CACHED_REJECTIONS {
            check(&cache, digest(n)).land(Found::Rejected(CredentialError::Unknown));
        }
        assert_eq!(cache.state().bad.len(), limits::CACHED_REJECTIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_later_check_takes_back_what_an_earlier_one_allowed() {
        for (second, revoked) in [
            (alice(&["dev"]), false),
            (Found::Unavailable("down".into()), false),
            (alice(&["ops"]), true),
            (Found::Rejected(CredentialError::Unknown), true),
        ] {
            let cache = cache();
            let digest = cache.digest(&[b"x"]);
            check(&cache, digest).land(alice(&["dev"]));
            let first = revocation(&cache, digest);
            tokio::time::advance(LIFETIMES.good).await;
            let said = format!("{second:?}");
            check(&cache, digest).land(second);
            assert_eq!(first.is_revoked(), revoked, "{said}");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let cache = cache();
        assert!(cache.digest(&[b"a", b"bc"]) != cache.digest(&[b"ab", b"c"]));
        assert!(cache.digest(&[b"a"]) == cache.digest(&[b"a"]));
        let other = super::tests::cache();
        assert!(cache.digest(&[b"a"]) != other.digest(&[b"a"]));
    }
}
