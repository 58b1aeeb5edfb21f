//! The meaning of `/v1/clusters/{cluster}/shells/{id}` and `/v1/clusters/{cluster}/nodes/{node}/shells/{id}` where a WebSocket is asked
//! for: one shell of one agent (security rules 6, 8 and 26). Without a WebSocket, both are the server's own API.

use http::uri::PathAndQuery;

use underpass_core::{ClusterName, NodeName, ShellId, ShellKind, Target};

const CLUSTERS: &str = "/v1/clusters/";

/// The part of a query that says of which kind the shell is, without which it is [`ShellKind::Kubectl`].
const KIND: &str = "kind=";

/// A request's way to a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShellWay {
    pub(crate) cluster: ClusterName,
    /// The node whose agent has the shell; `None` for the cluster's own agent.
    pub(crate) node: Option<NodeName>,
    pub(crate) target: Target,
    /// The request's target for the agent.
    pub(crate) path: PathAndQuery,
}

impl ShellWay {
    /// Reads a request's target; `None` where it is no shell's. Nothing in it is escaped: other spellings are other paths.
    pub(crate) fn read(target: &PathAndQuery) -> Option<Self> {
        let (cluster, rest) = target.path().strip_prefix(CLUSTERS)?.split_once('/')?;
        let (node, rest) = match rest.strip_prefix("nodes/") {
            Some(rest) => {
                let (node, rest) = rest.split_once('/')?;
                (Some(node.parse().ok()?), rest)
            }
            None => (None, rest),
        };
        let id: ShellId = rest.strip_prefix("shells/")?.parse().ok()?;
        let parts = target.query().unwrap_or_default().split('&');
        let (kinds, rest): (Vec<_>, Vec<_>) = parts.partition(|part| part.starts_with(KIND));
        let kind = match kinds.as_slice() {
            [] => ShellKind::Kubectl,
            [kind] => kind.strip_prefix(KIND)?.parse().ok()?,
            _ => return None,
        };
        Some(Self {
            cluster: ClusterName::new(cluster).ok()?,
            node,
            target: Target::Shell(kind, id),
            path: format!("/?{}", rest.join("&")).parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn read(target: &str) -> Option<String> {
        let way = ShellWay::read(&target.parse().unwrap())?;
        let node = way.node.map(|node| format!("/{node}")).unwrap_or_default();
        Some(format!("{}{node} {} {}", way.cluster, way.target, way.path))
    }

    #[test]
    fn a_path_names_one_shell() {
        for (target, expected) in [
            (
                format!("/v1/clusters/c/shells/{ID}"),
                format!("c shell:{ID} /?"),
            ),
            (
                format!("/v1/clusters/c/shells/{ID}?writes=never&had=5"),
                format!("c shell:{ID} /?writes=never&had=5"),
            ),
            (
                format!("/v1/clusters/c/nodes/n-1.example/shells/{ID}?had=5&kind=node"),
                format!("c/n-1.example node-shell:{ID} /?had=5"),
            ),
        ] {
            assert_eq!(read(&target), Some(expected));
        }
    }

    #[test]
    fn rule_26_another_spelling_names_none() {
        for target in [
            "/v1/clusters/c/shells".to_owned(),
            "/v1/clusters/c/shells/".to_owned(),
            format!("/v1/clusters/c/shells/{ID}/"),
            format!("/v1/clusters/c/shells/{}", ID.to_uppercase()),
            format!("/v1/clusters/c/%73hells/{ID}"),
            format!("/v1/clusters//shells/{ID}"),
            format!("/v1/clusters/C/shells/{ID}"),
            format!("/v1/clusters/c/nodes//shells/{ID}"),
            format!("/v1/clusters/c/nodes/a/b/shells/{ID}"),
            format!("/v1/clusters/c/shells/{ID}?kind=root"),
            format!("/v1/clusters/c/shells/{ID}?kind=node&kind=kubectl"),
            format!("/k8s/clusters/c/shells/{ID}"),
        ] {
            assert_eq!(read(&target), None, "{target}");
        }
    }
}
