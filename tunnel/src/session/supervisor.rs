//! The task that outlives a session's transports.

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::Instrument;
use underpass_proto::chain;
use underpass_proto::session::{Ending, LinkId};

use super::link;
use super::shared::{Joined, Outlets, Shared};
use super::{LinkLoss, SessionError, now};
use crate::telemetry;

/// Drives the session to its end.
pub(super) async fn run(shared: Arc<Shared>, outlets: Outlets) {
    let Outlets { mut joined, ended } = outlets;
    let mut links = JoinSet::new();
    let mut loss = None;
    while shared.ending().is_none() {
        let deadline = shared.core(|core| core.poll_detached());
        let expired = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(next) = joined.recv() => drive(&shared, &mut links, *next),
            Some(over) = links.join_next() => {
                if let Ok((id, why)) = over {
                    lost(&shared, id, &why);
                    loss = why.or(loss);
                }
            }
            () = expired => shared.with(|core| core.handle_detached(now())),
            () = shared.closing.notified() => {}
        }
    }
    let error = ending(&shared, loss);
    tracing::debug!("{}", chain(&error));
    telemetry::session_ended(&error);
    // The links say their last words meanwhile.
    ended.send_replace(Some(error));
    shared.end_streams().await;
    joined.close();
    while let Ok(late) = joined.try_recv() {
        drive(&shared, &mut links, *late);
    }
    while let Some(over) = links.join_next().await {
        if let Ok((id, why)) = over {
            lost(&shared, id, &why);
        }
    }
}

fn ending(shared: &Shared, loss: Option<LinkLoss>) -> SessionError {
    match (shared.ending(), loss) {
        (Some(Ending::Detached(_)), Some(loss)) => SessionError::Transport(loss),
        (Some(ending), _) => SessionError::Ended(ending),
        // The loop above ends with an ending.
        (None, loss) => SessionError::Transport(loss.unwrap_or(LinkLoss::Transport(
            crate::transport::TransportError::ClosedHere,
        ))),
    }
}

fn drive(
    shared: &Arc<Shared>,
    links: &mut JoinSet<(LinkId, Option<LinkLoss>)>,
    (link, control): Joined,
) {
    let kind = link.transport.kind();
    let span = tracing::error_span!("link", id = %link.id, %kind);
    if link.id != LinkId::FIRST {
        tracing::debug!(parent: &span, "joined the session");
    }
    links.spawn(link::run(Arc::clone(shared), link, control).instrument(span));
}

fn lost(shared: &Shared, id: LinkId, why: &Option<LinkLoss>) {
    if let Some(kind) = shared.kind_of(id) {
        telemetry::transport_lost(kind, why.as_ref());
    }
    if let Some(why) = why {
        tracing::debug!(link = %id, "{}", chain(why));
    }
    shared.link_lost(id);
}
