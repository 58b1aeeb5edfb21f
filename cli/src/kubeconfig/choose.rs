//! How a kubeconfig names the clusters of a server: by names of their own where those lead there.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use underpass_api::client::Credential;
use underpass_api::{Client, SERVER, ServerInfo};
use underpass_core::{ClusterDomain, ClusterName};
use underpass_terminal::say;

use super::Way;
use crate::args::Style;
use crate::proxy;
use crate::roots::roots;

/// A name that leads nowhere must not keep anybody waiting: there is another way.
const PATIENCE: Duration = Duration::from_secs(5);

/// A kubeconfig's server.
pub(crate) struct Place<'a> {
    /// `https://HOST[:PORT]`.
    pub(crate) server: &'a str,
    /// The CA of its certificate, as PEM; `None` where the system trusts it.
    pub(crate) ca_pem: Option<&'a str>,
    /// It is the server's own URL, or the one by which this program reaches it; not one that the user has given beside these.
    pub(crate) is_own: bool,
    /// It can be asked from here. Otherwise the server was asked at its socket, and its users may have another network.
    pub(crate) is_reachable: bool,
}

/// Chooses a way to the clusters, of which `cluster` is one.
///
/// # Errors
/// The server has none of the style that the user wants, or cannot be asked.
pub(crate) async fn choose(
    style: Option<Style>,
    client: &Client,
    place: &Place<'_>,
    cluster: &ClusterName,
) -> Result<Way> {
    if style == Some(Style::Path) {
        return Ok(Way::Path);
    }
    let ways = names(client, place).await?;
    if style == Some(Style::Name) {
        let Some(way) = ways.into_iter().next() else {
            bail!(
                "the server knows no names of clusters: it is older than this program; use --style path"
            );
        };
        return Ok(way);
    }
    let mut failed = None;
    for way in ways {
        if !place.is_reachable {
            return Ok(way);
        }
        match try_out(&way, place, cluster).await {
            Ok(()) => return Ok(way),
            Err(error) => failed = Some((way, error)),
        }
    }
    if let Some((way, error)) = failed {
        say!(
            "The kubeconfig names clusters by path: {} does not lead to one ({error:#}).",
            way.shown(cluster)
        );
    }
    Ok(Way::Path)
}

/// The ways by name, the best first: browsers and other programs know DNS only.
async fn names(client: &Client, place: &Place<'_>) -> Result<Vec<Way>> {
    let info: ServerInfo = match client.get(SERVER).await {
        Ok(info) => info,
        Err(error) if error.is(StatusCode::NOT_FOUND) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let domain = |text: Option<String>| -> Result<Option<ClusterDomain>> {
        let read = text.map(|text| text.parse()).transpose();
        read.context("the server's answer is not understood")
    };
    let dns = domain(info.cluster_domain.filter(|_| place.is_own))?;
    let tls = domain(info.tls_cluster_domain)?;
    Ok(dns
        .map(Way::Dns)
        .into_iter()
        .chain(tls.map(Way::Tls))
        .collect())
}

/// Asks for the cluster as the kubeconfig's user will, without a credential.
async fn try_out(way: &Way, place: &Place<'_>, cluster: &ClusterName) -> Result<()> {
    let url = way.url(place.server, cluster)?;
    // kubectl goes through the same proxy.
    let server = proxy::server(&url, &roots(place.ca_pem)?, &Credential::None)?;
    let name = match way {
        Way::Path => return Ok(()),
        Way::Dns(domain) | Way::Tls(domain) => domain.name_of(cluster),
    };
    let asked = server.ask_for_cluster_at_root(&name);
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    Ok(asked.with_context(|| format!("no answer within {PATIENCE:?}"))??)
}
