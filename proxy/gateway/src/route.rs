//! `/k8s/clusters/{cluster}/…`

use bytes::Bytes;
use http::uri::PathAndQuery;

use underpass_core::ClusterName;

/// Where clusters begin.
pub(crate) const PREFIX: &str = "/k8s/clusters/";

/// A request's way into a cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) cluster: ClusterName,
    /// The API server's target: the bytes after the cluster's name, unchanged (`%2F`, `//`, trailing
    /// slashes and dots mean something to API servers, or nothing to us).
    pub(crate) path: PathAndQuery,
}

impl Route {
    /// Finds the way; `None` for a path outside of every cluster.
    pub(crate) fn find(target: &PathAndQuery) -> Option<Self> {
        let rest = target.as_str().strip_prefix(PREFIX)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (cluster, rest) = rest.split_at_checked(end)?;
        let cluster = ClusterName::new(cluster).ok()?;
        let path = if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        };
        let path = PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()?;
        Some(Self { cluster, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(target: &str) -> Option<(String, String)> {
        let route = Route::find(&target.parse().unwrap())?;
        Some((route.cluster.to_string(), route.path.to_string()))
    }

    #[test]
    fn the_rest_is_opaque() {
        for rest in [
            "/",
            "//",
            "/api/v1/pods/",
            "/api//v1/%2F%2f/..;/x?watch=1&fieldSelector=a%3Db",
            "/?",
            "/a/../b",
            "/%25",
        ] {
            let found = find(&format!("/k8s/clusters/prod{rest}"));
            assert_eq!(found, Some(("prod".to_owned(), rest.to_owned())));
        }
    }

    #[test]
    fn a_bare_cluster_is_its_root() {
        assert_eq!(find("/k8s/clusters/prod").unwrap().1, "/");
        assert_eq!(find("/k8s/clusters/prod?x=1").unwrap().1, "/?x=1");
    }

    #[test]
    fn nothing_else_is_a_cluster() {
        for path in [
            "/",
            "/k8s/clusters",
            "/k8s/clusters/",
            "/k8s/clusters//x",
            "/k8s/clusters/A/x",
            "/k8s/clusters/a%2fb/x",
            "/k8s/clusters/../x",
            "/K8s/clusters/a/",
            "//k8s/clusters/a/",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
