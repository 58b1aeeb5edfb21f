//! `underpass-server cluster add --kubeconfig`, and how such a cluster is.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use underpass_core::ClusterName;
use underpass_direct::{Imported, read_kubeconfig};
use underpass_directory::{ClusterPolicy, Credential};

use super::cluster::label;
use crate::cli::DirectPolicy;
use crate::client::Client;
use underpass_api::{
    ClusterSpec, ClusterStatus, CredentialSpec, DirectSpec, Problem, Reachability, Secret, View,
    segment,
};
use underpass_terminal::say;

/// What the API calls it.
pub(super) const KIND: &str = "direct";

/// What a kubeconfig and the command line say of a cluster.
pub(super) fn read(
    kubeconfig: &Path,
    context: Option<&str>,
    policy: DirectPolicy,
) -> Result<DirectSpec> {
    let imported = read_kubeconfig(kubeconfig, context);
    let imported = imported.with_context(|| kubeconfig.display().to_string())?;
    let policy = ClusterPolicy {
        allow_service_accounts: policy.allow_service_accounts.into_iter().collect(),
        deny_users: policy.deny_users.into_iter().collect(),
        deny_groups: policy.deny_groups.into_iter().collect(),
    };
    Ok(DirectSpec {
        policy,
        ..spec(imported)
    })
}

fn spec(imported: Imported) -> DirectSpec {
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
    DirectSpec {
        server: endpoint.server().to_owned(),
        certificate_authority: endpoint.certificate_authority().map(str::to_owned),
        tls_server_name: endpoint.tls_server_name().map(str::to_owned),
        policy: ClusterPolicy::default(),
        credential,
    }
}

/// Makes the cluster, or gives it another endpoint and credential.
pub(super) async fn add(
    client: &Client,
    name: &ClusterName,
    labels: &[String],
    spec: DirectSpec,
) -> Result<()> {
    let server = spec.server.clone();
    let path = format!("/v1/clusters/{}", segment(name.as_str()));
    let there: Result<View<ClusterSpec, ClusterStatus>> = client.get(&path).await;
    match there {
        // Another kind of cluster is refused by the directory.
        Ok(_) => {
            // Nothing of the old endpoint is to be left: a merge would keep its CA. It keeps what is not said of the
            // policy.
            let direct = json!({
                "server": spec.server,
                "certificateAuthority": spec.certificate_authority,
                "tlsServerName": spec.tls_server_name,
                "policy": spec.policy,
                "credential": spec.credential,
            });
            let change = json!({ "direct": direct });
            let _: View<ClusterSpec, ClusterStatus> = client.patch(&path, &change).await?;
        }
        Err(error) if is_missing(&error) => {
            let spec = ClusterSpec {
                direct: Some(spec),
                ..ClusterSpec::default()
            };
            let new = json!({ "name": name, "spec": spec });
            let _: View<ClusterSpec, ClusterStatus> = client.post("/v1/clusters", &new).await?;
        }
        Err(error) => return Err(error),
    }
    if !labels.is_empty() {
        label(client, name.as_str(), labels).await?;
    }
    say!("Cluster {name} is reached at {server}; the credential is stored encrypted.");
    match check(client, name.as_str()).await {
        Ok(Reachability {
            version: Some(version),
            ..
        }) => say!("Its API server answers, and is {version}."),
        Ok(Reachability { detail, .. }) => say!(
            "Its API server cannot be used yet: {}.",
            detail.unwrap_or_default()
        ),
        Err(error) => say!("Whether its API server can be used is not known: {error:#}."),
    }
    say!("What the account needs there, `underpass-agent rbac` prints.");
    Ok(())
}

/// Whether the cluster can be reached, in a few words; none where that is not known.
pub(super) async fn reachability(client: &Client, name: &str) -> Option<String> {
    let checked = check(client, name).await.ok()?;
    Some(match (checked.version, checked.detail) {
        (Some(version), _) => format!("yes ({version})"),
        (None, Some(detail)) => format!("no: {detail}"),
        (None, None) => "no".to_owned(),
    })
}

async fn check(client: &Client, name: &str) -> Result<Reachability> {
    let path = format!("/v1/clusters/{}/reachability", segment(name));
    client.get(&path).await
}

fn is_missing(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Problem>();
    problem.is_some_and(|problem| problem.status == http::StatusCode::NOT_FOUND.as_u16())
}
