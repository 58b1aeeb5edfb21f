//! `/v1/groups`

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::Authority;
use underpass_directory::{Draft, Group, Name, Snapshot};

use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};

pub(crate) struct Groups;

/// What a group is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = GroupSpec)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Spec {
    /// Users of the directory.
    #[schema(value_type = Vec<String>)]
    pub(crate) members: BTreeSet<Name>,
    /// Authenticators whose group of this name is this group, by kind and name: `ldap/corp`. The group of this name of
    /// another one counts for nothing.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub(crate) links: BTreeSet<Authority>,
}

/// There is nothing else to see of a group.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = GroupStatus)]
pub(crate) struct Status {}

impl From<&Group> for Spec {
    fn from(group: &Group) -> Self {
        Self {
            members: group.members.clone(),
            links: group.links.clone(),
        }
    }
}

impl Resource for Groups {
    type Object = Group;
    type Spec = Spec;
    type Status = Status;

    const PATH: &'static str = "groups";
    const ABOUT: &'static str = "A group of the directory's own; administrators only";

    fn object(spec: Spec, before: Option<&Group>, now: OffsetDateTime) -> Group {
        Group {
            created: before.map_or(now, |before| before.created),
            members: spec.members,
            links: spec.links,
        }
    }

    fn created(group: &Group) -> OffsetDateTime {
        group.created
    }

    fn status(_: &str, _: &Group, _: &State, _: &Snapshot) -> Status {
        Status {}
    }

    fn visible(_: &str, _: &Group, rights: &Rights<'_>) -> bool {
        rights.is_administrator()
    }

    fn allow(
        _: Option<&Group>,
        _: Option<&Group>,
        requester: &Requester,
        draft: &Draft,
    ) -> Result<(), Problem> {
        requester.must_administer(draft.before())
    }
}
