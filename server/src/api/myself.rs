//! `/v1/self`: who the requester is here.

use std::collections::BTreeSet;

use axum::extract::State as From;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::{ClusterName, Scope};
use underpass_directory::{Cluster, Role};

use super::{Requester, State};

/// Who asks.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Myself {
    /// The user's name.
    pub(crate) user: String,
    /// The groups.
    pub(crate) groups: Vec<String>,
    /// Who vouches for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authenticated_by: Option<String>,
    /// When the credential ends.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) expires: Option<OffsetDateTime>,
    /// What the credential may be used for.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub(crate) scope: Scope,
    /// May they change the whole directory?
    pub(crate) administrator: bool,
    /// The clusters that they may reach, and as what.
    pub(crate) clusters: Vec<Reachable>,
}

/// A cluster that somebody may reach.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Reachable {
    /// Its name.
    #[schema(value_type = String)]
    pub(crate) name: ClusterName,
    /// Their roles there.
    #[schema(value_type = Vec<Role>)]
    pub(crate) roles: BTreeSet<Role>,
}

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/self", get(read))
}

async fn read(From(state): From<State>, requester: Requester) -> Json<Myself> {
    let snapshot = state.directory.snapshot();
    let (groups, provenance) = match &requester {
        Requester::Operator => (Vec::new(), None),
        Requester::User { identity, .. } => (identity.groups().to_vec(), identity.provenance()),
    };
    let rights = requester.rights(&snapshot);
    let names = snapshot.all::<Cluster>().keys();
    let clusters = names
        .filter_map(|name| ClusterName::new(name).ok())
        .filter(|name| rights.sees(name))
        .map(|name| Reachable {
            roles: rights.roles(&name),
            name,
        });
    Json(Myself {
        user: requester.name().to_owned(),
        groups,
        authenticated_by: provenance.map(ToString::to_string),
        expires: provenance
            .and_then(underpass_core::Provenance::expires_at)
            .map(OffsetDateTime::from),
        scope: requester.scope(),
        administrator: rights.is_administrator(),
        clusters: clusters.collect(),
    })
}
