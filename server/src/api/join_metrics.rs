//! Joins and refusals, counted. Labels have few values each: none is the peer's own text.

use metrics::counter;
use underpass_core::AgentRole;

use super::problem::Problem;

/// How an agent shows that it may join.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    JoinToken,
    ServiceAccount,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::JoinToken => "join token",
            Self::ServiceAccount => "service account",
        }
    }
}

/// An agent's key is registered; `is_new`, if it was not before.
pub(super) fn joined(method: Method, role: AgentRole, is_new: bool) {
    let outcome = if is_new { "new" } else { "registered before" };
    counter!(
        "underpass_joins_total",
        "method" => method.name(), "role" => role.to_string(), "outcome" => outcome
    )
    .increment(1);
}

/// An agent's key was not registered.
pub(super) fn refused(method: Method, problem: &Problem) {
    counter!(
        "underpass_join_refusals_total",
        "method" => method.name(), "reason" => reason(problem)
    )
    .increment(1);
}

fn reason(problem: &Problem) -> &'static str {
    match problem.why() {
        Some(refusal) => refusal.as_str(),
        None if problem.is_for_later() => "busy",
        None => "other",
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use underpass_api::JoinRefusal;

    use super::*;

    #[test]
    fn a_refusal_has_a_reason_that_no_peer_chooses() {
        let busy = Problem::later(StatusCode::TOO_MANY_REQUESTS, "wait", 1);
        assert_eq!(reason(&busy), "busy");
        assert_eq!(reason(&Problem::invalid("upj_secret")), "other");
        let refused = Problem::forbidden("no").reason(JoinRefusal::UsedUp);
        assert_eq!(reason(&refused), "used-up");
        // A reason comes before the wait.
        let later = Problem::later(StatusCode::SERVICE_UNAVAILABLE, "no", 5);
        let later = later.reason(JoinRefusal::CannotReview);
        assert_eq!(reason(&later), "cannot-review");
    }
}
