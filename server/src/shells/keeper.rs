//! The life of shells, as far as this server sees to it: each ends with the permission for it, and its end is written down (rules 12, 15).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use underpass_api::{ShellQuestion, ShellView};
use underpass_audit::{AuditLog, OwnCall, OwnCaller};
use underpass_core::{ClusterName, Identity, Permission, Revocation, ShellId, ShellKind};
use underpass_tunnel::Session;

use super::{Agents, Ended, Opened, ShellError};
use crate::api::Sessions;
use crate::limits;
use crate::questions::AskError;
use crate::recordings::{Ending, Finished, Key, Recordings};

/// The shells whose ends are waited for here, and their recordings.
#[derive(Debug, Default)]
pub(crate) struct Keepers {
    kept: Mutex<HashSet<ShellId>>,
    recordings: Recordings,
}

/// A shell's user, its place, and the permission for it.
pub(crate) struct Keeping {
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterName,
    /// `cluster:NAME`, or `node:CLUSTER/NAME`.
    pub(crate) place: String,
    pub(crate) permission: Revocation,
    /// The permissions of a shell of the kind `kubectl` at the API server.
    pub(crate) api: Vec<Permission>,
    pub(crate) audit: AuditLog,
    /// Where its agent is found again.
    pub(crate) sessions: Sessions,
}

/// A shell that is kept, until it is dropped.
struct Kept {
    keepers: Arc<Keepers>,
    id: ShellId,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keepers.lock().remove(&self.id);
    }
}

impl Keepers {
    /// Of shells that are recorded here.
    pub(crate) fn with(recordings: Recordings) -> Self {
        Self {
            kept: Mutex::default(),
            recordings,
        }
    }

    pub(crate) fn recordings(&self) -> &Recordings {
        &self.recordings
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ShellId>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where it is kept already.
    fn take(self: &Arc<Self>, id: &ShellId) -> Option<Kept> {
        self.lock().insert(id.clone()).then(|| Kept {
            keepers: Arc::clone(self),
            id: id.clone(),
        })
    }

    /// Keeps a shell that was just opened.
    pub(crate) fn keep(self: &Arc<Self>, opened: Opened, keeping: Keeping) {
        let Some(kept) = self.take(&opened.view.id) else {
            return;
        };
        let recording = self.recordings.ending(&keeping.key(&opened.view));
        tokio::spawn(async move {
            keeping.until_ended(opened, recording).await;
            drop(kept);
        });
    }

    /// Keeps a shell that has a viewer: the server may have been started again since it was opened, or not have heard of its agent for a
    /// while.
    pub(crate) fn keep_viewed(
        self: &Arc<Self>,
        session: &Session,
        kind: ShellKind,
        id: &ShellId,
        keeping: Keeping,
    ) {
        let Some(kept) = self.take(id) else {
            return;
        };
        let agents = Agents::with(vec![session.clone()]);
        tokio::spawn(async move {
            let question = ShellQuestion::Keep {
                id: kept.id.clone(),
                api: keeping.api.clone(),
            };
            let identity = keeping.identity.encode();
            let identity = identity.unwrap_or_else(|_| Bytes::new());
            match agents.open(kind, &identity, &question).await {
                Ok(opened) => {
                    let recordings = &kept.keepers.recordings;
                    let key = keeping.key(&opened.view);
                    let recording = recordings.ending(&key);
                    let (view, agent) = (opened.view.clone(), opened.agent.clone());
                    let sessions = Arc::clone(&keeping.sessions);
                    let outdated = async {
                        if recordings.is_outdated(&key, &view) {
                            let shell = (&view, &*agent);
                            recordings.end_outdated(shell, &identity, &sessions).await;
                        }
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = keeping.until_ended(opened, recording) => {}
                        () = outdated => {}
                    }
                }
                // Its viewers end with their permission all the same, and it by itself some time later.
                Err(error) => tracing::warn!(id = %kept.id, "a shell is not kept: {error}"),
            }
        });
    }
}

impl Keeping {
    fn key(&self, view: &ShellView) -> Key {
        Key {
            cluster: self.cluster.clone(),
            id: view.id.clone(),
        }
    }

    /// Sees to the shell's end, also where its agent is away meanwhile: a permission that is taken back then ends it when the agent returns.
    async fn until_ended(self, mut opened: Opened, recording: Option<Ending>) {
        let (received, view) = (OffsetDateTime::now_utc(), opened.view.clone());
        let agent = opened.agent.clone();
        let ended = loop {
            match opened.until_ended(self.permission.clone()).await {
                Ended::Lost => {}
                ended => break ended,
            }
            let again = timeout(limits::SHELL_AWAY, self.again(&view, &agent)).await;
            match again {
                Ok(Some(kept)) => opened = kept,
                Ok(None) | Err(_) => break Ended::Lost,
            }
        };
        let lasted = OffsetDateTime::now_utc() - received;
        let recorded = match recording {
            Some(recording) => timeout(limits::RECORDING_END, recording.finished()).await,
            None => Ok(None),
        };
        self.tell(&view, (received, lasted), &ended, recorded.ok().flatten());
    }

    /// Waits until the shell's agent is back, and keeps the shell there; `None` where there is none any more.
    async fn again(&self, view: &ShellView, agent: &str) -> Option<Opened> {
        let identity = self.identity.encode().ok()?;
        let question = ShellQuestion::Keep {
            id: view.id.clone(),
            api: self.api.clone(),
        };
        loop {
            sleep(limits::SHELL_AGAIN).await;
            let agents = Agents::with(self.sessions.of_agent(agent));
            if agents.are_away() {
                continue;
            }
            match agents.open(view.kind, &identity, &question).await {
                Ok(opened) => return Some(opened),
                Err(ShellError::Refused(_) | ShellError::Ask(AskError::Refused { .. })) => {
                    return None;
                }
                Err(error) => tracing::debug!(id = %view.id, "a shell is not kept yet: {error}"),
            }
        }
    }

    fn tell(
        &self,
        view: &ShellView,
        (received, lasted): (OffsetDateTime, time::Duration),
        ended: &Ended,
        recorded: Option<Finished>,
    ) {
        let (outcome, output) = match ended {
            Ended::Told(view) => (reason(view), Some(view.output)),
            Ended::Revoked => ("revoked".to_owned(), None),
            Ended::Lost => ("its agent is not heard of any more".to_owned(), None),
        };
        let Self {
            identity, place, ..
        } = self;
        tracing::info!(
            target: "underpass::audit", user = identity.user(), id = %view.id, kind = %view.kind, place, output,
            "a shell ended: {outcome}"
        );
        let mut details = vec![
            ("underpass.dev/object".into(), format!("shell/{}", view.id)),
            ("underpass.dev/subject".into(), place.clone()),
            ("underpass.dev/outcome".into(), outcome),
            (
                "underpass.dev/milliseconds".into(),
                lasted.whole_milliseconds().to_string(),
            ),
        ];
        details.extend(output.map(|bytes| ("underpass.dev/bytes-down".into(), bytes.to_string())));
        details.extend(recorded.iter().flat_map(Finished::details));
        let path = format!("/v1/clusters/{}/shells/{}", self.cluster, view.id);
        self.audit.own_call(&OwnCall {
            caller: OwnCaller::Identity(identity),
            client: None,
            method: &Method::DELETE,
            path: &path,
            user_agent: "",
            received,
            code: StatusCode::OK.as_u16(),
            details: &details,
        });
    }
}

/// In the agent's words.
fn reason(view: &ShellView) -> String {
    let end = view.end.as_ref();
    let cause = end.map(|end| end.cause.as_str()).unwrap_or_default();
    match end.and_then(|end| end.exit) {
        Some(exit) => format!("{cause}, {exit}"),
        None => cause.to_owned(),
    }
}
