//! Passwords of the directory's own users: storing and checking them.
//!
//! Only a login checks a password, and it gives a token. argon2id is slow and takes memory on purpose, which no request to a
//! cluster could afford.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{Password, checks::Checks, lockouts::Lockouts};
use underpass_core::limits;

/// A stored password: argon2id with its salt and costs, as a PHC string. Not in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(String);

/// Why there is no hash of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// Too easily guessed.
    #[error("a password has at least {} characters", limits::PASSWORD_CHARS)]
    Short,
    /// Too long for a typed one.
    #[error("a password has at most {} bytes", limits::PASSWORD_BYTES)]
    Long,
    /// No salt, or no memory.
    #[error("the password cannot be hashed now")]
    Hash,
    /// The text is no PHC string of argon2id's.
    #[error("not an argon2id hash")]
    Malformed,
}

impl PasswordHash {
    /// Hashes a new password. Takes tens of milliseconds and some 20 MiB: not for an async task.
    ///
    /// # Errors
    /// It is too short or too long, or there is no randomness.
    pub fn new(password: &str) -> Result<Self, PasswordError> {
        if password.chars().count() < limits::PASSWORD_CHARS {
            return Err(PasswordError::Short);
        }
        if password.len() > limits::PASSWORD_BYTES {
            return Err(PasswordError::Long);
        }
        // OWASP's first choice: 19 MiB, two passes, one lane.
        let hash: phc::PasswordHash = Argon2::default()
            .hash_password(password.as_bytes())
            .map_err(|_| PasswordError::Hash)?;
        Ok(Self(hash.to_string()))
    }

    /// Is this the password? Takes as long as hashing.
    fn verify(&self, password: &str) -> bool {
        if password.len() > limits::PASSWORD_BYTES {
            return false;
        }
        let Ok(hash) = phc::PasswordHash::new(&self.0) else {
            return false;
        };
        // The costs are the hash's own, so that they can be raised later.
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = PasswordError;

    fn try_from(text: String) -> Result<Self, PasswordError> {
        match phc::PasswordHash::new(&text) {
            Ok(hash) if hash.algorithm.as_str() == "argon2id" => Ok(Self(text)),
            _ => Err(PasswordError::Malformed),
        }
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        hash.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// Why a password was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The name or the password: the client is not told which.
    #[error("the name or the password is wrong")]
    Wrong,
    /// Too many wrong ones. The right one would not be looked at either.
    #[error("too many wrong passwords; wait {} s", .0.as_secs().saturating_add(1))]
    Locked(Duration),
    /// Too many passwords are being checked.
    #[error("too many passwords are being checked")]
    Busy,
}

/// Checks passwords, a few at a time, and delays the next attempt after wrong ones.
///
/// - Of one user from one network: after [`limits::PASSWORD_TRIES`] wrong ones a second, and twice as long after each
///   further one, up to [`limits::PASSWORD_WAIT`].
/// - Of one user from anywhere: after [`limits::PASSWORD_TRIES_ANYWHERE`] wrong ones, up to
///   [`limits::PASSWORD_WAIT_ANYWHERE`], which slows down many machines that guess together. It does not hold up the user
///   where they have logged in before, so that these machines cannot lock them out there.
/// - Of one network, for all names together: after [`limits::FAILURES`] wrong ones, one each [`limits::FAILURE_FORGIVEN`]. It
///   does not hold up users who have logged in from there before, and right passwords do not count. Networks of IPv6 are
///   counted in each size that one may have.
///
/// An unknown name is treated like a known one, and takes as long.
#[derive(Debug)]
pub struct Passwords {
    lockouts: Lockouts,
    places: Arc<Semaphore>,
    checks: Checks,
    /// Those of users who have logged in from the same network before.
    known: Checks,
    /// The hash that a password for an unknown user is compared with.
    nobodys: PasswordHash,
}

impl Passwords {
    /// # Errors
    /// There is no randomness.
    pub fn new() -> Result<Self, PasswordError> {
        let nobodys = PasswordHash::new("a password that nobody has typed")?;
        Ok(Self {
            lockouts: Lockouts::new(),
            places: Arc::new(Semaphore::new(limits::PASSWORDS_AT_ONCE)),
            checks: Checks::new(limits::PASSWORDS_WAITING),
            known: Checks::new(limits::PASSWORDS_WAITING_KNOWN),
            nobodys,
        })
    }

    /// Is it the password that `kept` is the hash of? `None` where there is no such user, or one without a password.
    ///
    /// # Errors
    /// It is not, or it is not looked at.
    ///
    /// # Cancel safety
    /// An attempt that waits for its turn was none. One that is being checked counts as a wrong one.
    pub async fn check(
        &self,
        login: &Password,
        kept: Option<PasswordHash>,
        client: IpAddr,
    ) -> Result<(), LoginError> {
        let known = self.lockouts.knows(login.user(), client);
        let own = known.then(|| self.known.enter(client)).flatten();
        let check = own.or_else(|| self.checks.enter(client));
        let _check = check.ok_or(LoginError::Busy)?;
        let waits = self.lockouts.waits(login.user(), client);
        waits.map_err(LoginError::Locked)?;
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| LoginError::Busy)?;
        // Counted before it is known: guesses at the same time count all of them. And no earlier: a guess costs its client a
        // check, so that the memory of guesses is for as many as can be checked.
        let attempt = self.lockouts.begin(login.user(), client);
        let attempt = attempt.map_err(LoginError::Locked)?;
        let is_somebody = kept.is_some();
        let hash = kept.unwrap_or_else(|| self.nobodys.clone());
        let password = Zeroizing::new(login.expose().to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let right = hash.verify(&password);
            drop(place);
            right
        });
        if checked.await.is_ok_and(|right| right) && is_somebody {
            self.lockouts.forget(attempt);
            return Ok(());
        }
        Err(LoginError::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(user: &str, password: &str) -> Password {
        Password::new(user, Zeroizing::new(password.to_owned()))
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn rule_14_a_password_is_kept_as_argon2id() {
        let hash = PasswordHash::new("correct horse battery").unwrap();
        let kept = serde_json::to_string(&hash).unwrap();
        assert!(kept.contains("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(!kept.contains("horse"));
        let again: PasswordHash = serde_json::from_str(&kept).unwrap();
        assert!(again.verify("correct horse battery"));
        assert!(!again.verify("correct horse batterx"));
        assert_ne!(hash, PasswordHash::new("correct horse battery").unwrap());
        assert_eq!(format!("{hash:?}"), "PasswordHash(…)");
    }

    #[test]
    fn what_is_no_password_or_no_hash_is_refused() {
        assert_eq!(PasswordHash::new("short"), Err(PasswordError::Short));
        let long = "x".repeat(limits::PASSWORD_BYTES + 1);
        assert_eq!(PasswordHash::new(&long), Err(PasswordError::Long));
        for bad in [
            "",
            "plain",
            "$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
        ] {
            let refused = PasswordHash::try_from(bad.to_owned());
            assert_eq!(refused, Err(PasswordError::Malformed), "{bad}");
        }
    }

    #[tokio::test]
    async fn rule_11_nobody_and_somebody_are_refused_alike() {
        let passwords = Passwords::new().unwrap();
        let kept = PasswordHash::new("correct horse battery").unwrap();
        let right = typed("alice", "correct horse battery");
        passwords
            .check(&right, Some(kept.clone()), HERE)
            .await
            .unwrap();
        let wrong = typed("alice", "wrong");
        let refused = passwords.check(&wrong, Some(kept), HERE).await;
        assert_eq!(refused, Err(LoginError::Wrong));
        let nobody = typed("nobody", "a password that nobody has typed");
        assert_eq!(
            passwords.check(&nobody, None, HERE).await,
            Err(LoginError::Wrong)
        );
    }

    #[tokio::test]
    async fn rule_23_guesses_of_one_network_leave_places_for_others() {
        let passwords = Passwords::new().unwrap();
        let kept = PasswordHash::new("correct horse battery").unwrap();
        let guesses: Vec<_> = (0..limits::PASSWORDS_WAITING)
            .filter_map(|_| passwords.checks.enter(THERE))
            .collect();
        let guess = typed("nobody", "x");
        let refused = passwords.check(&guess, None, THERE).await;
        assert_eq!(refused, Err(LoginError::Busy));
        let right = typed("alice", "correct horse battery");
        passwords.check(&right, Some(kept), HERE).await.unwrap();
        drop(guesses);
    }

    #[tokio::test]
    async fn rule_23_ever_new_names_are_not_looked_at_for_ever() {
        let passwords = Passwords::new().unwrap();
        for n in 0..limits::FAILURES {
            passwords
                .lockouts
                .begin(&format!("nobody-{n}"), HERE)
                .unwrap();
        }
        let refused = passwords.check(&typed("one more", "x"), None, HERE).await;
        assert!(matches!(refused, Err(LoginError::Locked(_))), "{refused:?}");
        // A refused attempt takes no place, and nothing is hashed for it.
        let right = typed("bob", "correct horse battery");
        let kept = PasswordHash::new("correct horse battery").unwrap();
        passwords.check(&right, Some(kept), THERE).await.unwrap();
    }

    #[tokio::test]
    async fn rule_11_checks_at_once_are_bounded() {
        let passwords = Passwords::new().unwrap();
        let client = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
        let held: Vec<_> = (0..limits::PASSWORDS_WAITING)
            .map(|n| passwords.checks.enter(client(n)).unwrap())
            .collect();
        let login = typed("alice", "x");
        assert_eq!(
            passwords.check(&login, None, HERE).await,
            Err(LoginError::Busy)
        );
        drop(held);
        assert_eq!(
            passwords.check(&login, None, HERE).await,
            Err(LoginError::Wrong)
        );
    }

    #[tokio::test]
    async fn rule_23_who_has_logged_in_there_before_finds_a_place() {
        let passwords = Passwords::new().unwrap();
        let kept = PasswordHash::new("correct horse battery").unwrap();
        let right = typed("alice", "correct horse battery");
        let log_in = async || passwords.check(&right, Some(kept.clone()), HERE).await;
        log_in().await.unwrap();
        // Guesses from everywhere, and from her own network, take all places.
        let client = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
        let guesses: Vec<_> = (0..limits::PASSWORDS_WAITING)
            .map(|n| passwords.checks.enter(client(n)).unwrap())
            .collect();
        log_in().await.unwrap();
        let guess = typed("bob", "x");
        let refused = passwords.check(&guess, None, HERE).await;
        assert_eq!(refused, Err(LoginError::Busy));
        drop(guesses);
    }

    /// Names that are made up, and taken back before their turn, take no room in the memory of guesses.
    #[tokio::test(start_paused = true)]
    async fn rule_23_who_takes_a_login_back_before_its_turn_has_not_guessed() {
        let passwords = Passwords::new().unwrap();
        // Other checks hold all places.
        let turns = u32::try_from(passwords.places.available_permits()).unwrap();
        let _turns = Arc::clone(&passwords.places)
            .acquire_many_owned(turns)
            .await;
        for number in 0..limits::PASSWORD_TRIES_ANYWHERE + 10 {
            let from = IpAddr::from([10, 0, 0, u8::try_from(number % 256).unwrap()]);
            let login = typed("alice", "wrong");
            let check = passwords.check(&login, None, from);
            let gone = tokio::time::timeout(std::time::Duration::from_millis(1), check).await;
            assert!(gone.is_err(), "it waits for its turn");
        }
        passwords.lockouts.waits("alice", THERE).unwrap();
    }
}
