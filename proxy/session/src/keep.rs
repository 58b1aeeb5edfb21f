//! Keeps the session: its transports, and the registration of its key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use underpass_tunnel::{Connector, ResetCode, Session, Status, chain};

use super::error::ConnectError;
use super::register::Registrar;

/// How often it is looked whether the user has another token: a program that replaces a file's token does so well before the old one ends.
/// A request looks as well.
const LOOK: Duration = Duration::from_secs(10);

/// A change of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Its connection is lost. Its streams wait, and so do new ones.
    Lost,
    /// It has a connection again, and its streams go on.
    Resumed,
    /// It has ended, and its streams with it; why, for people. Another one is dialled.
    Ended(String),
    /// There is another session, in the place of one that has ended.
    Renewed,
    /// The server does not accept the user's credential any more, or gives no session; why, for people. It is told once.
    Refused(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("the connection is lost, connecting again"),
            Self::Resumed => f.write_str("connected again, and every stream goes on"),
            Self::Ended(why) => write!(f, "the session has ended, and its streams with it: {why}"),
            Self::Renewed => f.write_str("connected again, with a new session"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// The session as its callers find it.
#[derive(Clone, Default)]
pub(super) struct Standing {
    /// The last one, which may have ended.
    pub(super) session: Option<Session>,
    /// Why the server does not accept the credential, since it was shown last.
    pub(super) refused: Option<Arc<str>>,
}

/// The owner of a session's transports.
pub(super) struct Keeper {
    connector: Connector,
    registrar: Arc<Registrar>,
    standing: watch::Sender<Standing>,
    events: Events,
}

impl Keeper {
    pub(super) fn new(
        connector: Connector,
        registrar: Arc<Registrar>,
        standing: watch::Sender<Standing>,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Self {
        Self {
            connector,
            registrar,
            standing,
            events: Arc::new(events),
        }
    }

    /// Until it is dropped.
    pub(super) async fn run(self, first: Session) {
        let Self {
            connector,
            registrar,
            standing,
            events,
        } = self;
        let unknown = Notify::new();
        let mut is_first = true;
        let mut lost = false;
        // They end with this: each holds its session.
        let mut refusing = JoinSet::new();
        let serve = |session: Session| {
            if !std::mem::take(&mut is_first) {
                events(Event::Renewed);
            }
            while refusing.try_join_next().is_some() {}
            refusing.spawn(refuse_all(session.clone()));
            standing.send_replace(Standing {
                session: Some(session),
                refused: None,
            });
        };
        let status = |status: Status<'_>| match status {
            Status::Detached(..) if !std::mem::replace(&mut lost, true) => events(Event::Lost),
            Status::Resumed(_) if std::mem::take(&mut lost) => events(Event::Resumed),
            Status::Connected(_) => lost = false,
            Status::Ended(error, _) => {
                lost = false;
                events(Event::Ended(chain(error).to_string()));
            }
            Status::Failed(error, _) => {
                tracing::debug!("no connection: {}", chain(error));
                if error.is_unknown_key() {
                    unknown.notify_one();
                }
            }
            _ => {}
        };
        let registering = keep_registered(&registrar, &unknown, &standing, &events);
        tokio::select! {
            never = connector.run_from(Some(first), serve, status) => match never {},
            () = registering => {}
        }
    }
}

/// Registers the key again: with each new token of the user's, and where the server does not know it any more.
async fn keep_registered(
    registrar: &Registrar,
    unknown: &Notify,
    standing: &watch::Sender<Standing>,
    events: &Events,
) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    looks.tick().await;
    let mut refused = false;
    let mut told = None;
    loop {
        let forgotten = tokio::select! {
            () = unknown.notified() => true,
            () = registrar.missed() => false,
            _ = looks.tick() => false,
        };
        // A token that was refused is not shown again: each guess counts against the user's network.
        let registered = match forgotten && !refused {
            true => registrar.register().await.map(Some),
            false => registrar.register_anew().await,
        };
        match registered {
            Ok(None) => {}
            Ok(Some(_)) => {
                (refused, told) = (false, None);
                standing.send_modify(|standing| standing.refused = None);
            }
            Err(error @ (ConnectError::Unauthorized(_) | ConnectError::Refused(_))) => {
                refused = matches!(error, ConnectError::Unauthorized(_));
                let why = chain(&error).to_string();
                if refused {
                    let why = Arc::from(why.as_str());
                    standing.send_modify(|standing| standing.refused = Some(why));
                }
                if told.as_ref() != Some(&why) {
                    events(Event::Refused(why.clone()));
                    told = Some(why);
                }
            }
            Err(error) => tracing::debug!("the key is not registered: {}", chain(&error)),
        }
    }
}

/// Nothing here is for the server to reach.
async fn refuse_all(session: Session) {
    while let Ok(incoming) = session.accept().await {
        incoming.refuse(ResetCode::UnknownTarget, "a user's side serves nothing");
    }
}
