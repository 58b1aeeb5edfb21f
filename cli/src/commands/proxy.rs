//! `underpass proxy`: programs of this machine reach clusters through a session that survives a loss of the network.

mod command;
mod file;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use http::{Request, Response, StatusCode, Uri};
use tokio_util::sync::CancellationToken;
use underpass_api::{Client, Myself};
use underpass_core::{Body, ClusterDomains, ClusterName, HostName, status_response};
use underpass_loopback::{Entry, Handler, Loopback, RequestBody, ServerName};
use underpass_session::{Event, UserSession};
use underpass_terminal::{say, show};

use self::file::KubeconfigFile;
use crate::args::{Proxy, Which};
use crate::signals::Signals;
use crate::status::CommandStatus;

/// Below it the server serves a cluster's API.
const CLUSTERS: &str = "/k8s/clusters/";

pub(crate) async fn run(which: &Which, options: Proxy) -> Result<()> {
    // By itself one would leave the kubeconfig.
    let mut signals = Signals::listen()?;
    // A port that is taken is noticed before the server is asked.
    let loopback = Loopback::bind(options.listen).await?;
    let domains = ClusterDomains::default();
    let loopback = loopback.named(&domains.tls().wildcard())?;
    let config = which.session(options.transport.into()).await?;
    let server = which.server_of(&config).await?;
    let clusters = clusters(&Client::at(server), options.clusters).await?;
    let entries = clusters.iter().map(|cluster| Entry {
        name: cluster.to_string(),
        // By path `kubectl proxy` and `get --raw` of older kubectl lose the path.
        path: String::new(),
        server_name: Some(domains.tls().name_of(cluster)),
    });
    let text = loopback.kubeconfig(&entries.collect::<Vec<_>>());
    let file = KubeconfigFile::write(options.kubeconfig.as_deref(), &text)?;
    let url = config.url.clone();
    let session = tokio::select! {
        session = UserSession::connect(config, move |event| tell(&url, &event)) => session?,
        signal = signals.next() => {
            return match options.command.is_empty() {
                true => Ok(()),
                // The command never ran.
                false => Err(CommandStatus::of(signal).into()),
            };
        }
    };
    let stop = CancellationToken::new();
    let leads_to = listed(&clusters);
    let session = Arc::new(session);
    let relay = Relay {
        session: Arc::clone(&session),
        clusters,
        domains,
    };
    let address = loopback.address();
    let serving = tokio::spawn(loopback.serve(relay, stop.clone()));
    let ended = match options.command.split_first() {
        Some((program, arguments)) => {
            command::run(program, arguments, file.path(), &mut signals).await
        }
        None => {
            say!("{address} leads to {leads_to}, until Ctrl-C");
            show(format_args!("export KUBECONFIG={}", file.quoted()));
            signals.next().await;
            Ok(())
        }
    };
    drop(file);
    stop.cancel();
    serving.await.context("the listener ended")?;
    if let Some(session) = Arc::into_inner(session) {
        session.close().await;
    }
    ended
}

/// Those that the user has named, or all that they may reach.
async fn clusters(client: &Client, named: Vec<ClusterName>) -> Result<Vec<ClusterName>> {
    let me: Myself = client.get("/v1/self").await?;
    let reachable: Vec<_> = me.clusters.into_iter().map(|one| one.name).collect();
    if let Some(unknown) = named.iter().find(|name| !reachable.contains(name)) {
        bail!(
            "{} may not reach cluster {unknown}, or there is none of this name",
            me.user
        );
    }
    match (named.is_empty(), reachable.is_empty()) {
        (false, _) => Ok(named),
        (true, false) => Ok(reachable),
        (true, true) => bail!("{} may not reach any cluster", me.user),
    }
}

fn listed(clusters: &[ClusterName]) -> String {
    let names: Vec<_> = clusters.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [one] => format!("cluster {one}"),
        many => format!("clusters {}", many.join(", ")),
    }
}

fn tell(server: &str, event: &Event) {
    match event {
        Event::Lost => say!("underpass: the connection to {server} is lost, connecting again"),
        Event::Resumed => say!("underpass: connected to {server} again, and every stream goes on"),
        event => say!("underpass: {server}: {event}"),
    }
}

/// Leads requests for these clusters through the session.
struct Relay {
    session: Arc<UserSession>,
    clusters: Vec<ClusterName>,
    domains: ClusterDomains,
}

#[async_trait]
impl Handler for Relay {
    async fn handle(&self, mut request: Request<RequestBody>) -> Response<Body> {
        if let Some(ServerName(name)) = request.extensions().get()
            && let HostName::TlsCluster(cluster) = self.domains.read(name)
            && let Some(below) = below(&cluster, request.uri())
        {
            *request.uri_mut() = below;
        }
        if leads_to_one(request.uri().path(), &self.clusters) {
            return self.session.relay(request).await;
        }
        let message = format!(
            "underpass: this proxy leads to {} alone",
            listed(&self.clusters)
        );
        status_response(StatusCode::NOT_FOUND, "NotFound", &message, None)
    }
}

/// A target at a cluster's own name, as one below the cluster's path. `None` where it is below a cluster's path already: the server writes
/// redirects so.
fn below(cluster: &ClusterName, target: &Uri) -> Option<Uri> {
    let path = target.path_and_query()?.as_str();
    if path.starts_with(CLUSTERS) || !path.starts_with('/') {
        return None;
    }
    format!("{CLUSTERS}{cluster}{path}").parse().ok()
}

/// Is it a path of one of these clusters?
fn leads_to_one(path: &str, clusters: &[ClusterName]) -> bool {
    let Some(rest) = path.strip_prefix(CLUSTERS) else {
        return false;
    };
    let name = rest.split('/').next().unwrap_or_default();
    clusters.iter().any(|cluster| cluster.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_name_is_the_root_of_its_api_server() {
        let edge = ClusterName::new("edge").unwrap();
        let below = |target: &str| below(&edge, &target.parse().unwrap());
        for (target, path) in [
            ("/", "/k8s/clusters/edge/"),
            (
                "/api/v1/pods?watch=1",
                "/k8s/clusters/edge/api/v1/pods?watch=1",
            ),
            ("https://127.0.0.1:1/readyz", "/k8s/clusters/edge/readyz"),
        ] {
            assert_eq!(below(target).unwrap(), path);
        }
        for target in ["/k8s/clusters/edge/api", "/k8s/clusters/prod/api", "*"] {
            assert_eq!(below(target), None, "{target}");
        }
    }

    #[test]
    fn a_proxy_leads_to_its_clusters_alone() {
        let clusters = ["edge", "prod"].map(|name| ClusterName::new(name).unwrap());
        for path in ["/k8s/clusters/edge", "/k8s/clusters/prod/api/v1/pods"] {
            assert!(leads_to_one(path, &clusters), "{path}");
        }
        for path in [
            "/",
            "/api",
            "/v1/users",
            "/k8s/clusters/",
            "/k8s/clusters/edg",
            "/k8s/clusters/edge2/api",
            "/k8s/clusters//edge",
            "/K8s/clusters/edge",
        ] {
            assert!(!leads_to_one(path, &clusters), "{path}");
        }
    }
}
