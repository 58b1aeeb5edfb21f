//! Pods that join as agents: their cluster reviews their ServiceAccount's token.
//!
//! The question goes as [`TokenReview`](super::TokenReview)'s does. The claims of the token itself decide only what need not be
//! asked: an audience that is not this server's. The account, the pod and its node are by the cluster's word.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use underpass_core::service_account::Account;
use underpass_core::{ClusterName, Clusters, NodeName, Through, Via};
use underpass_http::review::ReviewError;

use super::jwt;
use super::token_review::{Question, Spec, reviewer};

/// Keys of a reviewed user's extra (apiserver/pkg/authentication/serviceaccount/util.go, KEP-4193).
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The longest uid of an object: a UUID has 36 characters, and Kubernetes promises nothing.
const UID_CHARS: usize = 64;

/// Has clusters review the tokens of pods that join.
pub struct PodReviewer {
    clusters: Arc<dyn Clusters>,
    /// This server's, which tokens have to be for.
    audience: String,
}

/// A pod, by its cluster's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewedPod {
    /// Its ServiceAccount.
    pub account: Account,
    /// Its uid.
    pub uid: String,
    /// The node that it runs on, where the cluster says so.
    pub node: Option<NodeName>,
    /// The agent that has passed on the cluster's word, where it was one.
    pub vouched_by: Option<Through>,
}

/// Why a token names no pod.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodReviewError {
    /// It is no signed token, or it is for another audience; the cluster is not asked.
    #[error("the token is not for this server: its audience has to be {0:?}")]
    Audience(String),
    /// The cluster does not know it: another cluster's, expired, or of a pod or an account that is gone.
    #[error("the cluster does not accept the token")]
    Rejected,
    /// It is a user's token.
    #[error("the token is no ServiceAccount's")]
    NoAccount,
    /// It is a ServiceAccount's, and could be everywhere.
    #[error("the token is not bound to a pod, as a projected one is")]
    NoPod,
    /// No agent of the cluster is connected that could ask it.
    #[error("the token cannot be reviewed: no agent of the cluster is connected")]
    NoAgent(#[source] ReviewError),
    /// The cluster's RBAC lets this server review no tokens.
    #[error("the cluster lets the server review no tokens")]
    Forbidden(#[source] ReviewError),
    /// The cluster has not answered with a review.
    #[error("the token cannot be reviewed")]
    Unreviewed(#[source] ReviewError),
}

impl PodReviewer {
    /// Asks these clusters about tokens for this audience.
    pub fn new(clusters: Arc<dyn Clusters>, audience: String) -> Self {
        Self { clusters, audience }
    }

    /// Is this text a signed token, and no other credential?
    pub fn is_for(token: &str) -> bool {
        jwt::peek(token).is_some()
    }

    /// Is the token for this server, as far as it says so itself?
    ///
    /// # Errors
    /// [`PodReviewError::Audience`].
    pub fn check_audience(&self, token: &str) -> Result<(), PodReviewError> {
        let wanted = std::slice::from_ref(&self.audience);
        let peeked = jwt::peek(token);
        match peeked.is_some_and(|peeked| peeked.audiences.contains_any(wanted)) {
            true => Ok(()),
            false => Err(PodReviewError::Audience(self.audience.clone())),
        }
    }

    /// The ServiceAccount that the token says it is for. Nothing of it is proved: another one is a reason not to ask.
    pub fn account(token: &str) -> Option<Account> {
        Account::of_user(jwt::peek(token)?.subject()?)
    }

    /// Has `cluster` review the token. The caller bounds it in time.
    ///
    /// # Errors
    /// The token names no pod of this cluster, or the cluster cannot be asked.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn review(
        &self,
        cluster: &ClusterName,
        token: &str,
    ) -> Result<ReviewedPod, PodReviewError> {
        self.check_audience(token)?;
        let question = Question {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: Spec {
                token,
                audiences: std::slice::from_ref(&self.audience),
            },
        };
        let reviewer = reviewer(Arc::clone(&self.clusters));
        let via = Via::default();
        let asked = reviewer.ask_via::<Answer>(cluster, &question, via.clone());
        let status = asked.await.map_err(unreviewed)?.status;
        Ok(ReviewedPod {
            vouched_by: via.through(),
            ..self.pod(status)?
        })
    }

    fn pod(&self, status: Status) -> Result<ReviewedPod, PodReviewError> {
        if !status.authenticated {
            return Err(PodReviewError::Rejected);
        }
        // An API server that does not know audiences says none (TokenReviewStatus).
        if !status.audiences.contains(&self.audience) {
            return Err(PodReviewError::Audience(self.audience.clone()));
        }
        let account = Account::of_user(&status.user.username).ok_or(PodReviewError::NoAccount)?;
        let only = |key: &str| match status.user.extra.get(key).map(Vec::as_slice) {
            Some([value]) => Some(value.clone()),
            _ => None,
        };
        let is_uid = |uid: &String| {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            (1..=UID_CHARS).contains(&uid.len()) && uid.bytes().all(legal)
        };
        let uid = only(POD_UID).filter(is_uid).ok_or(PodReviewError::NoPod)?;
        let node = only(NODE_NAME).and_then(|node| node.parse().ok());
        Ok(ReviewedPod {
            account,
            uid,
            node,
            vouched_by: None,
        })
    }
}

fn unreviewed(error: ReviewError) -> PodReviewError {
    match error {
        ReviewError::Unreachable(..) => PodReviewError::NoAgent(error),
        ReviewError::Forbidden { .. } => PodReviewError::Forbidden(error),
        _ => PodReviewError::Unreviewed(error),
    }
}

impl fmt::Debug for PodReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodReviewer")
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
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
    extra: BTreeMap<String, Vec<String>>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct NoClusters;

    #[async_trait::async_trait]
    impl Clusters for NoClusters {
        async fn connect(
            &self,
            _: &ClusterName,
            _: &underpass_core::Open,
        ) -> Result<underpass_core::BoxedIo, underpass_core::ConnectError> {
            Err(underpass_core::ConnectError::NoAgent)
        }
    }

    fn reviewer() -> PodReviewer {
        PodReviewer::new(Arc::new(NoClusters), "https://u".to_owned())
    }

    fn status() -> Value {
        json!({
            "authenticated": true, "audiences": ["https://u"],
            "user": {
                "username": "system:serviceaccount:agents:node",
                "extra": { POD_UID: ["0a-1"], NODE_NAME: ["n1.example.org"], "other": ["x", "y"] },
            },
        })
    }

    fn pod(status: Value) -> Result<ReviewedPod, PodReviewError> {
        reviewer().pod(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn rule_17_pod_and_node_are_by_the_clusters_word() {
        let reviewed = pod(status()).unwrap();
        assert_eq!(reviewed.account.to_string(), "agents/node");
        assert_eq!(reviewed.uid, "0a-1");
        assert_eq!(
            reviewed.node.as_ref().map(NodeName::as_str),
            Some("n1.example.org")
        );
        let with = |pointer: &str, value: Value| {
            let mut status = status();
            *status.pointer_mut(pointer).unwrap() = value;
            pod(status)
        };
        let refused = with("/authenticated", json!(false));
        assert!(matches!(refused, Err(PodReviewError::Rejected)));
        for other in [json!([]), json!(["https://other"])] {
            let refused = with("/audiences", other);
            assert!(matches!(refused, Err(PodReviewError::Audience(_))));
        }
        for user in ["alice", "system:serviceaccount:a", "system:node:n1", ""] {
            let refused = with("/user/username", json!(user));
            assert!(matches!(refused, Err(PodReviewError::NoAccount)), "{user}");
        }
        let uid = format!("/user/extra/{}", POD_UID.replace('/', "~1"));
        for bad in [json!([]), json!([""]), json!(["a", "b"]), json!(["a b"])] {
            let refused = with(&uid, bad);
            assert!(matches!(refused, Err(PodReviewError::NoPod)));
        }
        let node = format!("/user/extra/{}", NODE_NAME.replace('/', "~1"));
        for bad in [json!([]), json!(["a", "b"]), json!(["Not A Name"])] {
            assert_eq!(with(&node, bad).unwrap().node, None);
        }
    }

    #[tokio::test]
    async fn rule_6_a_token_for_another_audience_is_shown_to_no_cluster() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

        let token = |payload: Value| format!("e30.{}.x", BASE64URL.encode(payload.to_string()));
        let edge = ClusterName::new("edge").unwrap();
        let ask = async |token: &str| reviewer().review(&edge, token).await.unwrap_err();
        let foreign = token(json!({"iss": "k", "aud": ["https://other"]}));
        let without = token(json!({"iss": "k"}));
        for token in [foreign.as_str(), &without, "upj_x", ""] {
            let error = ask(token).await;
            assert!(matches!(error, PodReviewError::Audience(_)), "{token}");
            assert!(error.to_string().contains("https://u"));
        }
        let ours = token(json!({"iss": "k", "aud": ["x", "https://u"]}));
        assert!(PodReviewer::is_for(&ours) && !PodReviewer::is_for("upj_x"));
        assert_eq!(PodReviewer::account(&ours), None);
        for (sub, account) in [
            (
                json!("system:serviceaccount:agents:node"),
                Some("agents/node"),
            ),
            (json!("alice"), None),
            (json!(7), None),
        ] {
            let said = PodReviewer::account(&token(json!({"iss": "k", "sub": sub})));
            assert_eq!(said.map(|said| said.to_string()).as_deref(), account);
        }
        // There is no agent to ask.
        let error = ask(&ours).await;
        assert!(matches!(error, PodReviewError::NoAgent(_)));
    }
}
