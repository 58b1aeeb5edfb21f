//! The task that outlives a session's transports.

use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::Instrument;
use underpass_proto::chain;
use underpass_proto::code::CloseCode;
use underpass_proto::session::{LinkId, Part};

use super::shared::{Joined, Shared, Supervision};
use super::{LinkLoss, link, now};

/// The tasks of the session's transports.
type Links = JoinSet<(LinkId, Option<LinkLoss>)>;

/// Drives the session to its end.
pub(super) async fn run(shared: Arc<Shared>, supervision: Supervision) {
    let Supervision { mut joined, gone } = supervision;
    let supervised = Supervised(Arc::clone(&shared));
    let mut links = Links::new();
    let mut closed = pin!(shared.closed());
    let error = loop {
        let deadline = shared.with(|core| core.next_timeout(Part::Session, now()));
        let expired = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = &mut closed => break error,
            Some(next) = joined.recv() => drive(&shared, &mut links, *next),
            Some(over) = links.join_next() => {
                if let Ok((id, why)) = over {
                    lost(&shared, id, why);
                }
            }
            () = expired => shared.with(|core| core.handle_timeout(Part::Session, now())),
        }
    };
    tracing::debug!("{}", chain(&error));
    // The links say their last words meanwhile.
    drop(supervised);
    shared.clear_queue().await;
    joined.close();
    while let Ok(late) = joined.try_recv() {
        drive(&shared, &mut links, *late);
    }
    while let Some(over) = links.join_next().await {
        if let Ok((id, why)) = over {
            lost(&shared, id, why);
        }
    }
    drop(gone);
}

/// A session that is supervised. One whose supervisor is dropped with its runtime ends with it.
struct Supervised(Arc<Shared>);

impl Drop for Supervised {
    fn drop(&mut self) {
        self.0.with(|core| {
            core.close(CloseCode::Shutdown, "the runtime of the session has ended");
        });
        self.0.end_streams();
    }
}

fn drive(shared: &Arc<Shared>, links: &mut Links, (link, control): Joined) {
    let kind = link.transport.kind();
    let span = tracing::error_span!("link", id = %link.id, %kind);
    if link.id != LinkId::FIRST {
        tracing::debug!(parent: &span, "joined the session");
    }
    links.spawn(link::run(Arc::clone(shared), link, control).instrument(span));
}

fn lost(shared: &Shared, id: LinkId, why: Option<LinkLoss>) {
    if let Some(why) = &why {
        tracing::debug!(link = %id, "{}", chain(why));
    }
    shared.link_lost(id, why);
}
