//! The share of each user in the API: requests at the same time, and changes over time (security rule 23). The owner of the
//! data directory has no bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use metrics::counter;
use underpass_core::rate::{Rate, RateLimiter, UserLimiter};
use underpass_core::share;
use underpass_directory::Owner;

use super::problem::Problem;
use crate::limits;

/// The holder of a share: a name together with its authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Whose {
    pub(super) by: String,
    pub(super) name: String,
}

/// As bindings and links write it.
const DIRECTORY: &str = "directory";

impl std::convert::From<&Owner> for Whose {
    fn from(owner: &Owner) -> Self {
        let by = match owner {
            Owner::User(_) => DIRECTORY,
            Owner::Login(login) => &login.authenticated_by,
        };
        Self {
            by: by.to_owned(),
            name: owner.name().to_owned(),
        }
    }
}

/// The requests of `/v1` that are being answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Seats(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    authorities: HashMap<String, usize>,
    users: HashMap<Whose, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    places: Seats,
    whose: Whose,
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more of this user's.
    pub(super) fn take(&self, whose: Whose) -> Result<Seat, Problem> {
        let mut taken = self.lock();
        let of_user = taken.users.get(&whose).copied().unwrap_or_default();
        let of_authority = taken.authorities.get(&whose.by).copied();
        let of_authority = of_authority.unwrap_or_default();
        // A captured authority gives ever new names. A share in its share: a few busy users leave room for its others.
        let of_authority_most = match whose.by.as_str() {
            DIRECTORY => limits::API_PLACES,
            _ => limits::API_PLACES_PER_AUTHORITY,
        };
        if of_user >= limits::API_PLACES_PER_USER
            || !share::allows(of_user, taken.all, limits::API_PLACES)
            || !share::allows(of_user, of_authority, of_authority_most)
        {
            drop(taken);
            counter!("underpass_api_turned_away_total", "for" => "places").increment(1);
            let detail = if of_user >= limits::API_PLACES_PER_USER {
                format!(
                    "{of_user} requests of yours are being answered: wait for one, and read its answer"
                )
            } else {
                "too many requests are being answered; try again".to_owned()
            };
            return Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, detail, 1));
        }
        taken.all = taken.all.saturating_add(1);
        *taken.authorities.entry(whose.by.clone()).or_default() += 1;
        *taken.users.entry(whose.clone()).or_default() += 1;
        drop(taken);
        Ok(Seat {
            places: self.clone(),
            whose,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.authorities.get_mut(&self.whose.by) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.authorities.remove(&self.whose.by);
            }
        }
        if let Some(count) = taken.users.get_mut(&self.whose) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.users.remove(&self.whose);
            }
        }
    }
}

/// How often somebody may ask for a change of the directory. One change is made at a time, in the order in which they come:
/// a user has no more of them in that line than places, and this bounds what they write there.
#[derive(Debug)]
pub(super) struct Pace {
    /// Users of the directory's own: no flood of names of others makes it forget one of them.
    users: RateLimiter<String>,
    others: UserLimiter,
    /// Logins have a pace of their own: no number of other changes keeps anybody from it.
    logins: UserLimiter,
}

impl Default for Pace {
    fn default() -> Self {
        let user = Rate {
            burst: limits::CHANGES_PER_USER,
            every: limits::CHANGE_PER_USER_EVERY,
            sources: limits::CHANGING_USERS,
        };
        let authority = Rate {
            burst: limits::CHANGES_PER_AUTHORITY,
            every: limits::CHANGE_PER_AUTHORITY_EVERY,
            sources: limits::CHANGING_AUTHORITIES,
        };
        let all = Rate {
            burst: limits::CHANGES,
            every: limits::CHANGE_EVERY,
            sources: 1,
        };
        Self {
            users: RateLimiter::new(user),
            others: UserLimiter::new(user, authority, all),
            logins: UserLimiter::new(user, authority, all),
        }
    }
}

impl Pace {
    /// One more change that this user asks for.
    pub(super) fn change(&self, whose: &Whose) -> Result<(), Problem> {
        self.take(whose, &self.others, "changes of the directory")
    }

    /// One more login of this user.
    pub(super) fn log_in(&self, whose: &Whose) -> Result<(), Problem> {
        self.take(whose, &self.logins, "logins")
    }

    fn take(&self, whose: &Whose, others: &UserLimiter, what: &str) -> Result<(), Problem> {
        let may = match whose.by.as_str() {
            DIRECTORY => self.users.take(whose.name.clone()).is_some(),
            by => others.take(by, &whose.name).is_some(),
        };
        if may {
            return Ok(());
        }
        counter!("underpass_api_turned_away_total", "for" => "changes").increment(1);
        let seconds = limits::CHANGE_PER_USER_EVERY.as_secs().max(1);
        Err(Problem::later(
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "too many {what} by you or by users of your identity provider: wait, or let the server's operator do it on \
                 its machine"
            ),
            seconds,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(by: &str, name: &str) -> Whose {
        Whose {
            by: by.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn rule_23_neither_one_user_nor_one_authenticator_has_all_places() {
        let places = Seats::default();
        let all = |by: &str, name: &str| {
            let places =
                (0..limits::API_PLACES * 2).map_while(|_| places.take(whose(by, name)).ok());
            places.collect::<Vec<_>>()
        };
        let greedy = all(DIRECTORY, "greedy");
        assert_eq!(greedy.len(), limits::API_PLACES_PER_USER);
        let mut names = Vec::new();
        for number in 0..limits::API_PLACES {
            names.extend(all("token-review/captured", &number.to_string()));
        }
        assert!(names.len() <= limits::API_PLACES / 4 * 3, "{}", names.len());
        let others = [("jwt/corp", "alice"), (DIRECTORY, "bob")];
        let held = others.map(|(by, name)| places.take(whose(by, name)).unwrap());
        drop((greedy, names, held));
        let taken = places.lock();
        assert!(taken.users.is_empty() && taken.authorities.is_empty() && taken.all == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_changes_of_one_user_have_a_pace() {
        let pace = Pace::default();
        let many = |by: &str, name: &dyn Fn(u32) -> String| {
            let asked =
                (0..100_000).filter(|number| pace.change(&whose(by, &name(*number))).is_ok());
            u32::try_from(asked.count()).unwrap()
        };
        let one = many(DIRECTORY, &|_| "mallory".to_owned());
        assert_eq!(one, limits::CHANGES_PER_USER);
        let names = many("token-review/captured", &|number| number.to_string());
        assert_eq!(names, limits::CHANGES_PER_AUTHORITY);
        assert!(pace.change(&whose(DIRECTORY, "alice")).is_ok());
        tokio::time::advance(limits::CHANGE_PER_USER_EVERY).await;
        assert!(pace.change(&whose(DIRECTORY, "mallory")).is_ok());
        assert!(pace.change(&whose(DIRECTORY, "mallory")).is_err());
    }

    #[test]
    fn rule_23_a_few_users_leave_places_for_others_of_their_authority() {
        let places = Seats::default();
        let mut busy = Vec::new();
        for name in 0..10 {
            let places = (0..limits::API_PLACES_PER_USER)
                .map_while(|_| places.take(whose("jwt/corp", &name.to_string())).ok());
            busy.extend(places);
        }
        for name in ["alice", "bob"] {
            busy.push(places.take(whose("jwt/corp", name)).unwrap());
        }
        busy.push(places.take(whose("ldap/other", "carol")).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn rule_23_a_few_users_leave_changes_and_logins_for_others_of_their_authority() {
        let pace = Pace::default();
        for name in 0..20 {
            let busy = whose("jwt/corp", &name.to_string());
            let asked = (0..1000).filter(|_| pace.change(&busy).is_ok()).count();
            assert!(asked > 0, "{name}");
        }
        let alice = whose("jwt/corp", "alice");
        assert!(pace.change(&alice).is_ok());
        // Not even a captured authority's many names keep its users from a login.
        for name in 0..20_000 {
            let _ = pace.change(&whose("jwt/corp", &name.to_string()));
        }
        assert!(pace.change(&whose("jwt/corp", "bob")).is_err());
        assert!(pace.log_in(&whose("jwt/corp", "bob")).is_ok());
    }
}
