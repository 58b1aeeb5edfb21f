//! `tokenReview`

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use underpass_authenticate::{
    Authenticator, ConfigError, Misconfigured, RemoteOptions, Source, TokenReview,
    TokenReviewConfig,
};
use underpass_core::ClusterName;
use underpass_core::Clusters;

use super::file::duration;
use super::prefixes::{Prefix, Prefixes};
use crate::limits;

/// ServiceAccount tokens of one cluster.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Review {
    cluster: String,
    issuer: String,
    audiences: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, deserialize_with = "duration")]
    cache: Option<Duration>,
}

impl Review {
    /// Could both mean the same token? It would be shown to the wrong cluster.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        let shared = |audience| other.audiences.contains(audience);
        self.issuer == other.issuer && self.audiences.iter().any(shared)
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// No field says them: the cluster's name does.
    pub(super) fn prefixes(&self) -> Prefixes<'_> {
        let cluster = |text: &str| Prefix {
            field: "tokenReview.cluster",
            text: format!("{text}:{}:", self.cluster).into(),
        };
        Prefixes {
            users: Some(cluster("serviceaccount")),
            groups: Some(cluster("serviceaccounts")),
        }
    }

    pub(super) fn build(
        &self,
        source: Source,
        limit: Option<Duration>,
        clusters: &Arc<dyn Clusters>,
    ) -> Result<Arc<dyn Authenticator>, ConfigError> {
        let cluster = ClusterName::new(&self.cluster).map_err(|error| ConfigError {
            field: "cluster".to_owned(),
            why: Misconfigured::Unusable(Box::new(error)),
        })?;
        let config = TokenReviewConfig {
            cluster,
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            namespaces: self.namespaces.clone(),
            remote: remote(self.cache, limit),
        };
        Ok(Arc::new(TokenReview::new(
            source,
            config,
            Arc::clone(clusters),
        )?))
    }
}

/// Defaults, and how long an identity counts where the file says it. A provider has the authenticator's whole `limit` where it is longer than
/// usual, but for what is left to do with its answer.
pub(super) fn remote(cache: Option<Duration>, limit: Option<Duration>) -> RemoteOptions {
    let default = RemoteOptions::default();
    let rest = limits::AUTHENTICATION.saturating_sub(default.timeout);
    let limit = limit.unwrap_or(limits::AUTHENTICATION);
    RemoteOptions {
        cache: cache.unwrap_or(default.cache),
        timeout: limit.saturating_sub(rest).max(default.timeout),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_has_the_time_that_its_authenticator_has() {
        let timeout = |limit: Option<u64>| remote(None, limit.map(Duration::from_secs)).timeout;
        for (limit, expected) in [(None, 10), (Some(3), 10), (Some(12), 10), (Some(60), 58)] {
            assert_eq!(timeout(limit), Duration::from_secs(expected), "{limit:?}");
        }
    }
}
