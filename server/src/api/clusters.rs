//! `/v1/clusters`

use time::OffsetDateTime;
use underpass_api::{ClusterSpec, ClusterStatus, ServingAgent};
use underpass_core::{ClusterName, Through};
use underpass_directory::{Agent, Cluster, Draft, Registration, Snapshot};

use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};
use super::{direct, registration};
use crate::limits;

pub(crate) struct Clusters;

fn serving(through: Through) -> ServingAgent {
    let Through {
        role,
        agent,
        by_credential,
    } = through;
    ServingAgent {
        agent,
        role,
        by_credential,
    }
}

impl Resource for Clusters {
    type Object = Cluster;
    type Spec = ClusterSpec;
    type Status = ClusterStatus;

    const PATH: &'static str = "clusters";
    const ABOUT: &'static str = "A cluster. Who may reach one sees it; administrators change them";

    fn spec(cluster: &Cluster) -> ClusterSpec {
        ClusterSpec {
            labels: cluster.labels.clone(),
            direct: cluster.direct.as_ref().map(direct::spec),
            nodes_may_stand_in: cluster.nodes_may_stand_in,
            join_accounts: cluster.join_accounts.clone(),
            registrations: cluster.registrations.clone(),
        }
    }

    fn object(spec: ClusterSpec, before: Option<&Cluster>, now: OffsetDateTime) -> Cluster {
        Cluster {
            created: before.map_or(now, |before| before.created),
            // The directory sets it.
            creation: None,
            labels: spec.labels,
            direct: None,
            nodes_may_stand_in: spec.nodes_may_stand_in,
            join_accounts: spec.join_accounts,
            registrations: spec.registrations,
        }
    }

    fn complete(
        cluster: Cluster,
        spec: ClusterSpec,
        name: &str,
        before: Option<&Cluster>,
        state: &State,
    ) -> Result<Cluster, Problem> {
        let before = before.and_then(|before| before.direct.as_ref());
        let direct = spec
            .direct
            .map(|spec| direct::seal(spec, name, before, &state.direct));
        Ok(Cluster {
            direct: direct.transpose()?,
            ..cluster
        })
    }

    fn redact(spec: &mut ClusterSpec, status: &mut ClusterStatus, rights: &Rights<'_>) {
        if !rights.is_administrator() {
            spec.direct = None;
            status.credential = None;
            spec.join_accounts.clear();
            spec.registrations = None;
            status.served_by.clear();
            status.registration = None;
        }
    }

    fn created(cluster: &Cluster) -> OffsetDateTime {
        cluster.created
    }

    fn status(name: &str, cluster: &Cluster, state: &State, snapshot: &Snapshot) -> ClusterStatus {
        let direct = cluster.direct.as_ref();
        let agents = snapshot.all::<Agent>().values();
        let by_agents = ClusterName::new(name).ok().filter(|_| direct.is_none());
        let connected = by_agents.as_ref().map(|name| state.sessions.serving(name));
        let served_by = by_agents
            .map(|name| state.sessions.served_by(&name))
            .unwrap_or_default();
        let kind = if direct.is_some() { "direct" } else { "agent" };
        ClusterStatus {
            kind: kind.to_owned(),
            credential: direct.map(|direct| direct::credential(&direct.credential)),
            agents: agents
                .filter(|agent| agent.object.cluster.as_str() == name)
                .count(),
            connected,
            served_by: served_by
                .into_iter()
                .take(limits::SERVING_SHOWN)
                .map(serving)
                .collect(),
            registration: snapshot
                .get::<Registration>(name)
                .map(|entry| registration::status(&entry.object)),
        }
    }

    fn visible(name: &str, _: &Cluster, rights: &Rights<'_>) -> bool {
        rights.is_administrator() || ClusterName::new(name).is_ok_and(|name| rights.sees(&name))
    }

    fn allow(
        _: Option<&Cluster>,
        _: Option<&Cluster>,
        requester: &Requester,
        draft: &Draft,
    ) -> Result<(), Problem> {
        // Labels decide who may reach it: they are not its own administrators' to change.
        requester.must_administer(draft.before())
    }
}
