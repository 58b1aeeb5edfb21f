//! Serves the streams that the server opens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use underpass_core::Target;
use underpass_tunnel::{IncomingStream, ResetCode, Session, chain};
use underpass_upstream::ApiServer;

/// A drained agent does not come back by itself, so that this is only a hint.
const RETURN_AFTER: Duration = Duration::ZERO;

/// The sessions in service: one, or for a while two where the server asked to come back.
#[derive(Clone)]
pub(crate) struct Sessions {
    /// That of new streams.
    api_server: Arc<Mutex<Arc<ApiServer>>>,
    live: Arc<Mutex<Vec<Session>>>,
    tasks: TaskTracker,
}

impl Sessions {
    pub(crate) fn new(api_server: Arc<ApiServer>) -> Self {
        Self {
            api_server: Arc::new(Mutex::new(api_server)),
            live: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Serves the session's streams in the background, until it ends.
    pub(crate) fn serve(&self, session: Session) {
        lock(&self.live).push(session.clone());
        let (api_server, live) = (Arc::clone(&self.api_server), Arc::clone(&self.live));
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            while let Ok(incoming) = session.accept().await {
                let api_server = Arc::clone(&lock(&api_server));
                tasks.spawn(async move { serve_stream(incoming, &api_server).await });
            }
            lock(&live).retain(|other| !other.is_same(&session));
        });
    }

    /// Sends new streams to another API server, or to the same with other credentials. Streams that are open stay where they are.
    pub(crate) fn use_api_server(&self, api_server: Arc<ApiServer>) {
        *lock(&self.api_server) = api_server;
    }

    /// Those in service now.
    pub(crate) fn live(&self) -> Vec<Session> {
        lock(&self.live).clone()
    }

    /// Drains those in service now: others follow, which take the new streams.
    pub(crate) fn leave(&self, deadline: Duration) -> impl Future<Output = ()> + Send + use<> {
        end(self.live(), deadline, "the agent connects anew")
    }

    /// Takes no new streams and waits for the end of those in flight, or for the deadline.
    pub(crate) async fn drain(&self, deadline: Duration) {
        end(self.live(), deadline, "the agent is shutting down").await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn end(sessions: Vec<Session>, deadline: Duration, why: &'static str) {
    let drains = sessions
        .iter()
        .map(|session| session.drain(deadline, RETURN_AFTER, why));
    futures_util::future::join_all(drains).await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rule 17: the agent serves only the targets that it knows.
async fn serve_stream(incoming: IncomingStream, api_server: &ApiServer) {
    if incoming.target().parse() != Ok(Target::KubeApi) {
        let target = incoming.target().to_owned();
        tracing::warn!(target, "stream refused");
        let reason = format!("this agent serves no target `{target}`");
        incoming.refuse(ResetCode::UnknownTarget, &reason);
        return;
    }
    let identity = incoming.header().clone();
    let served = match incoming.accept().await {
        Ok(stream) => api_server.serve_stream(stream, &identity).await,
        Err(error) => return tracing::debug!("stream gone: {}", chain(&error)),
    };
    if let Err(error) = served {
        tracing::debug!("stream ended early: {}", chain(&error));
    }
}
