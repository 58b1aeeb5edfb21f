//! `/v1/users`

use time::OffsetDateTime;
use underpass_api::{UserSpec, UserStatus};
use underpass_directory::{Draft, Snapshot, User};

use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};

pub(crate) struct Users;

impl Resource for Users {
    type Object = User;
    type Spec = UserSpec;
    type Status = UserStatus;

    const PATH: &'static str = "users";
    const ABOUT: &'static str = "A user of the directory's own; administrators only";

    fn spec(user: &User) -> UserSpec {
        UserSpec {
            uid: user.uid.clone(),
            extra: user.extra.clone(),
            disabled: user.disabled,
            links: user.links.clone(),
        }
    }

    fn object(spec: UserSpec, before: Option<&User>, now: OffsetDateTime) -> User {
        let UserSpec {
            uid,
            extra,
            disabled,
            links,
        } = spec;
        User {
            uid,
            extra,
            disabled,
            links,
            ..before.cloned().unwrap_or_else(|| User::new(now))
        }
    }

    fn created(user: &User) -> OffsetDateTime {
        user.created
    }

    fn status(name: &str, user: &User, _: &State, snapshot: &Snapshot) -> UserStatus {
        UserStatus {
            has_password: user.password.is_some(),
            groups: snapshot.groups_of(name).to_vec(),
            reach: snapshot.reach_of(name),
        }
    }

    fn visible(_: &str, _: &User, rights: &Rights<'_>) -> bool {
        rights.is_administrator()
    }

    fn allow(
        _: Option<&User>,
        _: Option<&User>,
        requester: &Requester,
        draft: &Draft,
    ) -> Result<(), Problem> {
        requester.must_administer(draft.before())
    }
}
