//! `/v1/bindings`

use http::StatusCode;
use time::OffsetDateTime;
use underpass_api::{BindingSpec, BindingStatus};
use underpass_directory::{Binding, Draft, Selector, Snapshot};

use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};
use crate::limits;

pub(crate) struct Bindings;

/// Is the binding about nothing but clusters that the requester administers?
fn is_within(binding: &Binding, rights: &Rights<'_>) -> bool {
    let Selector { all, names, labels } = &binding.clusters;
    let mut names = names.iter();
    !*all && labels.is_empty() && names.all(|name| rights.administers(name))
}

/// Is there room for what the administrators of a few clusters make? Each cluster has a share, and all of them together
/// leave room for those who administer everything (security rule 22).
fn must_fit(before: Option<&Binding>, after: &Binding, draft: &Draft) -> Result<(), Problem> {
    let bindings = draft.all::<Binding>();
    if before.is_none() && bindings.len() >= limits::BINDINGS_OF_CLUSTERS {
        return Err(full(format!(
            "the directory has {} bindings, and only administrators of all clusters may add more",
            bindings.len()
        )));
    }
    let subjects = after.subjects.len();
    let less = before.map_or(0, |before| before.subjects.len());
    for cluster in &after.clusters.names {
        let named = bindings.values().map(|entry| &*entry.object);
        let named = named.filter(|binding| binding.clusters.names.contains(cluster));
        let (count, so_far) = named.fold((0_usize, 0_usize), |(count, subjects), binding| {
            (count + 1, subjects + binding.subjects.len())
        });
        let is_new = before.is_none_or(|before| !before.clusters.names.contains(cluster));
        let so_far = if is_new {
            so_far
        } else {
            so_far.saturating_sub(less)
        };
        if is_new && count >= limits::BINDINGS_PER_CLUSTER {
            return Err(full(format!(
                "{count} bindings name the cluster {cluster}, and its administrators may have no more: remove some, name \
                 several users in one binding, or name groups"
            )));
        }
        let shrinks = !is_new && subjects <= less;
        if !shrinks && so_far + subjects > limits::SUBJECTS_PER_CLUSTER {
            return Err(full(format!(
                "bindings that name the cluster {cluster} would have {} subjects, and its administrators may name {}: \
                 name groups instead of their users",
                so_far + subjects,
                limits::SUBJECTS_PER_CLUSTER
            )));
        }
    }
    Ok(())
}

fn full(detail: String) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
}

impl Resource for Bindings {
    type Object = Binding;
    type Spec = BindingSpec;
    type Status = BindingStatus;

    const PATH: &'static str = "bindings";
    const ABOUT: &'static str = "Who may reach which clusters. Who is admin of clusters sees and changes the bindings \
                                 that name these clusters and no other; administrators all";

    fn spec(binding: &Binding) -> BindingSpec {
        BindingSpec {
            subjects: binding.subjects.clone(),
            clusters: binding.clusters.clone(),
            role: binding.role,
        }
    }

    fn object(spec: BindingSpec, before: Option<&Binding>, now: OffsetDateTime) -> Binding {
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

    fn status(_: &str, _: &Binding, _: &State, _: &Snapshot) -> BindingStatus {
        BindingStatus {}
    }

    fn visible(_: &str, binding: &Binding, rights: &Rights<'_>) -> bool {
        rights.is_administrator() || is_within(binding, rights)
    }

    fn may_change(requester: &Requester, snapshot: &Snapshot) -> Result<(), Problem> {
        if requester.rights(snapshot).administers_some() {
            return Ok(());
        }
        requester.must_administer(snapshot)
    }

    fn allow(
        before: Option<&Binding>,
        after: Option<&Binding>,
        requester: &Requester,
        draft: &Draft,
    ) -> Result<(), Problem> {
        let rights = requester.rights(draft.before());
        let mut both = [before, after].into_iter().flatten().peekable();
        // An absent binding is within nobody's rights.
        let some = both.peek().is_some();
        if some && both.all(|binding| is_within(binding, &rights)) {
            return match after {
                Some(after) if !rights.is_administrator() => must_fit(before, after, draft),
                _ => Ok(()),
            };
        }
        requester.must_administer(draft.before())
    }
}
