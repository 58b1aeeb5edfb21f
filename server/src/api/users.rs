//! `/v1/users`

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::Authority;
use underpass_directory::{Draft, Role, Snapshot, User};

use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};

pub(crate) struct Users;

/// What a user is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = UserSpec)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Spec {
    /// What clusters know them by beside the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<String>,
    /// Further facts for clusters, by lower-case key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) extra: BTreeMap<String, Vec<String>>,
    /// Their tokens count for nothing, and they cannot log in.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) disabled: bool,
    /// Authenticators whose user of this name is this user, by kind and name: `ldap/corp`. Whoever bears the name at another
    /// one is refused.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub(crate) links: BTreeSet<Authority>,
}

/// How it is with a user.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = UserStatus)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The groups that the directory has them in.
    pub(crate) groups: Vec<String>,
    /// What bindings give them, by role: clusters by name, `*` for all, `key=value` for a label.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub(crate) reach: BTreeMap<Role, BTreeSet<String>>,
    /// They have a password to log in with.
    pub(crate) has_password: bool,
}

impl From<&User> for Spec {
    fn from(user: &User) -> Self {
        Self {
            uid: user.uid.clone(),
            extra: user.extra.clone(),
            disabled: user.disabled,
            links: user.links.clone(),
        }
    }
}

impl Resource for Users {
    type Object = User;
    type Spec = Spec;
    type Status = Status;

    const PATH: &'static str = "users";
    const ABOUT: &'static str = "A user of the directory's own; administrators only";

    fn object(spec: Spec, before: Option<&User>, now: OffsetDateTime) -> User {
        let Spec {
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

    fn status(name: &str, user: &User, _: &State, snapshot: &Snapshot) -> Status {
        Status {
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
