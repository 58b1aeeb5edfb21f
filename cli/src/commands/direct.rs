//! `underpass cluster add --kubeconfig`, and the state of such a cluster.

use std::path::Path;

use anyhow::{Context, Result};
use http::StatusCode;
use serde_json::json;
use underpass_api::client::{ClientError, Match};
use underpass_api::{Client, ClusterSpec, ClusterStatus, DirectSpec, Reachability, View, segment};
use underpass_core::{ClusterName, ClusterPolicy};
use underpass_terminal::say;

use super::cluster::label;
use crate::args::DirectPolicy;
use crate::kubeconfig::read_kubeconfig;

/// Such a cluster's kind in the API.
pub(super) const KIND: &str = "direct";

/// Reads the endpoint and credential from a kubeconfig; the policy is the command line's.
pub(super) fn read(
    kubeconfig: &Path,
    context: Option<&str>,
    policy: DirectPolicy,
) -> Result<DirectSpec> {
    let imported = read_kubeconfig(kubeconfig, context);
    let imported = imported.with_context(|| kubeconfig.display().to_string())?;
    Ok(DirectSpec {
        policy: ClusterPolicy {
            allow_service_accounts: policy.allow_service_accounts.into_iter().collect(),
            deny_users: policy.deny_users.into_iter().collect(),
            deny_groups: policy.deny_groups.into_iter().collect(),
        },
        ..imported
    })
}

/// Adds the cluster, or gives it another endpoint and credential.
pub(super) async fn add(
    client: &Client,
    name: &ClusterName,
    labels: &[String],
    spec: DirectSpec,
) -> Result<()> {
    let server = spec.server.clone();
    let path = format!("/v1/clusters/{}", segment(name.as_str()));
    let there: Result<View<ClusterSpec, ClusterStatus>, _> = client.get(&path).await;
    match there {
        // Another kind of cluster is refused by the directory.
        Ok(_) => {
            // Every field of the endpoint, since a merge would keep the old CA. The policy is merged.
            let direct = json!({
                "server": spec.server,
                "certificateAuthority": spec.certificate_authority,
                "tlsServerName": spec.tls_server_name,
                "policy": spec.policy,
                "credential": spec.credential,
            });
            let change = json!({ "direct": direct });
            let _: View<ClusterSpec, ClusterStatus> =
                client.patch(&path, &change, Match::Anything).await?;
        }
        Err(error) if error.is(StatusCode::NOT_FOUND) => {
            let spec = ClusterSpec {
                direct: Some(spec),
                ..ClusterSpec::default()
            };
            let new = json!({ "name": name, "spec": spec });
            let _: View<ClusterSpec, ClusterStatus> = client.post("/v1/clusters", &new).await?;
        }
        Err(error) => return Err(error.into()),
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
        Err(error) => say!(
            "Its API server is not checked: {:#}.",
            anyhow::Error::from(error)
        ),
    }
    say!("`underpass-agent rbac` prints the rights that the account needs there.");
    Ok(())
}

/// Can the cluster be reached? In a few words; `None` where the server does not tell.
pub(super) async fn reachability(client: &Client, name: &str) -> Option<String> {
    let checked = check(client, name).await.ok()?;
    Some(match (checked.version, checked.detail) {
        (Some(version), _) => format!("yes ({version})"),
        (None, Some(detail)) => format!("no: {detail}"),
        (None, None) => "no".to_owned(),
    })
}

async fn check(client: &Client, name: &str) -> Result<Reachability, ClientError> {
    let path = format!("/v1/clusters/{}/reachability", segment(name));
    client.get(&path).await
}
