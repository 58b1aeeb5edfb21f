//! `/v1/server`: how users and agents reach the server.

use serde::{Deserialize, Serialize};

/// How users and agents reach the server. Nothing of it is secret: every client sees the certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Server))]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// The URL for kubeconfigs and agents: the server's first name and its public port.
    pub url: String,
    /// The CA of its certificate, as PEM.
    pub ca_pem: String,
    /// The hash of the CA's public key, for an agent's `--ca-pin`.
    pub ca_pin: String,
    /// The domain in DNS below which each cluster has a name of its own, where the operator has set one up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_domain: Option<String>,
    /// The domain of clusters' names that only TLS knows (SNI, `tls-server-name` in a kubeconfig). An
    /// older server has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cluster_domain: Option<String>,
    /// The version of the server.
    pub version: String,
}
