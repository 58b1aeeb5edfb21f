//! `/v1/groups`

use time::OffsetDateTime;
use underpass_api::{GroupSpec, GroupStatus};
use underpass_directory::{Draft, Group, Snapshot};

use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};

pub(crate) struct Groups;

impl Resource for Groups {
    type Object = Group;
    type Spec = GroupSpec;
    type Status = GroupStatus;

    const PATH: &'static str = "groups";
    const ABOUT: &'static str = "A group of the directory's own; administrators only";

    fn spec(group: &Group) -> GroupSpec {
        GroupSpec {
            members: group.members.clone(),
            links: group.links.clone(),
        }
    }

    fn object(spec: GroupSpec, before: Option<&Group>, now: OffsetDateTime) -> Group {
        Group {
            created: before.map_or(now, |before| before.created),
            members: spec.members,
            links: spec.links,
        }
    }

    fn created(group: &Group) -> OffsetDateTime {
        group.created
    }

    fn status(_: &str, _: &Group, _: &State, _: &Snapshot) -> GroupStatus {
        GroupStatus {}
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
