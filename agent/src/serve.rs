//! Serves the streams that the server opens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use underpass_api::AGENT_KEY;
use underpass_core::{AgentRole, Target};
use underpass_tunnel::{IncomingStream, ResetCode, Session, chain};
use underpass_upstream::{ApiServer, Draining};

use crate::kube_api::{KubeApi, NoWay};
use crate::limits;
use crate::register::Registering;
use crate::rotation::Questions;
use crate::targets::Targets;

/// A drained agent does not come back by itself, so that this is only a hint.
const RETURN_AFTER: Duration = Duration::ZERO;

/// The sessions in service: one, or for a while two where the server asked to come back.
#[derive(Clone)]
pub(crate) struct Sessions {
    kube: KubeApi,
    targets: Arc<Targets>,
    questions: Questions,
    /// Tells the server which credential it may keep.
    registering: Option<Arc<Registering>>,
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
    pub(crate) fn new(kube: KubeApi, targets: Arc<Targets>, questions: Questions) -> Self {
        Self {
            kube,
            targets,
            questions,
            registering: None,
            live: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The same, and each session's server is told which credential it may keep.
    pub(crate) fn with_registering(self, registering: Arc<Registering>) -> Self {
        Self {
            registering: Some(registering),
            ..self
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
            let registering = this.registering.as_ref();
            let _registering = registering.map(|registering| registering.start(session.clone()));
            while let Ok(incoming) = session.accept().await {
                let (this, draining) = (this.clone(), draining.clone());
                let tasks = this.tasks.clone();
                tasks.spawn(async move { this.serve_stream(incoming, &draining).await });
            }
            lock(&this.live).retain(|other| !other.session.is_same(&session));
        });
    }

    /// Sends new streams to another API server, or to the same with other credentials. Streams that are open stay where they are.
    pub(crate) fn use_api_server(&self, api_server: Option<Arc<ApiServer>>) {
        self.kube.use_api_server(api_server);
        self.targets.forget_services();
    }

    /// The role that the agent has joined in: for new streams.
    pub(crate) fn serve_as(&self, role: AgentRole) {
        self.kube.serve_as(role);
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

    /// Rule 17: the agent serves only the targets that it knows.
    async fn serve_stream(&self, incoming: IncomingStream, draining: &Draining) {
        if incoming.target() == AGENT_KEY {
            return self.questions.serve(incoming).await;
        }
        match incoming.target().parse() {
            Ok(Target::KubeApi) => self.serve_kube_api(incoming, draining).await,
            Ok(
                target @ (Target::Tcp(_)
                | Target::Unix(_)
                | Target::Operation
                | Target::Shells(_)
                | Target::Shell(..)),
            ) => {
                let api_server = self.kube.api_server();
                self.targets
                    .serve(incoming, target, api_server.as_deref())
                    .await;
            }
            _ => {
                let target = incoming.target().to_owned();
                tracing::warn!(target, "stream refused");
                let reason = format!("this agent serves no target `{target}`");
                incoming.refuse(ResetCode::UnknownTarget, &reason);
            }
        }
    }

    async fn serve_kube_api(&self, incoming: IncomingStream, draining: &Draining) {
        let header = incoming.header().clone();
        let way = match self.kube.way() {
            Ok(way) => way,
            Err(no_way) => {
                let code = match &no_way {
                    NoWay::Denied(_) => {
                        tracing::debug!("stream to the API server refused: {no_way}");
                        ResetCode::Forbidden
                    }
                    NoWay::NoCredential => {
                        tracing::warn!("stream to the API server refused: {no_way}");
                        ResetCode::TargetUnreachable
                    }
                };
                return incoming.refuse(code, &no_way.to_string());
            }
        };
        let accepted = match way.role() {
            // The request came with the stream, and its answer takes the stream's along.
            AgentRole::Cluster => incoming.accept_coalesced().await,
            // The server asks a node for the stream first, and sends the request then.
            AgentRole::Node => incoming.accept().await,
        };
        match accepted {
            Ok(stream) => way.carry(draining, stream, &header).await,
            Err(error) => tracing::debug!("stream gone: {}", chain(&error)),
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
