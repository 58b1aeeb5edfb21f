//! A cluster's direct endpoint, whose credential goes in and never comes out.

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use underpass_api::{CredentialSpec, CredentialStatus, DirectSpec, Reachability};
use underpass_core::ClusterName;
use underpass_core::Exec;
use underpass_direct::DirectClusters;
use underpass_directory::{
    Credential, CredentialError, Direct, Endpoint, EndpointError, SealedCredential,
};
use underpass_tunnel::chain;

use super::problem::Problem;
use super::{Requester, State};

/// The visible part of a credential.
pub(super) fn credential(sealed: &SealedCredential) -> CredentialStatus {
    CredentialStatus {
        kind: sealed.kind().to_owned(),
        expires: sealed.expires(),
    }
}

/// The visible part of a direct cluster.
pub(super) fn spec(direct: &Direct) -> DirectSpec {
    let endpoint = &direct.endpoint;
    DirectSpec {
        server: endpoint.server().to_owned(),
        certificate_authority: endpoint.certificate_authority().map(str::to_owned),
        tls_server_name: endpoint.tls_server_name().map(str::to_owned),
        policy: direct.policy.clone(),
        credential: None,
    }
}

fn opened(spec: CredentialSpec) -> Credential {
    match spec {
        CredentialSpec::Token(token) => Credential::Token(token.0),
        CredentialSpec::ClientCertificate { certificate, key } => Credential::ClientCertificate {
            certificate,
            key: key.0,
        },
        CredentialSpec::Exec { command, args, env } => Credential::Exec(Exec {
            command,
            args: args.into_iter().map(|arg| arg.0).collect(),
            env: env
                .into_iter()
                .map(|(name, value)| (name, value.0))
                .collect(),
        }),
    }
}

impl std::convert::From<EndpointError> for Problem {
    fn from(error: EndpointError) -> Self {
        Self::invalid(chain(&error))
    }
}

impl std::convert::From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// The stored form of `spec`: with its credential, or with that of `before`.
pub(super) fn seal(
    spec: DirectSpec,
    name: &str,
    before: Option<&Direct>,
    clusters: &DirectClusters,
) -> Result<Direct, Problem> {
    let cluster = ClusterName::new(name).map_err(|error| Problem::invalid(error.to_string()))?;
    let endpoint = Endpoint::new(
        spec.server,
        spec.certificate_authority,
        spec.tls_server_name,
    )?;
    let policy = spec.policy;
    let Some(credential) = spec.credential else {
        let kept = keep(&cluster, &endpoint, before, clusters)?;
        return Ok(Direct { policy, ..kept });
    };
    let credential = opened(credential);
    credential.check()?;
    if let Credential::Exec(exec) = &credential {
        let allowed = clusters.plugins().check(exec);
        allowed.map_err(|error| Problem::invalid(error.to_string()))?;
    }
    let sealed = credential.seal(&cluster, &endpoint, clusters.keys());
    let credential = sealed.map_err(|error| {
        tracing::error!(%cluster, "not sealed: {}", chain(&error));
        let status = http::StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, "the credential cannot be encrypted")
    })?;
    Ok(Direct {
        endpoint,
        credential,
        policy,
    })
}

fn keep(
    cluster: &ClusterName,
    endpoint: &Endpoint,
    before: Option<&Direct>,
    clusters: &DirectClusters,
) -> Result<Direct, Problem> {
    let before = before.ok_or_else(|| Problem::invalid("a direct cluster needs a credential"))?;
    if before.endpoint != *endpoint {
        // Otherwise an administrator could have the credential sent to a server of theirs.
        return Err(Problem::invalid(
            "another server, CA or TLS server name needs the credential again: the one from before is only for those \
             that it came with",
        ));
    }
    match before.renewed(cluster, clusters.keys()) {
        Ok(renewed) => Ok(renewed.unwrap_or_else(|| before.clone())),
        Err(error) => {
            // It stays as it is; something else about the cluster may change.
            tracing::warn!(%cluster, "not encrypted anew: {}", chain(&error));
            Ok(before.clone())
        }
    }
}

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/clusters/{name}/reachability", get(check))
}

async fn check(
    state: State,
    requester: Requester,
    Path(name): Path<String>,
) -> Result<Json<Reachability>, Problem> {
    // It says where the API server is, and what is wrong there.
    requester.must_administer(&state.directory.snapshot())?;
    let absent = || Problem::not_found("cluster", &name);
    let cluster = ClusterName::new(&name).map_err(|_| absent())?;
    let checked = state.direct.check(&state.directory, &cluster).await;
    let checked = match checked {
        Some(checked) => checked,
        None if state.directory.snapshot().has_cluster(&cluster) => {
            return Err(Problem::invalid(
                "the cluster is served by agents; its status says how many are connected",
            ));
        }
        None => return Err(absent()),
    };
    Ok(Json(match checked {
        Ok(version) => Reachability {
            reachable: true,
            version: Some(version),
            detail: None,
        },
        Err(error) => {
            tracing::warn!(%cluster, "not reachable: {}", chain(&error));
            Reachability {
                reachable: false,
                version: None,
                detail: Some(chain(&error)),
            }
        }
    }))
}
