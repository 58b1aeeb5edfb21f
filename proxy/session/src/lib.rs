//! A user's session with an Underpass server: HTTP connections that outlive the user's network.
//!
//! A user who loses their network for a moment loses each connection over TLS, and with it every shell, log and watch. In a session
//! they go on at the exact byte, over the transport that works next (PROTOCOL.md, "User sessions"). A [`UserSession`] gives a stream
//! for each HTTP/1.1 connection, relays requests by itself ([`UserSession::relay`]), or asks for an upgrade, such as a WebSocket
//! ([`UserSession::upgrade`]).
//!
//! ```no_run
//! # async fn example(credentials: std::sync::Arc<dyn underpass_session::Credentials>) -> Result<(), Box<dyn std::error::Error>> {
//! use underpass_session::{SessionConfig, UserSession};
//!
//! let roots = underpass_https::Roots::system()?;
//! let config = SessionConfig::new("https://underpass.example.org:8443", roots, credentials);
//! let session = UserSession::connect(config, |event| println!("{event}")).await?;
//! // An HTTP/1.1 connection to the server. Each request on it needs the caller's credential.
//! let stream = session.open().await?;
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod keep;
mod register;
mod relay;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use underpass_api::HTTP_TARGET;
use underpass_tunnel::{Class, OpenRequest, Session};

pub use self::{
    config::SessionConfig,
    error::{ConnectError, OpenError},
    keep::Event,
    upgrade::Upgraded,
};
pub use underpass_https::Credentials;
pub use underpass_tunnel::{Stream, Transports};

use self::keep::{Keeper, Standing};
use self::register::Registrar;

/// How long a new stream waits for a session, or for the transport of one: a laptop that wakes up has its network again by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause before another stream takes the place of one that was not taken.
const AGAIN: Duration = Duration::from_millis(50);

/// A user's session. It dials again whenever its connection is lost, until it is dropped.
pub struct UserSession {
    standing: watch::Receiver<Standing>,
    registrar: Arc<Registrar>,
    keeping: AbortOnDropHandle<()>,
}

impl UserSession {
    /// Registers a new key with the user's credential, and dials. `events` hears of every change afterwards.
    ///
    /// # Errors
    /// The configuration cannot work, the server cannot be reached, has no sessions for users, or refuses the credential.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn connect(
        config: SessionConfig,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, ConnectError> {
        let (connector, registrar) = config.parts()?;
        let registrar = Arc::new(registrar);
        registrar.register().await?;
        let session = connector.connect().await?;
        let (sender, standing) = watch::channel(Standing::default());
        let keeper = Keeper::new(connector, Arc::clone(&registrar), sender, events);
        let keeping = tokio::spawn(keeper.run(session));
        Ok(Self {
            standing,
            registrar,
            keeping: AbortOnDropHandle::new(keeping),
        })
    }

    /// An HTTP/1.1 connection to the server. While the session has no transport it waits for one, for half a minute at the most.
    ///
    /// # Errors
    /// There is no session, or it takes no stream.
    ///
    /// # Cancel safety
    /// Dropping the future opens nothing.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        self.open_for(Class::Default).await
    }

    /// A stream that the server has taken. Nothing was sent on one that it has not, for example since the path is silent and nobody
    /// knows it yet: another one follows, for any stream. It costs a round trip.
    async fn open_taken(&self, class: Class) -> Result<Stream, OpenError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match self.open_for(class).await {
                Ok(mut stream) => match stream.accepted().await {
                    Ok(()) => return Ok(stream),
                    Err(error) => OpenError::NotTaken(Arc::new(error)),
                },
                Err(error) => error,
            };
            if !error.is_of_the_path() || Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn open_for(&self, class: Class) -> Result<Stream, OpenError> {
        let session = tokio::time::timeout(PATIENCE, self.attached()).await;
        let session = session.map_err(|_| OpenError::Away)??;
        let request = OpenRequest {
            target: HTTP_TARGET.to_owned(),
            class,
            ..OpenRequest::default()
        };
        Ok(session.open(request).await?)
    }

    /// Ends the session, and its streams with it, and waits until the server was told, for some seconds at the most. A session that is
    /// dropped ends as well; where the process ends with it, the server may learn of that when the resume window is over, and counts
    /// the session until then.
    pub async fn close(self) {
        let session = self.standing.borrow().session.clone();
        // First: it would dial again.
        drop(self.keeping);
        if let Some(session) = session {
            session.drain(Duration::ZERO, Duration::ZERO, "done").await;
        }
    }

    /// The session, once it has a transport.
    async fn attached(&self) -> Result<Session, OpenError> {
        let mut standing = self.standing.clone();
        loop {
            let Standing { session, refused } = standing.borrow_and_update().clone();
            let usable = async {
                match session.filter(Session::is_open) {
                    Some(session) => {
                        session.attached().await;
                        session
                    }
                    None => std::future::pending().await,
                }
            };
            let turned_away = async {
                match refused {
                    Some(why) => why,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                session = usable => if session.is_open() { return Ok(session) },
                why = turned_away => {
                    self.registrar.miss();
                    return Err(OpenError::Refused(why));
                }
                changed = standing.changed() => changed.map_err(|_| OpenError::Ended)?,
            }
            tokio::task::yield_now().await;
        }
    }
}

impl std::fmt::Debug for UserSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSession").finish_non_exhaustive()
    }
}
