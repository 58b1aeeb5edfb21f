//! Scopes of credentials.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Access, ClusterName, RequestInfo};

/// Limits of a credential, below its owner's rights. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scope {
    /// These clusters and no other; every one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub clusters: Option<BTreeSet<ClusterName>>,
    /// Only requests that change nothing: no shell, no port-forward, no write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Why a credential may not be used for something that its owner may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutOfScope {
    /// It is for other clusters.
    #[error("this credential is for other clusters")]
    Cluster,
    /// It only reads.
    #[error("this credential is read-only")]
    ReadOnly,
}

impl Scope {
    /// Has it no limits?
    pub fn is_everything(&self) -> bool {
        self.clusters.is_none() && !self.read_only
    }

    /// Does it allow nothing beyond what `outer` allows?
    pub fn is_within(&self, outer: &Self) -> bool {
        let clusters = match (&self.clusters, &outer.clusters) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(inner), Some(outer)) => inner.is_subset(outer),
        };
        clusters && (self.read_only || !outer.read_only)
    }

    /// Does it include this cluster?
    pub fn includes(&self, cluster: &ClusterName) -> bool {
        self.clusters
            .as_ref()
            .is_none_or(|clusters| clusters.contains(cluster))
    }

    /// May the credential be used for this request?
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn check(&self, cluster: &ClusterName, request: &RequestInfo) -> Result<(), OutOfScope> {
        if !self.includes(cluster) {
            return Err(OutOfScope::Cluster);
        }
        let enters = request.is_stream() || request.is_upgrade() || request.is_proxied();
        if self.read_only && (enters || !request.changes_nothing()) {
            return Err(OutOfScope::ReadOnly);
        }
        Ok(())
    }

    /// May the credential be used for this access? One to another target than the API server is a byte stream, which may change
    /// anything.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn check_access(&self, access: &Access<'_>) -> Result<(), OutOfScope> {
        match access.request() {
            Some(request) => self.check(access.cluster(), request),
            None if !self.includes(access.cluster()) => Err(OutOfScope::Cluster),
            None if self.read_only => Err(OutOfScope::ReadOnly),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn request(method: Method, path: &str, upgrade: bool) -> RequestInfo {
        RequestInfo::parse(&method, path, None, upgrade)
    }

    #[test]
    fn rule_8_a_read_only_credential_only_reads() {
        let scope = Scope {
            read_only: true,
            ..Scope::default()
        };
        let cluster = ClusterName::new("a").unwrap();
        let pods = "/api/v1/namespaces/x/pods";
        for (method, path, upgrade, allowed) in [
            (Method::GET, pods.to_owned(), false, true),
            (Method::GET, format!("{pods}/y/log"), false, true),
            (Method::POST, pods.to_owned(), false, false),
            (Method::GET, format!("{pods}/y/exec"), true, false),
            (Method::GET, format!("{pods}/y/exec"), false, false),
            (Method::GET, format!("{pods}/y/portforward"), true, false),
            (Method::GET, format!("{pods}/y/proxy/z"), false, false),
            (
                Method::GET,
                "/apis/x/v1/ys/z/console".to_owned(),
                true,
                false,
            ),
            (Method::GET, "/api/v1/watch/pods".to_owned(), false, true),
            (
                Method::DELETE,
                "/api/v1/watch/pods".to_owned(),
                false,
                false,
            ),
        ] {
            let answer = scope.check(&cluster, &request(method, &path, upgrade));
            assert_eq!(answer.is_ok(), allowed, "{path} {upgrade}");
        }
    }

    #[test]
    fn rule_26_a_read_only_credential_opens_no_stream() {
        let scope = Scope {
            read_only: true,
            ..Scope::default()
        };
        let cluster = ClusterName::new("a").unwrap();
        for (path, query) in [
            (
                "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v/vnc",
                "watch=",
            ),
            ("/api/v1/pods", "watch=true"),
            ("/api/v1/watch/pods", ""),
            ("/version", ""),
        ] {
            let read = RequestInfo::parse(&Method::GET, path, Some(query), true);
            assert_eq!(
                scope.check(&cluster, &read),
                Err(OutOfScope::ReadOnly),
                "{path}"
            );
        }
    }

    #[test]
    fn rule_8_a_connection_to_a_target_is_beyond_reading() {
        let identity = crate::Identity::new("u".into(), None, vec![], Default::default()).unwrap();
        let (a, b) = (
            ClusterName::new("a").unwrap(),
            ClusterName::new("b").unwrap(),
        );
        let only = |read_only| Scope {
            clusters: Some(BTreeSet::from([a.clone()])),
            read_only,
        };
        for target in ["tcp:db.prod:5432", "unix:/run/x.sock"] {
            let target = target.parse().unwrap();
            let to = |cluster| Access::to(&identity, cluster, &target);
            assert_eq!(only(false).check_access(&to(&a)), Ok(()));
            let other = only(false).check_access(&to(&b));
            assert_eq!(other, Err(OutOfScope::Cluster));
            let reading = only(true).check_access(&to(&a));
            assert_eq!(reading, Err(OutOfScope::ReadOnly));
            assert_eq!(Scope::default().check_access(&to(&b)), Ok(()));
        }
        // A request to the API server is held to the same as before.
        let version = request(Method::GET, "/version", false);
        let reads = Access::new(&identity, &a, &version);
        assert_eq!(only(true).check_access(&reads), Ok(()));
        let version = request(Method::POST, "/version", false);
        let writes = Access::new(&identity, &a, &version);
        let refused = only(true).check_access(&writes);
        assert_eq!(refused, Err(OutOfScope::ReadOnly));
    }

    #[test]
    fn a_credential_for_one_cluster_opens_no_other() {
        let (a, b) = (
            ClusterName::new("a").unwrap(),
            ClusterName::new("b").unwrap(),
        );
        let scope = Scope {
            clusters: Some(BTreeSet::from([a.clone()])),
            read_only: false,
        };
        let version = request(Method::GET, "/version", false);
        assert_eq!(scope.check(&a, &version), Ok(()));
        assert_eq!(scope.check(&b, &version), Err(OutOfScope::Cluster));
        assert_eq!(Scope::default().check(&b, &version), Ok(()));
    }
}
