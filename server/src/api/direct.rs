//! A cluster's direct endpoint, whose credential goes in and never comes out.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::{Path, State as From};
use axum::routing::get;
use axum::{Json, Router};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use underpass_core::ClusterName;
use underpass_core::Exec;
use underpass_direct::{DirectClusters, Imported};
use underpass_directory::{
    Credential, CredentialError, Direct, Endpoint, EndpointError, Policy, SealedCredential,
};
use underpass_tunnel::chain;
use zeroize::Zeroizing;

use super::problem::Problem;
use super::{Requester, State};

/// An API server that the server reaches itself.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DirectSpec)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Spec {
    /// Its URL: `https://HOST[:PORT][/PATH]`.
    pub(crate) server: String,
    /// The CA of its certificate, as PEM; what the system trusts without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_authority: Option<String>,
    /// The name in its certificate, where it is not the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_server_name: Option<String>,
    /// Whom nobody becomes there.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub(crate) policy: Policy,
    /// What to prove to it who we are with. It is never shown; left out, the one from before stays, if it is for the
    /// same server, CA and name.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "quietly"
    )]
    #[schema(write_only)]
    pub(crate) credential: Option<CredentialSpec>,
}

/// One of these.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum CredentialSpec {
    /// A bearer token.
    #[schema(value_type = String)]
    Token(Secret),
    /// A client certificate, and its key, as PEM.
    ClientCertificate {
        /// The certificate, and those between it and its CA.
        certificate: String,
        /// Its private key.
        #[schema(value_type = String)]
        key: Secret,
    },
    /// A program that prints an `ExecCredential`: one of those that the server was started with
    /// (`--allow-exec-plugin`).
    Exec {
        /// Its path.
        command: String,
        /// Its arguments.
        #[serde(default)]
        #[schema(value_type = Vec<String>)]
        args: Vec<Secret>,
        /// Its environment, beside `PATH` and `HOME`.
        #[serde(default)]
        #[schema(value_type = BTreeMap<String, String>)]
        env: BTreeMap<String, Secret>,
    },
}

/// A text that shows nothing of itself, and is cleared when it is no longer needed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// serde's errors quote what they do not understand, which may be a secret.
fn quietly<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CredentialSpec>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(from)?;
    value
        .map(serde_json::from_value)
        .transpose()
        .map_err(|_| {
            D::Error::custom(
                "a credential is {\"token\": …}, {\"clientCertificate\": {\"certificate\": …, \"key\": …}} or \
                 {\"exec\": {\"command\": …, \"args\": […], \"env\": {…}}}",
            )
        })
}

/// What can be seen of a credential.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CredentialStatus {
    /// `token`, `clientCertificate` or `exec`.
    pub(crate) kind: String,
    /// When a client certificate expires.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) expires: Option<OffsetDateTime>,
}

impl std::convert::From<&SealedCredential> for CredentialStatus {
    fn from(credential: &SealedCredential) -> Self {
        Self {
            kind: credential.kind().to_owned(),
            expires: credential.expires(),
        }
    }
}

impl std::convert::From<&Direct> for Spec {
    fn from(direct: &Direct) -> Self {
        let endpoint = &direct.endpoint;
        Self {
            server: endpoint.server().to_owned(),
            certificate_authority: endpoint.certificate_authority().map(str::to_owned),
            tls_server_name: endpoint.tls_server_name().map(str::to_owned),
            policy: direct.policy.clone(),
            credential: None,
        }
    }
}

impl std::convert::From<Imported> for Spec {
    fn from(imported: Imported) -> Self {
        let credential = match imported.credential {
            Credential::Token(token) => Some(CredentialSpec::Token(Secret(token))),
            Credential::ClientCertificate { certificate, key } => {
                Some(CredentialSpec::ClientCertificate {
                    certificate,
                    key: Secret(key),
                })
            }
            Credential::Exec(exec) => Some(CredentialSpec::Exec {
                command: exec.command,
                args: exec.args.into_iter().map(Secret).collect(),
                env: exec
                    .env
                    .into_iter()
                    .map(|(name, value)| (name, Secret(value)))
                    .collect(),
            }),
        };
        let endpoint = &imported.endpoint;
        Self {
            server: endpoint.server().to_owned(),
            certificate_authority: endpoint.certificate_authority().map(str::to_owned),
            tls_server_name: endpoint.tls_server_name().map(str::to_owned),
            policy: Policy::default(),
            credential,
        }
    }
}

impl std::convert::From<CredentialSpec> for Credential {
    fn from(spec: CredentialSpec) -> Self {
        match spec {
            CredentialSpec::Token(token) => Self::Token(token.0),
            CredentialSpec::ClientCertificate { certificate, key } => Self::ClientCertificate {
                certificate,
                key: key.0,
            },
            CredentialSpec::Exec { command, args, env } => Self::Exec(Exec {
                command,
                args: args.into_iter().map(|arg| arg.0).collect(),
                env: env
                    .into_iter()
                    .map(|(name, value)| (name, value.0))
                    .collect(),
            }),
        }
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

/// What the directory keeps of `spec`: with its credential, or with that of `before`.
pub(super) fn seal(
    spec: Spec,
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
    let credential = Credential::from(credential);
    credential.check()?;
    if let Credential::Exec(exec) = &credential {
        let allowed = clusters.plugins().may_be_set(exec);
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
        // Or whoever may change a cluster could have its credential sent to a server of theirs.
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

/// Whether a cluster's API server is there for us.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reachability {
    /// It answers, and accepts the credential.
    pub(crate) reachable: bool,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

pub(super) fn routes() -> Router<State> {
    Router::new().route("/v1/clusters/{name}/reachability", get(check))
}

async fn check(
    From(state): From<State>,
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
