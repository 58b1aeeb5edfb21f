//! A kubeconfig for a listener.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::Loopback;

/// An API server behind the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of its context.
    pub name: String,
    /// The path of its root, as in `/k8s/clusters/edge`; empty for the listener's own.
    pub path: String,
    /// The name that clients give in TLS (`tls-server-name`), by which the handler tells API servers without a path apart
    /// ([`ServerName`](super::ServerName)). The certificate has to cover it: [`Loopback::named`].
    pub server_name: Option<String>,
}

impl Loopback {
    /// A kubeconfig with a context for each of these, the first of which is the current one. It holds the token. JSON, which is YAML
    /// as well.
    pub fn kubeconfig(&self, entries: &[Entry]) -> Zeroizing<String> {
        let ca = BASE64_STANDARD.encode(self.ca_pem());
        let clusters = entries.iter().map(|entry| {
            let server = format!("https://{}{}", self.address(), entry.path);
            let name = entry
                .server_name
                .as_deref()
                .map(|name| ("tls-server-name", name));
            let cluster = [("server", &*server), ("certificate-authority-data", &*ca)];
            let cluster: BTreeMap<_, _> = cluster.into_iter().chain(name).collect();
            json!({"name": entry.name, "cluster": cluster})
        });
        let contexts = entries.iter().map(
            |Entry { name, .. }| json!({"name": name, "context": {"cluster": name, "user": USER}}),
        );
        let current = entries.first().map(|entry| entry.name.as_str());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": clusters.collect::<Vec<_>>(),
            "contexts": contexts.collect::<Vec<_>>(),
            "current-context": current.unwrap_or_default(),
            "users": [{"name": USER, "user": {"token": self.token()}}],
        });
        Zeroizing::new(format!("{config:#}\n"))
    }
}

/// The name of the only user.
const USER: &str = "underpass-loopback";
