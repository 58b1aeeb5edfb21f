//! `/v1/clusters`

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::ClusterName;
use underpass_directory::{Agent, Cluster, Draft, Labels, Snapshot};

use super::direct::{self, CredentialStatus};
use super::problem::Problem;
use super::requester::Rights;
use super::resource::Resource;
use super::{Requester, State};

pub(crate) struct Clusters;

/// What a cluster is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ClusterSpec)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Spec {
    /// What bindings may choose it by.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub(crate) labels: Labels,
    /// Its API server, where this server reaches it itself; only administrators see it. Agents serve it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) direct: Option<direct::Spec>,
}

/// How it is with a cluster.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ClusterStatus)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// `direct` where the server reaches the API server itself, `agent` where agents serve it.
    pub(crate) kind: String,
    /// What a direct cluster is reached with, never the secret; only administrators see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<CredentialStatus>,
    /// Agent tokens that may serve it.
    pub(crate) agents: usize,
    /// Agents that are connected to this server now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connected: Option<usize>,
}

impl From<&Cluster> for Spec {
    fn from(cluster: &Cluster) -> Self {
        Self {
            labels: cluster.labels.clone(),
            direct: cluster.direct.as_ref().map(direct::Spec::from),
        }
    }
}

impl Resource for Clusters {
    type Object = Cluster;
    type Spec = Spec;
    type Status = Status;

    const PATH: &'static str = "clusters";
    const ABOUT: &'static str = "A cluster. Who may reach one sees it; administrators change them";

    fn object(spec: Spec, before: Option<&Cluster>, now: OffsetDateTime) -> Cluster {
        Cluster {
            created: before.map_or(now, |before| before.created),
            labels: spec.labels,
            direct: None,
        }
    }

    fn complete(
        cluster: Cluster,
        spec: Spec,
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

    fn redact(spec: &mut Spec, status: &mut Status, rights: &Rights<'_>) {
        if !rights.is_administrator() {
            spec.direct = None;
            status.credential = None;
        }
    }

    fn created(cluster: &Cluster) -> OffsetDateTime {
        cluster.created
    }

    fn status(name: &str, cluster: &Cluster, state: &State, snapshot: &Snapshot) -> Status {
        let direct = cluster.direct.as_ref();
        let agents = snapshot.all::<Agent>().values();
        let connected = ClusterName::new(name)
            .ok()
            .filter(|_| direct.is_none())
            .and_then(|name| (state.sessions)(&name));
        let kind = if direct.is_some() { "direct" } else { "agent" };
        Status {
            kind: kind.to_owned(),
            credential: direct.map(|direct| (&direct.credential).into()),
            agents: agents
                .filter(|agent| agent.object.cluster.as_str() == name)
                .count(),
            connected,
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
