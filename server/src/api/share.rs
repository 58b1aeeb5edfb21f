//! The share of each user in the API: requests at the same time, and changes over time (security rule 23). The owner of the
//! data directory has no bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use metrics::counter;
use underpass_core::rate::{Rate, RateLimiter};
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
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    authorities: HashMap<String, usize>,
    users: HashMap<Whose, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    whose: Whose,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more of this user's.
    pub(super) fn take(&self, whose: Whose) -> Result<Place, Problem> {
        let mut taken = self.lock();
        let of_user = taken.users.get(&whose).copied().unwrap_or_default();
        let of_authority = taken.authorities.get(&whose.by).copied();
        let of_authority = of_authority.unwrap_or_default();
        let allows = |held| share::allows(held, taken.all, limits::API_PLACES);
        let is_known = whose.by == DIRECTORY;
        if of_user >= limits::API_PLACES_PER_USER
            || !allows(of_user)
            || !(is_known || allows(of_authority))
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
        Ok(Place {
            places: self.clone(),
            whose,
        })
    }
}

impl Drop for Place {
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
    others: RateLimiter<Whose>,
    /// Of all users whom somebody else vouches for: that one may give ever new names.
    authorities: RateLimiter<String>,
}

impl Default for Pace {
    fn default() -> Self {
        let one = Rate {
            burst: limits::CHANGES_PER_USER,
            every: limits::CHANGE_PER_USER_EVERY,
            sources: limits::CHANGING_USERS,
        };
        Self {
            users: RateLimiter::new(one),
            others: RateLimiter::new(one),
            authorities: RateLimiter::new(Rate {
                burst: limits::CHANGES_PER_AUTHORITY,
                every: limits::CHANGE_PER_AUTHORITY_EVERY,
                sources: limits::CHANGING_AUTHORITIES,
            }),
        }
    }
}

impl Pace {
    /// One more change that this user asks for.
    pub(super) fn take(&self, whose: &Whose) -> Result<(), Problem> {
        let may = match whose.by.as_str() {
            DIRECTORY => self.users.take(whose.name.clone()).is_some(),
            by => {
                self.others.take(whose.clone()).is_some()
                    && self.authorities.take(by.to_owned()).is_some()
            }
        };
        if may {
            return Ok(());
        }
        counter!("underpass_api_turned_away_total", "for" => "changes").increment(1);
        let seconds = limits::CHANGE_PER_USER_EVERY.as_secs().max(1);
        Err(Problem::later(
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "you have changed the directory {} times in a short time: wait, or let its operator do it on the server's \
                 machine",
                limits::CHANGES_PER_USER
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
        let places = Places::default();
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
            let asked = (0..100_000).filter(|number| pace.take(&whose(by, &name(*number))).is_ok());
            u32::try_from(asked.count()).unwrap()
        };
        let one = many(DIRECTORY, &|_| "mallory".to_owned());
        assert_eq!(one, limits::CHANGES_PER_USER);
        let names = many("token-review/captured", &|number| number.to_string());
        assert_eq!(names, limits::CHANGES_PER_AUTHORITY);
        assert!(pace.take(&whose(DIRECTORY, "alice")).is_ok());
        tokio::time::advance(limits::CHANGE_PER_USER_EVERY).await;
        assert!(pace.take(&whose(DIRECTORY, "mallory")).is_ok());
        assert!(pace.take(&whose(DIRECTORY, "mallory")).is_err());
    }
}
