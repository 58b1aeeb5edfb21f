//! Authenticators that ask a provider: once for a credential, with few questions at a time.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, CredentialError, Password, Source,
    cache::{Asked, Cache, Digest, Flight, Found, Lifetimes, Pending},
    checks::{Check, Checks},
    error::TooSlow,
    failures::Failures,
    known::Known,
};
use underpass_core::{Identity, limits};

/// A credential that is kept while it is checked.
pub(crate) enum Credential {
    Bearer(Zeroizing<String>),
    Password(Password),
}

impl Credential {
    pub(super) fn bearer(token: &str) -> Self {
        Self::Bearer(Zeroizing::new(token.to_owned()))
    }

    fn user(&self) -> Option<&str> {
        match self {
            Self::Bearer(_) => None,
            Self::Password(login) => Some(login.user()),
        }
    }

    fn digest(&self, cache: &Cache) -> Digest {
        match self {
            Self::Bearer(token) => cache.digest(&[b"bearer", token.as_bytes()]),
            Self::Password(login) => {
                let (user, password) = (login.user().as_bytes(), login.expose().as_bytes());
                cache.digest(&[b"password", user, password])
            }
        }
    }
}

/// Checks one kind of credential by asking a provider.
#[async_trait]
pub(crate) trait Lookup: Send + Sync + 'static {
    /// Is this credential mine? Decided without a question to the provider.
    ///
    /// # Errors
    /// It is mine, and bad without a question to the provider.
    fn claim(&self, caller: &Caller<'_>) -> Result<Option<Credential>, CredentialError>;

    /// Asks the provider, for a client at this address.
    async fn look_up(
        &self,
        credential: &Credential,
        client: IpAddr,
    ) -> Result<Identity, AuthenticateError>;
}

/// Cache and timeout of an authenticator that asks a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long an identity counts until the provider is asked again: a user who was removed there keeps access for that long.
    pub cache: Duration,
    /// How long a bad credential stays bad without asking.
    pub negative_cache: Duration,
    /// How long one question may take.
    pub timeout: Duration,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            cache: Duration::from_secs(60),
            negative_cache: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Remembers, coalesces and bounds the questions of a [`Lookup`].
pub(crate) struct Remote<L> {
    lookup: Arc<L>,
    cache: Arc<Cache>,
    failures: Arc<Failures>,
    strangers: Room,
    /// Of credentials that were good before, and of users who have logged in from the same network before.
    kept: Room,
    known: Arc<Users>,
    timeout: Duration,
}

/// How many credentials may wait, and how many are asked for at a time.
struct Room {
    checks: Checks,
    questions: Arc<Semaphore>,
}

impl Room {
    fn new(waiting: usize, at_once: usize) -> Self {
        Self {
            checks: Checks::new(waiting),
            questions: Arc::new(Semaphore::new(at_once)),
        }
    }

    fn enter(&self, client: IpAddr) -> Option<Admitted> {
        let check = self.checks.enter(client)?;
        let questions = Arc::clone(&self.questions);
        Some(Admitted { check, questions })
    }
}

/// A credential's, while it waits and is asked for.
struct Admitted {
    check: Check,
    questions: Arc<Semaphore>,
}

/// Pairs of user and network with a login.
struct Users {
    hasher: RandomState,
    known: Mutex<Known>,
}

impl Users {
    fn knows(&self, user: &str, client: IpAddr) -> bool {
        let name = self.hasher.hash_one(user);
        self.lock().knows(name, client)
    }

    fn learn(&self, user: &str, client: IpAddr) {
        let name = self.hasher.hash_one(user);
        self.lock().learn(name, client);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is no randomness for a key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system has no randomness")]
pub struct NoRandomness;

/// The check ended without a result.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the check was given up")]
struct GivenUp;

impl<L: Lookup> Remote<L> {
    pub(crate) fn new(
        lookup: L,
        source: Source,
        options: RemoteOptions,
    ) -> Result<Self, NoRandomness> {
        let lifetimes = Lifetimes {
            good: options.cache,
            bad: options.negative_cache,
        };
        Ok(Self {
            lookup: Arc::new(lookup),
            cache: Cache::new(source, lifetimes).map_err(|_| NoRandomness)?,
            failures: Arc::new(Failures::new()),
            strangers: Room::new(limits::CHECKS_WAITING, limits::CHECKS_AT_ONCE),
            kept: Room::new(limits::CHECKS_WAITING_KNOWN, limits::CHECKS_KNOWN_AT_ONCE),
            known: Arc::new(Users {
                hasher: RandomState::new(),
                known: Mutex::new(Known::new()),
            }),
            timeout: options.timeout,
        })
    }

    /// Authenticates the credential.
    pub(crate) async fn check(
        &self,
        credential: Credential,
        client: IpAddr,
    ) -> Result<Authenticated, AuthenticateError> {
        let digest = credential.digest(&self.cache);
        let pending = match self.cache.ask(digest) {
            Asked::Known(outcome) => return outcome.into_result(),
            Asked::Full => return Err(AuthenticateError::Busy),
            Asked::Wait(pending) => pending,
            Asked::Check(flight, pending) => {
                // A credential that was good before is no guess. Nor is one of a user who has logged in from there before: the
                // directory takes few wrong passwords of theirs.
                let known = self.cache.was_good(&digest)
                    || credential
                        .user()
                        .is_some_and(|user| self.known.knows(user, client));
                if !known {
                    let allowed = self.failures.allow(client);
                    allowed.map_err(AuthenticateError::Wait)?;
                }
                let kept = known.then(|| self.kept.enter(client)).flatten();
                let place = kept.or_else(|| self.strangers.enter(client));
                let place = place.ok_or(AuthenticateError::Busy)?;
                self.start(flight, credential, client, place);
                pending
            }
        };
        landed(pending).await
    }

    /// In a task of its own: a client that leaves takes nothing away from others who wait, and the result is cached.
    fn start(&self, flight: Flight, credential: Credential, client: IpAddr, place: Admitted) {
        let (lookup, failures) = (Arc::clone(&self.lookup), Arc::clone(&self.failures));
        let (known, timeout) = (Arc::clone(&self.known), self.timeout);
        let Admitted { check, questions } = place;
        tokio::spawn(async move {
            let asking = async {
                let _place = questions.acquire().await;
                lookup.look_up(&credential, client).await
            };
            let answered = tokio::time::timeout(timeout, asking).await;
            drop(check);
            flight.land(match answered {
                Ok(Ok(identity)) => {
                    if let Some(user) = credential.user() {
                        known.learn(user, client);
                    }
                    Found::Identity(identity)
                }
                Ok(Err(
                    AuthenticateError::Rejected(rejection)
                    | AuthenticateError::Certificate { why: rejection, .. },
                )) => {
                    failures.count(client);
                    Found::Rejected(rejection)
                }
                Ok(Err(AuthenticateError::Unavailable(error))) => Found::Unavailable(error),
                Ok(Err(AuthenticateError::Wait(wait))) => Found::Wait(wait),
                Ok(Err(AuthenticateError::Busy)) => Found::Unavailable(Box::new(GivenUp)),
                Err(_) => Found::Unavailable(Box::new(TooSlow(timeout))),
            });
        });
    }
}

async fn landed(mut pending: Pending) -> Result<Authenticated, AuthenticateError> {
    let landed = pending.wait_for(Option::is_some).await;
    let outcome = landed.ok().and_then(|outcome| outcome.clone());
    match outcome {
        Some(outcome) => outcome.into_result(),
        None => Err(AuthenticateError::unavailable(GivenUp)),
    }
}

#[async_trait]
impl<L: Lookup> Authenticator for Remote<L> {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        match self.lookup.claim(caller)? {
            None => Ok(None),
            Some(credential) => self.check(credential, caller.client()).await.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::source::{Assertion, Reserved};
    use underpass_core::AuthenticationMethod;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Gives the wanted answer, after a second.
    #[derive(Default)]
    struct Fake {
        asked: AtomicUsize,
        at_once: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl Lookup for Arc<Fake> {
        fn claim(&self, caller: &Caller<'_>) -> Result<Option<Credential>, CredentialError> {
            Ok(caller.bearer().map(Credential::bearer))
        }

        async fn look_up(
            &self,
            credential: &Credential,
            _: IpAddr,
        ) -> Result<Identity, AuthenticateError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            let Credential::Bearer(token) = credential else {
                return Err(CredentialError::Malformed.into());
            };
            match token.as_str() {
                "bad" => Err(CredentialError::Unknown.into()),
                "slow" => std::future::pending().await,
                "panics" => panic!("on purpose"),
                _ if token.starts_with("guess") => Err(CredentialError::Unknown.into()),
                user => Ok(source().identity(Assertion {
                    user: user.to_owned(),
                    ..Assertion::default()
                })?),
            }
        }
    }

    fn source() -> Source {
        let retired = CancellationToken::new();
        Source::new(
            "test",
            AuthenticationMethod::GitHub,
            Reserved::default(),
            retired,
        )
    }

    fn remote() -> (Arc<Fake>, Arc<Remote<Arc<Fake>>>) {
        let fake = Arc::new(Fake::default());
        let options = RemoteOptions::default();
        let remote = Remote::new(Arc::clone(&fake), source(), options).unwrap();
        (fake, Arc::new(remote))
    }

    async fn check(remote: &Remote<Arc<Fake>>, token: &str) -> Result<String, AuthenticateError> {
        check_from(remote, token, CLIENT).await
    }

    async fn check_from(
        remote: &Remote<Arc<Fake>>,
        token: &str,
        client: IpAddr,
    ) -> Result<String, AuthenticateError> {
        let found = remote.check(Credential::bearer(token), client).await?;
        Ok(found.identity().user().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_the_same_are_one_question() {
        let (fake, remote) = remote();
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            let remote = Arc::clone(&remote);
            asking.spawn(async move { check(&remote, "alice").await });
        }
        for found in asking.join_all().await {
            assert_eq!(found.unwrap(), "alice");
        }
        assert_eq!(fake.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_11_questions_at_once_are_bounded() {
        let (fake, remote) = remote();
        let mut asking = JoinSet::new();
        for n in 0..limits::CHECKS_WAITING {
            let remote = Arc::clone(&remote);
            let client = IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
            asking.spawn(async move { check_from(&remote, &format!("user-{n}"), client).await });
        }
        let found = asking.join_all().await;
        assert!(found.iter().all(Result::is_ok));
        assert_eq!(fake.most.load(Ordering::Relaxed), limits::CHECKS_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_leaves_takes_nothing_from_the_others() {
        let (fake, remote) = remote();
        let leaving = tokio::time::timeout(Duration::from_millis(1), check(&remote, "alice"));
        leaving.await.unwrap_err();
        assert_eq!(check(&remote, "alice").await.unwrap(), "alice");
        assert_eq!(fake.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_or_breaks_is_unavailable() {
        let (_, remote) = remote();
        for token in ["slow", "panics"] {
            let error = check(&remote, token).await.unwrap_err();
            assert!(
                matches!(error, AuthenticateError::Unavailable(_)),
                "{token}"
            );
        }
        assert_eq!(check(&remote, "alice").await.unwrap(), "alice");
    }

    #[tokio::test(start_paused = true)]
    async fn rule_11_guessing_is_slowed_down() {
        let (fake, remote) = remote();
        for n in 0..limits::FAILURES {
            let error = check(&remote, &format!("guess-{n}")).await.unwrap_err();
            assert!(matches!(error, AuthenticateError::Rejected(_)));
        }
        let asked = fake.asked.load(Ordering::Relaxed);
        // A second for each guess forgave some.
        let mut refused = false;
        for n in 0..limits::FAILURES {
            let guess = check(&remote, &format!("guess-again-{n}")).await;
            refused |= matches!(guess, Err(AuthenticateError::Wait(_)));
        }
        let more = fake.asked.load(Ordering::Relaxed) - asked;
        assert!(refused && more < limits::FAILURES as usize, "{more}");
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_one_network_does_not_take_all_questions() {
        let (_, remote) = remote();
        let mut guessing = JoinSet::new();
        for n in 0..limits::CHECKS_WAITING {
            let remote = Arc::clone(&remote);
            guessing.spawn(async move { check(&remote, &format!("guess-{n}")).await });
        }
        // All that can be are under way, and none is answered before the clock moves.
        while remote.strangers.checks.enter(CLIENT).is_some() {
            tokio::task::yield_now().await;
        }
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(
            check_from(&remote, "alice", elsewhere).await.unwrap(),
            "alice"
        );
        let guessed = guessing.join_all().await;
        let busy = guessed
            .iter()
            .filter(|guess| matches!(guess, Err(AuthenticateError::Busy)));
        assert!(busy.count() >= limits::CHECKS_WAITING / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_credential_that_was_good_is_no_guess() {
        let (_, remote) = remote();
        assert_eq!(check(&remote, "alice").await.unwrap(), "alice");
        tokio::time::advance(RemoteOptions::default().cache).await;
        for _ in 0..2 * limits::FAILURES {
            remote.failures.count(CLIENT);
        }
        let stranger = check(&remote, "bob").await.unwrap_err();
        assert!(matches!(stranger, AuthenticateError::Wait(_)));
        assert_eq!(check(&remote, "alice").await.unwrap(), "alice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_credential_is_asked_for_once() {
        let (fake, remote) = remote();
        for _ in 0..5 {
            let error = check(&remote, "bad").await.unwrap_err();
            assert!(matches!(
                error,
                AuthenticateError::Rejected(CredentialError::Unknown)
            ));
        }
        assert_eq!(fake.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_who_has_logged_in_there_before_is_asked_for_beside_strangers() {
        let (_, remote) = remote();
        assert_eq!(check(&remote, "alice").await.unwrap(), "alice");
        tokio::time::advance(RemoteOptions::default().cache).await;
        // Strangers from everywhere have all places, and their provider hangs.
        let client = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
        let taken: Vec<_> = (0..limits::CHECKS_WAITING)
            .map(|n| remote.strangers.enter(client(n)).unwrap())
            .collect();
        let asked = remote.strangers.questions.acquire_many(32).await.unwrap();
        let stranger = check(&remote, "bob").await.unwrap_err();
        assert!(matches!(stranger, AuthenticateError::Busy));
        assert_eq!(check(&remote, "alice").await.unwrap(), "alice");
        drop((taken, asked));
        // A name from a network counts as well as a credential.
        assert!(!remote.known.knows("carol", CLIENT));
        remote.known.learn("carol", CLIENT);
        assert!(remote.known.knows("carol", CLIENT));
        assert!(!remote.known.knows("carol", client(1)));
    }
}
