//! The cluster that the agent serves.

use std::sync::Arc;

use anyhow::{Context, Result};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use underpass_proxy::ImpersonationPolicy;
use underpass_proxy::upstream::{ApiServer, ApiServerOptions};

use crate::cli::Cli;

/// The API server, from the kubeconfig or from the pod's own credentials.
pub(crate) async fn api_server(cli: &Cli) -> Result<Arc<ApiServer>> {
    let config = match &cli.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot use kubeconfig {}", path.display()))?;
            let options = KubeConfigOptions {
                context: cli.context.clone(),
                ..KubeConfigOptions::default()
            };
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .with_context(|| format!("cannot use kubeconfig {}", path.display()))?
        }
        None => Config::incluster()
            .context("not running in a pod with a ServiceAccount: give --kubeconfig")?,
    };
    let policy = cli.service_accounts.iter().fold(
        ImpersonationPolicy::default(),
        ImpersonationPolicy::allow_service_accounts,
    );
    let api_server = ApiServer::new(
        config,
        ApiServerOptions {
            policy,
            insecure: false,
        },
    )
    .await?;
    // An API server that is away now may be back when the first request comes.
    match api_server.check().await {
        Ok(version) => tracing::info!(%version, "the API server answers"),
        Err(error) => {
            tracing::warn!(
                "the API server does not answer: {}",
                underpass_tunnel::chain(&error)
            );
        }
    }
    Ok(Arc::new(api_server))
}
