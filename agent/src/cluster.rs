//! The cluster that the agent serves.

use std::sync::Arc;

use anyhow::{Context, Result};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use underpass_core::ImpersonationPolicy;
use underpass_upstream::{ApiServer, ApiServerOptions};

use crate::cli::Cli;

/// The API server, from the kubeconfig or from the pod's own credentials.
pub(crate) async fn api_server(cli: &Cli) -> Result<Arc<ApiServer>> {
    let config = match &cli.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot use kubeconfig {}", path.display()))?;
            load(kubeconfig, cli.context.clone())
                .await
                .with_context(|| format!("cannot use kubeconfig {}", path.display()))?
        }
        None => Config::incluster()
            .context("not running in a pod with a ServiceAccount: give --kubeconfig")?,
    };
    let policy = policy(cli);
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

/// Rule 17: the identities that the server cannot have impersonated here.
fn policy(cli: &Cli) -> ImpersonationPolicy {
    let policy = ImpersonationPolicy::default();
    let accounts = cli.service_accounts.iter();
    let policy = accounts.fold(policy, ImpersonationPolicy::allow_service_accounts);
    let users = cli.denied_users.iter();
    let policy = users.fold(policy, ImpersonationPolicy::deny_user);
    let groups = cli.denied_groups.iter();
    groups.fold(policy, ImpersonationPolicy::deny_group)
}

/// Stands in the place of a proxy's URL where a kubeconfig has none.
const NO_PROXY: &str = "http://no-proxy.invalid/";

/// The kubeconfig's settings, and no others: where it names no proxy, kube would take the environment's,
/// which is the way to the Underpass server. The API server is on this side of it.
async fn load(mut kubeconfig: Kubeconfig, context: Option<String>) -> Result<Config> {
    let clusters = kubeconfig.clusters.iter_mut();
    for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
        let proxy = cluster.proxy_url.take().filter(|url| !url.is_empty());
        cluster.proxy_url = Some(proxy.unwrap_or_else(|| NO_PROXY.to_owned()));
    }
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    if config
        .proxy_url
        .as_ref()
        .is_some_and(|url| *url == NO_PROXY)
    {
        config.proxy_url = None;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn proxy_of(cluster: &str) -> Option<String> {
        let kubeconfig = format!(
            "clusters: [{{name: c, cluster: {{server: 'https://a:6443'{cluster}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
        );
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = load(kubeconfig, None).await.unwrap();
        config.proxy_url.map(|url| url.to_string())
    }

    #[tokio::test]
    async fn the_api_servers_proxy_is_the_kubeconfigs_or_none() {
        assert_eq!(proxy_of("").await, None);
        assert_eq!(proxy_of(", proxy-url: ''").await, None);
        let named = proxy_of(", proxy-url: 'http://p:3128'").await;
        assert_eq!(named.as_deref(), Some("http://p:3128/"));
    }
}
