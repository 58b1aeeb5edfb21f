//! Serves the streams that the server opens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use underpass_core::{Identity, NeverImpersonated, Target};
use underpass_tunnel::{IncomingStream, ResetCode, Session, chain};
use underpass_upstream::{ApiServer, Draining};

use crate::limits;
use crate::policy::{InForce, Policies};
use crate::targets::Targets;

/// A drained agent does not come back by itself, so that this is only a hint.
const RETURN_AFTER: Duration = Duration::ZERO;

/// The sessions in service: one, or for a while two where the server asked to come back.
#[derive(Clone)]
pub(crate) struct Sessions {
    /// That of new streams.
    api_server: Arc<Mutex<Arc<ApiServer>>>,
    policies: Arc<Policies>,
    targets: Arc<Targets>,
    live: Arc<Mutex<Vec<Live>>>,
    tasks: TaskTracker,
}

/// A session in service.
#[derive(Clone)]
struct Live {
    session: Session,
    /// Its watches end between two events before its other streams are cut.
    draining: Draining,
}

impl Sessions {
    pub(crate) fn new(
        api_server: Arc<ApiServer>,
        policies: Arc<Policies>,
        targets: Arc<Targets>,
    ) -> Self {
        Self {
            api_server: Arc::new(Mutex::new(api_server)),
            policies,
            targets,
            live: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Serves the session's streams in the background, until it ends.
    pub(crate) fn serve(&self, session: Session) {
        let draining = Draining::default();
        lock(&self.live).push(Live {
            session: session.clone(),
            draining: draining.clone(),
        });
        let this = self.clone();
        self.tasks.spawn(async move {
            while let Ok(incoming) = session.accept().await {
                let api_server = Arc::clone(&lock(&this.api_server));
                let (policies, targets) = (Arc::clone(&this.policies), Arc::clone(&this.targets));
                let draining = draining.clone();
                this.tasks.spawn(async move {
                    serve_stream(incoming, &api_server, &draining, &policies, &targets).await;
                });
            }
            lock(&this.live).retain(|other| !other.session.is_same(&session));
        });
    }

    /// Sends new streams to another API server, or to the same with other credentials. Streams that are open stay where they are.
    pub(crate) fn use_api_server(&self, api_server: Arc<ApiServer>) {
        *lock(&self.api_server) = api_server;
        self.targets.forget_services();
    }

    /// Those in service now.
    pub(crate) fn live(&self) -> Vec<Session> {
        let live = lock(&self.live);
        live.iter().map(|live| live.session.clone()).collect()
    }

    fn in_service(&self) -> Vec<Live> {
        lock(&self.live).clone()
    }

    /// Drains those in service now: others follow, which take the new streams.
    pub(crate) fn leave(&self, deadline: Duration) -> impl Future<Output = ()> + Send + use<> {
        end(self.in_service(), deadline, "the agent connects anew")
    }

    /// Takes no new streams and waits for the end of those in flight, or for the deadline. Watches end early, between two events.
    pub(crate) async fn drain(&self, deadline: Duration) {
        end(self.in_service(), deadline, "the agent is shutting down").await;
        self.tasks.close();
        let over = tokio::time::timeout(limits::TASKS_TIME, self.tasks.wait()).await;
        if over.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "streams that do not end are given up"
            );
        }
    }
}

async fn end(sessions: Vec<Live>, deadline: Duration, why: &'static str) {
    let drains = sessions.iter().map(|live| {
        live.draining.begin(deadline);
        live.session.drain(deadline, RETURN_AFTER, why)
    });
    futures_util::future::join_all(drains).await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rule 17: the agent serves only the targets that it knows.
async fn serve_stream(
    incoming: IncomingStream,
    api_server: &ApiServer,
    draining: &Draining,
    policies: &Policies,
    targets: &Targets,
) {
    match incoming.target().parse() {
        Ok(Target::KubeApi) => serve_kube_api(incoming, api_server, draining, policies).await,
        Ok(target @ (Target::Tcp(_) | Target::Unix(_))) => {
            targets.serve(incoming, target, api_server).await;
        }
        _ => {
            let target = incoming.target().to_owned();
            tracing::warn!(target, "stream refused");
            let reason = format!("this agent serves no target `{target}`");
            incoming.refuse(ResetCode::UnknownTarget, &reason);
        }
    }
}

async fn serve_kube_api(
    incoming: IncomingStream,
    api_server: &ApiServer,
    draining: &Draining,
    policies: &Policies,
) {
    let header = incoming.header().clone();
    let policy = policies.current();
    let stream = match incoming.accept().await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!("stream gone: {}", chain(&error)),
    };
    let serving = api_server.serve_stream_under(&policy.impersonation, draining, stream, &header);
    let served = if policies.may_change() {
        tokio::select! {
            served = serving => served,
            never = policies.until(|now| denied(now, &policy, &header)) => {
                return tracing::info!("the policy ends an open stream: {never}");
            }
        }
    } else {
        serving.await
    };
    if let Err(error) = served {
        tracing::debug!("stream ended early: {}", chain(&error));
    }
}

/// The reason that other rules than those of the stream's beginning deny its identity, if they do.
fn denied(now: &Arc<InForce>, then: &Arc<InForce>, header: &[u8]) -> Option<NeverImpersonated> {
    if Arc::ptr_eq(now, then) {
        return None;
    }
    let identity = Identity::decode(header).ok()?;
    now.impersonation.check(&identity).err()
}
