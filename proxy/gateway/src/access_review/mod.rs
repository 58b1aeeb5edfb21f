//! Whether somebody may act as somebody else, which the cluster in question says (security rule 16).
//!
//! kube-apiserver would check `kubectl --as` itself, if the caller's own credential were with it. Through the tunnel it
//! sees the agent's, which may impersonate anybody: it cannot tell the caller. So the front asks it beforehand for the
//! same checks, by SubjectAccessReviews that name the real caller.
//!
//! It decides about acting as somebody in *that* cluster and about nothing else: whether the caller may reach the cluster
//! has been decided by the server's own policy before (rule 5), and identities that may never be impersonated are refused
//! even if a cluster would allow them (rule 17).
//!
//! Grants of constrained impersonation (`impersonate:user-info`, KEP-5284) do not count here: they are for callers
//! that the API server sees directly.

mod answers;
mod question;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::{
    answers::{Answer, Answers, Asked, Decision, Flight, Found, Watch},
    question::{Key, Question},
};
use underpass_core::{
    Access, Clusters, Identity, Impersonated, ImpersonationAuthorizer, Rejection, Revocation,
    limits, names::ACCESS_REVIEWER,
};
use underpass_http::review::{ReviewError, Reviewer};

/// Lets callers act as those that the cluster's RBAC lets them impersonate.
///
/// The cluster has to let the user [`ACCESS_REVIEWER`] ask: the output of `underpass-agent rbac` does. Its answer is
/// remembered for [`limits::IMPERSONATION_ALLOWED`], and asked again every [`limits::IMPERSONATION_AGAIN`] while something rests
/// on it: removing a right in the cluster ends the streams that were opened with it.
#[derive(Clone)]
pub struct AccessReviews(Arc<Inner>);

struct Inner {
    reviewer: Reviewer,
    answers: Arc<Answers>,
}

/// The fields read of a SubjectAccessReview that was made.
#[derive(Deserialize)]
struct Reviewed {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
    evaluation_error: String,
}

/// Why one part of an identity was not allowed.
enum Not<'a> {
    Allowed(&'a Impersonated, Status),
    Asked(ReviewError),
}

impl AccessReviews {
    /// Asks through `clusters`.
    pub fn new(clusters: Arc<dyn Clusters>) -> Self {
        Self(Arc::new(Inner {
            reviewer: Reviewer {
                clusters,
                user: ACCESS_REVIEWER,
                resource: "subjectaccessreviews.authorization.k8s.io",
                path: "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            },
            answers: Arc::new(Answers::new()),
        }))
    }

    /// The cluster's answer, or a recent one.
    async fn answer(&self, key: Key, question: &Arc<Question>) -> Answer {
        let mut pending = match self
            .0
            .answers
            .look_up(&question.cluster, question.caller(), key)
        {
            Asked::Known(answer) => return answer,
            Asked::Full => return Answer::Unknown(Rejection::TooManyRequests),
            Asked::Wait(pending) => pending,
            Asked::Ask(flight, pending) => {
                self.start(flight, question);
                pending
            }
        };
        let landed = pending.wait_for(Option::is_some).await;
        let answer = landed.ok().and_then(|answer| answer.clone());
        answer.unwrap_or(Answer::Unknown(Rejection::Unavailable))
    }

    /// In a task of its own: a client that leaves takes nothing away from others who wait.
    fn start(&self, flight: Flight, question: &Arc<Question>) {
        let (inner, question) = (Arc::clone(&self.0), Arc::clone(question));
        tokio::spawn(async move {
            let asking = inner.ask(&question);
            let found = match tokio::time::timeout(limits::IMPERSONATION_TIME, asking).await {
                Ok(found) => found,
                Err(_) => {
                    tracing::warn!(cluster = %question.cluster, "no access review in time");
                    Found::Unknown(Rejection::Timeout("the cluster's access review"))
                }
            };
            flight.land(found);
        });
    }

    fn rest(&self, decision: Arc<Decision>, key: Key, question: Arc<Question>) -> Revocation {
        match decision.rest() {
            Watch::Watched(revocation) => revocation,
            Watch::New(revocation, unused) => {
                tokio::spawn(self.clone().watch(decision, unused, key, question));
                revocation
            }
        }
    }

    /// Asks again while something rests on the decision.
    async fn watch(
        self,
        decision: Arc<Decision>,
        unused: CancellationToken,
        key: Key,
        question: Arc<Question>,
    ) {
        let asking = async {
            loop {
                tokio::time::sleep(limits::IMPERSONATION_AGAIN).await;
                // An absent cluster gives no answer; its open streams are about to end anyway.
                if let Answer::No(_) = self.answer(key, &question).await {
                    break;
                }
            }
        };
        tokio::select! {
            () = unused.cancelled() => {}
            () = decision.taken_back() => {}
            () = asking => decision.take_back(),
        }
    }
}

impl Inner {
    /// Asks for every part, a few at a time; the first that is not allowed, in their order, ends it.
    async fn ask(&self, question: &Question) -> Found {
        let parts = question.parts().iter();
        let asking: Vec<_> = parts.map(|part| self.ask_for(question, part)).collect();
        let mut asked = stream::iter(asking).buffered(limits::ACCESS_REVIEWS_AT_ONCE);
        while let Some(allowed) = asked.next().await {
            if let Err(not) = allowed {
                return found(question, not);
            }
        }
        Found::Yes
    }

    async fn ask_for<'a>(
        &self,
        question: &'a Question,
        part: &'a Impersonated,
    ) -> Result<(), Not<'a>> {
        let review = question.review(part);
        let asked = self.reviewer.ask(&question.cluster, &review).await;
        let Reviewed { status } = asked.map_err(Not::Asked)?;
        if status.allowed && !status.denied {
            Ok(())
        } else {
            Err(Not::Allowed(part, status))
        }
    }
}

/// The rejection for the caller, and the log's line.
fn found(question: &Question, not: Not<'_>) -> Found {
    let (cluster, user, impersonation) = (&question.cluster, question.user(), question.target());
    match not {
        Not::Allowed(part, status) => {
            tracing::info!(
                %cluster, user, impersonation, %part,
                reason = status.reason, error = status.evaluation_error,
                "the cluster does not allow acting as somebody else"
            );
            Found::No(Rejection::MayNotActAs {
                user: user.to_owned(),
                what: Box::new(part.clone()),
            })
        }
        Not::Asked(error) => {
            tracing::error!(
                %cluster, user, impersonation, error = &error as &dyn std::error::Error,
                "whether somebody may act as somebody else cannot be asked; \
                 `underpass-agent rbac` prints what the cluster needs"
            );
            match error {
                ReviewError::Forbidden { cluster, .. } => {
                    Found::No(Rejection::ImpersonationNotReviewed(cluster))
                }
                ReviewError::Unreachable(cluster, error) => {
                    Found::Unknown(error.rejection(&cluster))
                }
                _ => Found::Unknown(Rejection::Unavailable),
            }
        }
    }
}

impl fmt::Debug for AccessReviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessReviews").finish_non_exhaustive()
    }
}

#[async_trait]
impl ImpersonationAuthorizer for AccessReviews {
    async fn may(&self, access: &Access<'_>, target: &Identity) -> Result<Revocation, Rejection> {
        let (cluster, caller) = (access.cluster(), access.identity());
        let key = question::key(cluster, caller, target);
        let question = Arc::new(Question::new(cluster, caller, target));
        match self.answer(key, &question).await {
            Answer::Yes(decision) => Ok(self.rest(decision, key, question)),
            Answer::No(rejection) | Answer::Unknown(rejection) => Err(rejection),
        }
    }
}
