//! `/v1/bindings`

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_proxy::directory::{Binding, Draft, Role, Selector, Snapshot, Subject};

use super::problem::Problem;
use super::resource::Resource;
use super::{Requester, State};

pub(crate) struct Bindings;

/// Who may reach which clusters, and as what.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BindingSpec)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Spec {
    /// Users and groups, of the directory or of identity providers.
    #[schema(value_type = Vec<Subject>)]
    pub(crate) subjects: BTreeSet<Subject>,
    /// The clusters.
    pub(crate) clusters: Selector,
    /// What the subjects may do there.
    pub(crate) role: Role,
}

/// There is nothing else to see of a binding.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BindingStatus)]
pub(crate) struct Status {}

impl From<&Binding> for Spec {
    fn from(binding: &Binding) -> Self {
        Self {
            subjects: binding.subjects.clone(),
            clusters: binding.clusters.clone(),
            role: binding.role,
        }
    }
}

/// Is the binding about nothing but clusters that the requester administers?
fn is_within(binding: &Binding, requester: &Requester, snapshot: &Snapshot) -> bool {
    let Selector { all, names, labels } = &binding.clusters;
    let mut names = names.iter();
    !*all && labels.is_empty() && names.all(|name| requester.administers(snapshot, name))
}

impl Resource for Bindings {
    type Object = Binding;
    type Spec = Spec;
    type Status = Status;

    const PATH: &'static str = "bindings";
    const ABOUT: &'static str = "Who may reach which clusters. Who is admin of clusters sees and changes the bindings \
                                 that name these clusters and no other; administrators all";

    fn object(spec: Spec, before: Option<&Binding>, now: OffsetDateTime) -> Binding {
        Binding {
            created: before.map_or(now, |before| before.created),
            subjects: spec.subjects,
            clusters: spec.clusters,
            role: spec.role,
        }
    }

    fn created(binding: &Binding) -> OffsetDateTime {
        binding.created
    }

    fn status(_: &str, _: &Binding, _: &State, _: &Snapshot) -> Status {
        Status {}
    }

    fn visible(_: &str, binding: &Binding, requester: &Requester, snapshot: &Snapshot) -> bool {
        requester.is_administrator(snapshot) || is_within(binding, requester, snapshot)
    }

    fn allow(
        before: Option<&Binding>,
        after: Option<&Binding>,
        requester: &Requester,
        draft: &Draft,
    ) -> Result<(), Problem> {
        let snapshot = draft.before();
        let mut both = [before, after].into_iter().flatten().peekable();
        // What is not there is nobody's.
        let some = both.peek().is_some();
        if some && both.all(|binding| is_within(binding, requester, snapshot)) {
            return Ok(());
        }
        requester.must_administer(snapshot)
    }
}
