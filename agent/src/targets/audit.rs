//! The audit lines of streams to targets, and their metrics.

use tokio::time::Instant;
use underpass_core::{Identity, Target};
use underpass_tunnel::{Copied, CopyError, chain};

use super::refusal::Refusal;

/// An open stream, of which the log has the beginning.
pub(super) struct Record<'a> {
    user: &'a str,
    target: &'a Target,
    rule: Option<&'a str>,
    begun: Instant,
}

impl<'a> Record<'a> {
    pub(super) fn begin(identity: &'a Identity, target: &'a Target, rule: Option<&'a str>) -> Self {
        let user = identity.user();
        tracing::info!(
            target: "underpass::audit", user, target = %target, rule, "stream to a target begins"
        );
        metrics::counter!("underpass_agent_target_streams_total", "kind" => kind(target))
            .increment(1);
        Self {
            user,
            target,
            rule,
            begun: Instant::now(),
        }
    }

    pub(super) fn end(self, copied: Copied, ended: Result<(), CopyError>) {
        let outcome = match &ended {
            Ok(()) => "complete",
            Err(CopyError::Stream(_)) => "the server's side ended it",
            Err(CopyError::Connection(_)) => "the target failed",
            Err(CopyError::GivenUp(_)) => "the policy ended it",
            Err(_) => "it failed",
        };
        for (direction, bytes) in [("up", copied.from_stream), ("down", copied.to_stream)] {
            metrics::counter!(
                "underpass_agent_target_bytes_total", "kind" => kind(self.target), "direction" => direction
            )
            .increment(bytes);
        }
        let milliseconds = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "underpass::audit", user = self.user, target = %self.target, rule = self.rule, outcome,
            milliseconds, bytes_up = copied.from_stream, bytes_down = copied.to_stream,
            "stream to a target ended"
        );
        if let Err(error) = ended {
            tracing::debug!("stream to a target ended early: {}", chain(&error));
        }
    }
}

/// A stream that did not begin. `identity` is missing where it cannot be read.
pub(super) fn refused(identity: Option<&Identity>, target: &Target, refusal: &Refusal) {
    tracing::info!(
        target: "underpass::audit", user = identity.map(Identity::user), target = %target,
        code = %refusal.code(), reason = %chain(refusal), "stream to a target refused"
    );
    metrics::counter!(
        "underpass_agent_target_refusals_total", "kind" => kind(target), "code" => refusal.code().to_string()
    )
    .increment(1);
}

fn kind(target: &Target) -> &'static str {
    match target {
        Target::Tcp(_) => "tcp",
        Target::Unix(_) => "unix",
        _ => "other",
    }
}
