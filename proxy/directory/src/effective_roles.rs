//! A subject's roles by cluster, looked up once for many questions.

use std::collections::BTreeSet;

use underpass_core::ClusterName;

use super::{Binding, Cluster, Named, Role, Snapshot};

/// The bindings that name a subject or one of their groups, in one state of the directory. To find them costs a look-up for
/// each group; to ask of a cluster costs a look at each binding.
#[derive(Debug)]
pub struct EffectiveRoles<'a> {
    snapshot: &'a Snapshot,
    bindings: Vec<&'a Binding>,
}

impl Snapshot {
    /// The subject's roles by cluster.
    pub fn effective_roles<'a>(&'a self, named: Named<'a>) -> EffectiveRoles<'a> {
        EffectiveRoles {
            snapshot: self,
            bindings: self.bindings_of(named).map(|(_, _, found)| found).collect(),
        }
    }
}

impl EffectiveRoles<'_> {
    /// The roles in a cluster.
    pub fn roles(&self, cluster: &ClusterName) -> BTreeSet<Role> {
        self.of(cluster).map(|binding| binding.role).collect()
    }

    /// Any role there?
    pub fn includes(&self, cluster: &ClusterName) -> bool {
        self.of(cluster).next().is_some()
    }

    /// That role there?
    pub fn has(&self, role: Role, cluster: &ClusterName) -> bool {
        self.of(cluster).any(|binding| binding.role == role)
    }

    /// The clusters that there are where they have the role.
    pub fn clusters(&self, role: Role) -> impl Iterator<Item = ClusterName> {
        let any = self.bindings.iter().any(|binding| binding.role == role);
        let all = any.then(|| self.snapshot.all::<Cluster>().keys());
        let names = all.into_iter().flatten();
        names
            .filter_map(|name| ClusterName::new(name).ok())
            .filter(move |name| self.has(role, name))
    }

    /// May they change the whole directory? Who is `admin` of all clusters may.
    pub fn is_administrator(&self) -> bool {
        let mut bindings = self.bindings.iter();
        bindings.any(|binding| binding.clusters.all && binding.role == Role::Admin)
    }

    fn of(&self, cluster: &ClusterName) -> impl Iterator<Item = &Binding> {
        let labels = self.snapshot.labels(cluster);
        let bindings = self.bindings.iter().copied();
        bindings.filter(move |binding| binding.clusters.selects(cluster, labels))
    }
}
