//! Bounds the tokens of each identity and authority.
//!
//! A user can log in as often as they like, so that the tokens of one identity, and of one authenticator, are bounded (security
//! rule 22): an identity's next login takes the place of its oldest one, and when the places of all logins are taken, the
//! authority that has most of them gives one up. Tokens that have expired and are still shown take places as well, and go
//! first.

use std::collections::HashMap;

use super::{
    draft::Draft,
    error::ChangeError,
    object::{AccessToken, ObjectKind, Owner},
};
use underpass_core::limits;

/// The tokens of one holder count together: of a name with its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder<'a> {
    /// As a login has it; empty for the directory.
    by: &'a str,
    name: &'a str,
}

impl AccessToken {
    fn holder(&self) -> Holder<'_> {
        let by = match &self.owner {
            Owner::User(_) => "",
            Owner::Login(login) => &login.authenticated_by,
        };
        Holder {
            by,
            name: self.owner.name(),
        }
    }

    /// Is it of the same login as the token that it was made with?
    pub(super) fn renews(&self, parent: &Self) -> bool {
        self.is_login() && self.holder() == parent.holder()
    }

    /// Did a login make it?
    fn is_login(&self) -> bool {
        matches!(self.owner, Owner::Login(_)) || self.renewable_until.is_some()
    }
}

/// How many tokens of a kind there may be.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Of one holder.
    own: usize,
    /// Of all holders.
    all: usize,
}

/// A token that has a place.
#[derive(Clone, Copy)]
struct Placed<'a> {
    id: &'a str,
    token: &'a AccessToken,
}

/// Makes a place for a new token.
///
/// # Errors
/// It is no login, and its user, or all users together, have as many as there may be.
pub(super) fn make(draft: &mut Draft, token: &AccessToken) -> Result<(), ChangeError> {
    let bounds = match token.is_login() {
        true => Bounds {
            own: limits::LOGINS_PER_IDENTITY,
            all: limits::LOGINS,
        },
        false => Bounds {
            own: limits::TOKENS_PER_USER,
            all: limits::OBJECTS - limits::LOGINS,
        },
    };
    make_within(bounds, draft, token)
}

fn make_within(bounds: Bounds, draft: &mut Draft, token: &AccessToken) -> Result<(), ChangeError> {
    let placed: Vec<_> = draft
        .all::<AccessToken>()
        .iter()
        .map(|(id, entry)| Placed {
            id,
            token: &entry.object,
        })
        .filter(|placed| placed.token.is_login() == token.is_login())
        .collect();
    let own: Vec<_> = placed
        .iter()
        .copied()
        .filter(|placed| placed.token.holder() == token.holder())
        .collect();
    let (crowd, full) = if own.len() >= bounds.own {
        let user = token.owner.name().to_owned();
        (own, ChangeError::TooManyTokens { user })
    } else if placed.len() >= bounds.all {
        (crowd(placed), ChangeError::TooMany(ObjectKind::Token))
    } else {
        return Ok(());
    };
    // The new token's parent stays.
    let parent = token.parent.as_deref();
    let others = crowd.into_iter().filter(|placed| Some(placed.id) != parent);
    let counts = |placed: &Placed<'_>| placed.token.is_unexpired(draft.now());
    let first = others.min_by_key(|placed| (counts(placed), placed.token.created, placed.id));
    let gone = first.filter(|placed| token.is_login() || !counts(placed));
    let gone = gone.ok_or(full)?.token.sha256;
    draft.forget_tokens(|token| token.sha256 == gone);
    Ok(())
}

/// The tokens of which one has to go: of the authority that has most, those of the holders that have most.
fn crowd(placed: Vec<Placed<'_>>) -> Vec<Placed<'_>> {
    let mut by_authority = HashMap::<&str, HashMap<&str, Vec<Placed<'_>>>>::new();
    for placed in placed {
        let Holder { by, name } = placed.token.holder();
        let theirs = by_authority.entry(by).or_default();
        theirs.entry(name).or_default().push(placed);
    }
    let authorities = by_authority.into_values();
    let biggest = authorities.max_by_key(|holders| holders.values().map(Vec::len).sum::<usize>());
    let holders = biggest.unwrap_or_default();
    let most = holders.values().map(Vec::len).max().unwrap_or_default();
    let holders = holders.into_values();
    holders
        .filter(|tokens| tokens.len() == most)
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::{Expect, Login, Name, Snapshot, User};
    use underpass_authenticate::Token;
    use underpass_core::Scope;

    const BOUNDS: Bounds = Bounds { own: 3, all: 6 };

    fn draft() -> Draft {
        Draft::new(Arc::new(Snapshot::default()), OffsetDateTime::now_utc())
    }

    fn login(draft: &Draft, by: &str, user: &str, age: i64) -> AccessToken {
        AccessToken {
            created: draft.now() - Duration::minutes(age),
            sha256: Token::generate().unwrap().hash(),
            owner: Owner::Login(Login {
                user: user.to_owned(),
                uid: None,
                groups: Vec::new(),
                extra: Default::default(),
                authenticated_by: by.to_owned(),
            }),
            expires: Some(draft.now() + Duration::hours(1)),
            renewable_until: None,
            parent: None,
            scope: Scope::default(),
            description: String::new(),
        }
    }

    fn put(draft: &mut Draft, id: &str, token: AccessToken) -> Result<(), ChangeError> {
        make_within(BOUNDS, draft, &token)?;
        draft.put(id, token, Expect::Absent)
    }

    fn ids(draft: &Draft) -> Vec<&str> {
        draft
            .all::<AccessToken>()
            .keys()
            .map(String::as_str)
            .collect()
    }

    #[test]
    fn rule_22_a_login_takes_the_place_of_its_own_oldest() {
        let mut draft = draft();
        for (id, by, user, age) in [
            ("a1", "ldap/corp", "alice", 30),
            ("a2", "ldap/corp", "alice", 40),
            ("a3", "ldap/corp", "alice", 20),
            ("b1", "ldap/corp", "bob", 90),
            // Of the same name, and another holder.
            ("c1", "jwt/corp", "alice", 99),
        ] {
            let login = login(&draft, by, user, age);
            put(&mut draft, id, login).unwrap();
        }
        let next = login(&draft, "ldap/corp", "alice", 0);
        put(&mut draft, "a4", next).unwrap();
        assert_eq!(ids(&draft), ["a1", "a3", "a4", "b1", "c1"]);
        // One that has expired goes before older ones.
        let mut expired = login(&draft, "ldap/corp", "alice", 1);
        expired.expires = Some(draft.now() - Duration::seconds(1));
        put(&mut draft, "a5", expired).unwrap();
        let next = login(&draft, "ldap/corp", "alice", 0);
        put(&mut draft, "a6", next).unwrap();
        assert_eq!(ids(&draft), ["a3", "a4", "a6", "b1", "c1"]);
    }

    #[test]
    fn rule_22_a_full_directory_takes_from_the_authority_that_has_most() {
        let mut draft = draft();
        let honest = login(&draft, "ldap/corp", "alice", 99);
        put(&mut draft, "alice", honest).unwrap();
        for number in 0..20 {
            // Fifty names of one provider, each within its share.
            let flood = login(&draft, "jwt/public", &format!("user-{number}"), 50 - number);
            put(&mut draft, &format!("flood-{number:02}"), flood).unwrap();
        }
        let bob = login(&draft, "github/hub", "bob", 0);
        put(&mut draft, "bob", bob).unwrap();
        assert_eq!(
            ids(&draft),
            [
                "alice", "bob", "flood-16", "flood-17", "flood-18", "flood-19"
            ]
        );
        // Within one authority the holder of most gives one up.
        let again = login(&draft, "jwt/public", "user-19", 60);
        put(&mut draft, "greedy", again).unwrap();
        let carol = login(&draft, "ldap/corp", "carol", 0);
        put(&mut draft, "carol", carol).unwrap();
        assert_eq!(
            ids(&draft),
            ["alice", "bob", "carol", "flood-17", "flood-18", "flood-19"]
        );
    }

    #[test]
    fn rule_22_a_renewal_goes_on_when_the_login_before_gives_its_place_up() {
        let mut draft = draft();
        let first = login(&draft, "ldap/corp", "alice", 30);
        put(&mut draft, "first", first).unwrap();
        let mut second = login(&draft, "ldap/corp", "alice", 20);
        second.parent = Some("first".to_owned());
        put(&mut draft, "second", second).unwrap();
        let third = login(&draft, "ldap/corp", "alice", 10);
        put(&mut draft, "third", third).unwrap();
        let mut fourth = login(&draft, "ldap/corp", "alice", 0);
        fourth.parent = Some("first".to_owned());
        put(&mut draft, "fourth", fourth.clone()).unwrap();
        // Not its parent, which is older.
        assert_eq!(ids(&draft), ["first", "fourth", "third"]);
        let fifth = login(&draft, "ldap/corp", "alice", 0);
        put(&mut draft, "fifth", fifth).unwrap();
        assert_eq!(ids(&draft), ["fifth", "fourth", "third"]);
        let fourth = &draft.get::<AccessToken>("fourth").unwrap().object;
        assert_eq!(fourth.parent, None);
    }

    #[test]
    fn rule_22_tokens_that_people_keep_are_refused_and_not_forgotten() {
        let mut draft = draft();
        for user in ["alice", "bob", "carol"] {
            let user_of = User::new(draft.now());
            draft.put(user, user_of, Expect::Absent).unwrap();
        }
        let own = |draft: &Draft, user: &str| AccessToken {
            owner: Owner::User(user.parse::<Name>().unwrap()),
            ..login(draft, "", "", 0)
        };
        for number in 0..3 {
            for user in ["alice", "bob"] {
                let token = own(&draft, user);
                put(&mut draft, &format!("{user}-{number}"), token).unwrap();
            }
        }
        let (alice, carol) = (own(&draft, "alice"), own(&draft, "carol"));
        let refused = put(&mut draft, "x", alice);
        assert!(matches!(refused, Err(ChangeError::TooManyTokens { .. })));
        let refused = put(&mut draft, "x", carol);
        assert!(matches!(
            refused,
            Err(ChangeError::TooMany(ObjectKind::Token))
        ));
        // Logins have places of their own.
        let token = login(&draft, "ldap/corp", "dave", 0);
        put(&mut draft, "dave", token).unwrap();
        assert_eq!(draft.all::<AccessToken>().len(), 7);
    }
}
