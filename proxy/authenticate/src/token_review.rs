//! ServiceAccount tokens, which their cluster reviews.
//!
//! The question goes through the tunnel ([`Reviewer`]): the agent impersonates [`TOKEN_REVIEWER`], whom the cluster's RBAC lets
//! create TokenReviews and nothing else. The cluster's administrator decides whether its tokens count here, by one
//! binding.
//!
//! - A token is shown to a cluster only where its `iss` and `aud` say that it was made for this server by that cluster: a token
//!   for another audience is shown to none.
//! - A cluster can vouch for its own ServiceAccounts only; its answer cannot widen that. They have names of this server's
//!   making, with the cluster's name in them: `system:serviceaccount:ci:deployer` would be another account in every cluster
//!   that it is impersonated in.

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, ConfigError, CredentialError,
    Misconfigured, RemoteOptions, Source,
    config::not_empty,
    jwt,
    remote::{Credential, Lookup, Remote},
    source::Assertion,
};
use underpass_core::{ClusterName, Clusters, Identity, names::TOKEN_REVIEWER};
use underpass_http::review::{ReviewError, Reviewer};

/// Which tokens are which cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenReviewConfig {
    /// The cluster, as this server knows it.
    pub cluster: ClusterName,
    /// The `iss` of its tokens: kube-apiserver's `--service-account-issuer`.
    pub issuer: String,
    /// The audiences of which a token must have one; none of these may be an audience of the cluster's own API server.
    pub audiences: Vec<String>,
    /// The namespaces whose ServiceAccounts may come in; all of them where there is none.
    pub namespaces: Vec<String>,
    /// How it asks.
    pub remote: RemoteOptions,
}

/// Accepts the tokens of one cluster's ServiceAccounts.
///
/// The user is `serviceaccount:CLUSTER:NAMESPACE:NAME`, the groups are `serviceaccounts:CLUSTER` and
/// `serviceaccounts:CLUSTER:NAMESPACE`.
pub struct TokenReview(Remote<Review>);

impl TokenReview {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn new(
        source: Source,
        config: TokenReviewConfig,
        clusters: Arc<dyn Clusters>,
    ) -> Result<Self, ConfigError> {
        not_empty("issuer", &config.issuer)?;
        if config.audiences.is_empty() {
            return Err(ConfigError::new("audiences", Misconfigured::Empty));
        }
        for (position, audience) in config.audiences.iter().enumerate() {
            not_empty(&format!("audiences[{position}]"), audience)?;
        }
        let options = config.remote;
        let review = Review {
            source: source.clone(),
            config,
            reviewer: reviewer(clusters),
        };
        let remote = Remote::new(review, source, options);
        Ok(Self(
            remote.map_err(|e| ConfigError::unusable("cluster", e))?,
        ))
    }
}

impl fmt::Debug for TokenReview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReview").finish_non_exhaustive()
    }
}

#[async_trait]
impl Authenticator for TokenReview {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        self.0.authenticate(caller).await
    }
}

struct Review {
    source: Source,
    config: TokenReviewConfig,
    reviewer: Reviewer,
}

pub(super) fn reviewer(clusters: Arc<dyn Clusters>) -> Reviewer {
    Reviewer {
        clusters,
        user: TOKEN_REVIEWER,
        resource: "tokenreviews.authentication.k8s.io",
        path: "/apis/authentication.k8s.io/v1/tokenreviews",
    }
}

/// A TokenReview (authentication.k8s.io/v1) to be made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question<'a> {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) spec: Spec<'a>,
}

#[derive(Serialize)]
pub(super) struct Spec<'a> {
    pub(super) token: &'a str,
    pub(super) audiences: &'a [String],
}

/// The fields that are read of the cluster's answer.
#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: Option<String>,
}

#[async_trait]
impl Lookup for Review {
    fn claim(&self, caller: &Caller<'_>) -> Result<Option<Credential>, CredentialError> {
        let (Some(token), Some(peeked)) = (caller.bearer(), caller.jwt()) else {
            return Ok(None);
        };
        let mine = peeked.issuer == self.config.issuer
            && peeked.audiences.contains_any(&self.config.audiences);
        Ok(mine.then(|| Credential::bearer(token)))
    }

    async fn look_up(
        &self,
        credential: &Credential,
        _: IpAddr,
    ) -> Result<Identity, AuthenticateError> {
        let Credential::Bearer(token) = credential else {
            return Err(CredentialError::Malformed.into());
        };
        let asked = self.ask(token).await;
        let status = asked.map_err(AuthenticateError::unavailable)?.status;
        Ok(self.source.identity(self.assertion(token, status)?)?)
    }
}

impl Review {
    async fn ask(&self, token: &str) -> Result<Answer, ReviewError> {
        let question = Question {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: Spec {
                token,
                audiences: &self.config.audiences,
            },
        };
        self.reviewer.ask(&self.config.cluster, &question).await
    }

    fn assertion(&self, token: &str, status: Status) -> Result<Assertion, CredentialError> {
        if !status.authenticated {
            return Err(CredentialError::Unknown);
        }
        // An API server that does not know audiences says none (TokenReviewStatus).
        let ours = |audience: &String| self.config.audiences.contains(audience);
        if !status.audiences.iter().any(ours) {
            return Err(CredentialError::Audience);
        }
        let account = status.user.username.strip_prefix("system:serviceaccount:");
        let account = account.and_then(|account| account.split_once(':'));
        let (namespace, name) = account.ok_or(CredentialError::NotAllowed)?;
        let listed = self.config.namespaces.is_empty()
            || self
                .config
                .namespaces
                .iter()
                .any(|listed| listed == namespace);
        if namespace.is_empty() || name.is_empty() || name.contains(':') || !listed {
            return Err(CredentialError::NotAllowed);
        }
        let cluster = &self.config.cluster;
        Ok(Assertion {
            user: format!("serviceaccount:{cluster}:{namespace}:{name}"),
            uid: status.user.uid.filter(|uid| !uid.is_empty()),
            groups: vec![
                format!("serviceaccounts:{cluster}"),
                format!("serviceaccounts:{cluster}:{namespace}"),
            ],
            expires_at: jwt::peek(token).and_then(|peeked| peeked.expires_at()),
            ..Assertion::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Reserved;
    use underpass_core::{AuthenticationMethod, BoxedIo, ConnectError, Open};

    struct Nowhere;

    #[async_trait]
    impl Clusters for Nowhere {
        async fn connect(&self, _: &ClusterName, _: &Open) -> Result<BoxedIo, ConnectError> {
            Err(ConnectError::NoAgent)
        }
    }

    fn review() -> Review {
        let source = Source::new(
            "edge",
            AuthenticationMethod::TokenReview,
            Reserved::default(),
            CancellationToken::new(),
        );
        Review {
            source,
            config: TokenReviewConfig {
                cluster: ClusterName::new("edge").unwrap(),
                issuer: "https://kubernetes.default.svc".to_owned(),
                audiences: vec!["underpass".to_owned()],
                namespaces: vec!["ci".to_owned()],
                remote: RemoteOptions::default(),
            },
            reviewer: reviewer(Arc::new(Nowhere)),
        }
    }

    fn read(change: impl FnOnce(&mut serde_json::Value)) -> Result<Assertion, CredentialError> {
        let mut answer = json!({ "status": {
            "authenticated": true, "audiences": ["underpass"],
            "user": {
                "username": "system:serviceaccount:ci:deployer", "uid": "7",
                "groups": ["system:masters"], "extra": { "scopes": ["all"] },
            },
        } });
        change(&mut answer["status"]);
        let answer: Answer = serde_json::from_value(answer).unwrap();
        review().assertion("", answer.status)
    }

    #[test]
    fn a_cluster_names_its_accounts_and_nothing_else() {
        let read = read(|_| {}).unwrap();
        assert_eq!(read.user, "serviceaccount:edge:ci:deployer");
        assert_eq!(read.uid.as_deref(), Some("7"));
        assert_eq!(
            read.groups,
            ["serviceaccounts:edge", "serviceaccounts:edge:ci"]
        );
        assert!(read.extra.is_empty());
    }

    #[test]
    fn rule_17_a_captured_cluster_vouches_for_nobody_else() {
        for name in [
            "system:admin",
            "alice",
            "system:serviceaccount:kube-system:deployer",
            "system:serviceaccount:ci",
            "system:serviceaccount:ci:",
            "system:serviceaccount::deployer",
            "system:serviceaccount:ci:a:b",
            "serviceaccount:other:ci:deployer",
            "",
        ] {
            let refused = read(|status| status["user"]["username"] = json!(name));
            assert_eq!(refused.unwrap_err(), CredentialError::NotAllowed, "{name}");
        }
        let refused = read(|status| status["authenticated"] = json!(false));
        assert_eq!(refused.unwrap_err(), CredentialError::Unknown);
        for audiences in [json!([]), json!(["kubernetes"])] {
            let refused = read(|status| status["audiences"] = audiences);
            assert_eq!(refused.unwrap_err(), CredentialError::Audience);
        }
    }

    #[tokio::test]
    async fn a_cluster_that_is_away_is_unavailable() {
        let credential = Credential::bearer("x");
        let here = IpAddr::from([127, 0, 0, 1]);
        let error = review().look_up(&credential, here).await.unwrap_err();
        assert!(matches!(error, AuthenticateError::Unavailable(_)));
    }
}
