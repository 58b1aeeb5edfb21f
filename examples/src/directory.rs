//! The content of a directory.

use anyhow::Result;
use underpass_core::{ClusterName, Role, Selector, Subject};
use underpass_directory::{Agent, Binding, Cluster, Draft, Expect};

/// Writes a cluster, its agent's key, and a group that may read it.
///
/// # Errors
/// One of them is there already.
pub fn fill(draft: &mut Draft, edge: &ClusterName, key: &str) -> Result<()> {
    let created = draft.now();
    let cluster = Cluster::new(created);
    draft.put("edge", cluster, Expect::Absent)?;
    let agent = Agent::new(created, edge.clone(), key.to_owned());
    draft.put("agent", agent, Expect::Absent)?;
    let readers = Binding {
        created,
        subjects: [Subject::group("readers".parse()?)].into(),
        clusters: Selector {
            names: [edge.clone()].into(),
            ..Selector::default()
        },
        role: Role::View,
    };
    Ok(draft.put("readers", readers, Expect::Absent)?)
}
