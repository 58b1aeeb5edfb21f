//! The shares of users by the authority that vouches for them.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use tokio::time::Instant;

use super::{Bucket, Rate};
use crate::share;

/// Three shares at once: a user's, that of all users of the user's authority, and that of all users. An authority that gives
/// ever new names has one share for all of them, and its last quarter is for users who have taken little ([`share::allows`]):
/// it takes many users of an authority, and not a few busy ones, to keep another one of its users out.
#[derive(Debug)]
pub struct UserLimiter {
    user: Rate,
    authority: Rate,
    all: Rate,
    state: Mutex<Users>,
}

#[derive(Debug)]
struct Users {
    users: LruCache<(String, String), Bucket>,
    authorities: LruCache<String, Bucket>,
    all: Bucket,
}

impl UserLimiter {
    /// Nothing is taken yet. `all.sources` has no meaning.
    pub fn new(user: Rate, authority: Rate, all: Rate) -> Self {
        let room = |rate: Rate| NonZeroUsize::new(rate.sources).unwrap_or(NonZeroUsize::MIN);
        Self {
            user,
            authority,
            all,
            state: Mutex::new(Users {
                users: LruCache::new(room(user)),
                authorities: LruCache::new(room(authority)),
                all: Bucket::new(Instant::now()),
            }),
        }
    }

    /// Takes one for this user of this authority, and says how often that was refused since the last time it was not: to the
    /// user, to the authority's users and to all. `None` where one of the three has had its share, and then nothing is taken of
    /// the other two. A user who gets nothing is not remembered for it.
    pub fn take(&self, authority: &str, name: &str) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Users {
            users,
            authorities,
            all,
        } = &mut *state;
        let who = (authority.to_owned(), name.to_owned());
        let mut held = 0;
        if let Some(user) = users.get_mut(&who) {
            if !user.has(now, self.user.burst, self.user.every) {
                return None;
            }
            held = user.taken;
        }
        if !all.has_beside(now, self.all, held) {
            return None;
        }
        let of_authority = authorities.get_mut(authority);
        if of_authority.is_some_and(|bucket| !bucket.has_beside(now, self.authority, held)) {
            return None;
        }
        let fresh = || Bucket::new(now);
        let told = [
            all.take(),
            authorities
                .get_or_insert_mut(authority.to_owned(), fresh)
                .take(),
            users.get_or_insert_mut(who, fresh).take(),
        ];
        Some(told.into_iter().fold(0, u64::saturating_add))
    }
}

impl Bucket {
    /// [`Bucket::has`] of a bucket that many share, for one of them who holds `held` of it.
    fn has_beside(&mut self, now: Instant, rate: Rate, held: u32) -> bool {
        self.give_back(now, rate.every);
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let has = share::allows(size(held), size(self.taken), size(rate.burst));
        if !has {
            self.suppressed = self.suppressed.saturating_add(1);
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate(burst: u32, every: Duration) -> Rate {
        Rate {
            burst,
            every,
            sources: 1024,
        }
    }

    fn limiter() -> UserLimiter {
        let second = Duration::from_secs(1);
        UserLimiter::new(
            rate(20, second),
            rate(80, second / 4),
            rate(400, second / 20),
        )
    }

    fn taken(limiter: &UserLimiter, authority: &str, name: &str) -> usize {
        let takes = (0..1000).filter(|_| limiter.take(authority, name).is_some());
        takes.count()
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_few_busy_users_leave_room_for_others_of_their_authority() {
        let limiter = limiter();
        let busy: usize = (0..10)
            .map(|name| taken(&limiter, "corp", &name.to_string()))
            .sum();
        assert!((60..80).contains(&busy), "{busy}");
        assert!(limiter.take("corp", "alice").is_some());
        assert!(taken(&limiter, "other", "bob") > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_ever_new_names_have_one_share_and_flush_nobody() {
        let limiter = limiter();
        assert_eq!(taken(&limiter, "corp", "alice"), 20);
        for name in 0..10_000 {
            limiter.take("captured", &name.to_string());
        }
        assert_eq!(limiter.take("corp", "alice"), None, "she is remembered");
        assert!(limiter.take("corp", "bob").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_each_refusal_of_a_user_is_told_once() {
        let limiter = limiter();
        let mut refused = 0_u64;
        let mut told = 0;
        for _ in 0..400 {
            tokio::time::advance(Duration::from_millis(100)).await;
            for name in 0..40 {
                let authority = if name % 2 == 0 { "corp" } else { "other" };
                match limiter.take(authority, &name.to_string()) {
                    Some(before) => told += before,
                    None => refused += 1,
                }
            }
        }
        let state = limiter.state.lock().unwrap();
        let untold = |buckets: &mut dyn Iterator<Item = &Bucket>| {
            buckets.map(|bucket| bucket.suppressed).sum::<u64>()
        };
        let untold = untold(&mut state.users.iter().map(|(_, bucket)| bucket))
            + untold(&mut state.authorities.iter().map(|(_, bucket)| bucket))
            + state.all.suppressed;
        assert_eq!(told + untold, refused);
    }
}
