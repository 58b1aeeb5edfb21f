//! `/v1/self`: the requester and their rights.

use axum::routing::get;
use axum::{Json, Router};
use underpass_api::{Myself, Reachable};
use underpass_core::ClusterName;
use underpass_directory::Cluster;

use super::{Requester, State, calendar};

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/self", get(read))
}

async fn read(state: State, requester: Requester) -> Json<Myself> {
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
            .map(calendar::date),
        scope: requester.scope(),
        administrator: rights.is_administrator(),
        clusters: clusters.collect(),
    })
}
