//! Calls of etcd, at one endpoint after the other until one answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Streaming};
use underpass_core::files;
use zeroize::Zeroizing;

use crate::config::{EtcdConfig, EtcdUser};
use crate::error::{CallError, EtcdError};
use crate::limits;
use crate::link::Link;
use crate::wire::{
    AUTHENTICATE, AuthenticateRequest, AuthenticateResponse, Method, WatchCreate, WatchRequest,
    WatchResponse,
};

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// At one endpoint.
    attempt: Duration,
    /// At all of them.
    deadline: Instant,
}

impl Patience {
    pub(crate) fn for_call() -> Self {
        Self::new(limits::ATTEMPT, limits::CALL)
    }

    pub(crate) fn for_page() -> Self {
        Self::new(limits::PAGE_ATTEMPT, limits::PAGE_CALL)
    }

    pub(crate) fn for_check() -> Self {
        Self::new(limits::ATTEMPT, limits::CHECK)
    }

    fn new(attempt: Duration, whole: Duration) -> Self {
        let deadline = Instant::now() + whole;
        Self { attempt, deadline }
    }

    /// Waits before the next attempt; false where there is no time for one.
    pub(crate) async fn pause(&self) -> bool {
        if Instant::now() + limits::PAUSE >= self.deadline {
            return false;
        }
        tokio::time::sleep(limits::PAUSE).await;
        true
    }

    fn left(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(self.attempt)
    }
}

/// Calls etcd over one connection at a time. Where that fails, the next call is made at the next endpoint.
pub(crate) struct Client {
    config: EtcdConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    token: Option<Token>,
    /// The number of the link: callers with another one have nothing to say about it.
    links: u64,
    /// The endpoint for the next link.
    next: usize,
}

/// A watch, and the number of its connection.
pub(crate) struct Watch {
    pub(crate) messages: Streaming<WatchResponse>,
    links: u64,
}

/// The connection and the token of a call.
struct Way {
    link: Link,
    token: Option<Token>,
    links: u64,
}

/// The proof that a user has logged in.
#[derive(Clone)]
struct Token {
    value: AsciiMetadataValue,
    /// A call with it was answered: a later refusal may be the end of the token.
    proved: Arc<AtomicBool>,
}

impl Token {
    fn value(this: Option<&Self>) -> Option<AsciiMetadataValue> {
        this.map(|token| token.value.clone())
    }

    fn prove(this: Option<&Self>) {
        if let Some(token) = this {
            token.proved.store(true, Ordering::Relaxed);
        }
    }

    /// False from the second question on.
    fn was_proved(&self) -> bool {
        self.proved.swap(false, Ordering::Relaxed)
    }
}

impl Client {
    pub(crate) fn new(config: EtcdConfig) -> Self {
        let state = Mutex::default();
        Self { config, state }
    }

    pub(crate) fn config(&self) -> &EtcdConfig {
        &self.config
    }

    /// Makes a call that may be made twice, until there is an answer or no time left.
    ///
    /// # Cancel safety
    /// The call may have been made.
    pub(crate) async fn ask<M, A>(
        &self,
        method: Method,
        message: &M,
        patience: Patience,
    ) -> Result<A, CallError>
    where
        M: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        loop {
            match self.attempt(method, message.clone(), patience).await {
                Err(CallError::NotAsked(_) | CallError::Lost(_)) if patience.pause().await => {}
                answer => return answer,
            }
        }
    }

    /// Makes a call once.
    ///
    /// # Cancel safety
    /// The call may have been made.
    pub(crate) async fn attempt<M, A>(
        &self,
        method: Method,
        message: M,
        patience: Patience,
    ) -> Result<A, CallError>
    where
        M: Message + 'static,
        A: Message + Default + 'static,
    {
        let way = self.way(patience).await?;
        let token = Token::value(way.token.as_ref());
        let asking = way.link.ask(method, message, token);
        let error = match tokio::time::timeout(patience.left(), asking).await {
            Ok(Ok(answer)) => {
                Token::prove(way.token.as_ref());
                return Ok(answer);
            }
            Ok(Err(status)) => CallError::of(status),
            Err(late) => CallError::Lost(EtcdError::NoAnswer(Box::new(late))),
        };
        Err(self.learn(&way, error).await)
    }

    /// Watches one key from a revision on.
    pub(crate) async fn watch(&self, key: &[u8], start_revision: i64) -> Result<Watch, CallError> {
        let patience = Patience::for_call();
        let way = self.way(patience).await?;
        let create = WatchCreate {
            key: key.to_vec(),
            start_revision,
        };
        let message = WatchRequest {
            create: Some(create),
        };
        let watching = way.link.watch(message, Token::value(way.token.as_ref()));
        let error = match tokio::time::timeout(patience.left(), watching).await {
            Ok(Ok(messages)) => {
                let links = way.links;
                return Ok(Watch { messages, links });
            }
            Ok(Err(status)) => CallError::of(status),
            Err(late) => CallError::Lost(EtcdError::NoAnswer(Box::new(late))),
        };
        Err(self.learn(&way, error).await)
    }

    /// The next call is made at the next endpoint: this watch has ended.
    pub(crate) async fn leave(&self, watch: &Watch) {
        self.state.lock().await.leave(Some(watch.links));
    }

    /// Whether calls are made over this watch's connection.
    pub(crate) async fn is_current(&self, watch: &Watch) -> bool {
        let state = self.state.lock().await;
        state.link.is_some() && state.links == watch.links
    }

    /// Has the next call made over another connection, or with another token, where the error is of that kind.
    async fn learn(&self, way: &Way, error: CallError) -> CallError {
        let mut state = self.state.lock().await;
        match error {
            CallError::Lost(error) => {
                state.leave(Some(way.links));
                CallError::Lost(error)
            }
            // Of a token that has ended, or is from before a change of the users: once, since the call itself may be refused.
            CallError::Refused(Code::Unauthenticated | Code::InvalidArgument, error)
                if way.token.as_ref().is_some_and(Token::was_proved) =>
            {
                state.token = None;
                CallError::NotAsked(error)
            }
            other => other,
        }
    }

    /// The connection, which is made where there is none, and the token.
    async fn way(&self, patience: Patience) -> Result<Way, CallError> {
        let preparing = async {
            let mut state = self.state.lock().await;
            let link = match state.link.clone() {
                Some(link) => link,
                None => self.connect(&mut state).await?,
            };
            let token = match &self.config.user {
                None => None,
                Some(user) => Some(log_in(&mut state, &link, user).await?),
            };
            Ok(Way {
                link,
                token,
                links: state.links,
            })
        };
        let left = patience.deadline.saturating_duration_since(Instant::now());
        let prepared = tokio::time::timeout(left, preparing).await;
        prepared.map_err(|late| CallError::NotAsked(self.unreachable(Box::new(late))))?
    }

    /// Tries each endpoint once.
    async fn connect(&self, state: &mut State) -> Result<Link, CallError> {
        let mut last = None;
        for _ in &self.config.endpoints {
            let number = state.next.checked_rem(self.config.endpoints.len());
            let endpoint = number.and_then(|number| self.config.endpoints.get(number));
            let Some(endpoint) = endpoint else { break };
            match Link::connect(&self.config, endpoint).await {
                Ok(link) => {
                    state.links = state.links.wrapping_add(1);
                    state.link = Some(link.clone());
                    return Ok(link);
                }
                Err(error) => {
                    state.next = state.next.wrapping_add(1);
                    last = Some(error);
                }
            }
        }
        let last = last.map_or_else(|| "there is none".into(), |error| Box::new(error) as _);
        Err(CallError::NotAsked(self.unreachable(last)))
    }

    fn unreachable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> EtcdError {
        let endpoints = self.config.endpoints.iter().map(ToString::to_string);
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        EtcdError::Unreachable { endpoints, source }
    }
}

impl State {
    /// Lets go of the connection, if it is the one with this number.
    fn leave(&mut self, links: Option<u64>) {
        if self.link.is_some() && links.is_none_or(|links| links == self.links) {
            self.link = None;
            self.next = self.next.wrapping_add(1);
        }
    }
}

/// The token of the user, who is logged in where there is none.
async fn log_in(state: &mut State, link: &Link, user: &EtcdUser) -> Result<Token, CallError> {
    if let Some(token) = &state.token {
        return Ok(token.clone());
    }
    let password = password(user).await.map_err(|source| {
        let path = user.password_file.clone();
        CallError::Refused(Code::InvalidArgument, EtcdError::Password { path, source })
    })?;
    let message = AuthenticateRequest {
        name: user.name.clone(),
        password: password.to_string(),
    };
    let asking = link.ask::<_, AuthenticateResponse>(AUTHENTICATE, message, None);
    let answer = match tokio::time::timeout(limits::ATTEMPT, asking).await {
        Ok(answer) => answer,
        Err(late) => {
            state.leave(None);
            let error = EtcdError::NoAnswer(Box::new(late));
            return Err(CallError::NotAsked(error));
        }
    };
    let refused = |status: tonic::Status| match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition => {
            let source = Box::new(status);
            let user = user.name.clone();
            CallError::Refused(Code::InvalidArgument, EtcdError::Login { user, source })
        }
        // Nothing was asked yet.
        _ => CallError::NotAsked(EtcdError::NoAnswer(Box::new(status))),
    };
    let answer = answer.map_err(|status| {
        let error = refused(status);
        if matches!(error, CallError::NotAsked(_)) {
            state.leave(None);
        }
        error
    })?;
    let value = answer.token.parse::<AsciiMetadataValue>();
    let value = value.map_err(|error| CallError::NotAsked(EtcdError::NoAnswer(Box::new(error))))?;
    let token = Token {
        value,
        proved: Arc::default(),
    };
    state.token = Some(token.clone());
    Ok(token)
}

async fn password(user: &EtcdUser) -> std::io::Result<Zeroizing<String>> {
    let path = user.password_file.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let text = files::read_text(&path, limits::PASSWORD_BYTES)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Zeroizing::new(
            text.strip_suffix('\r').unwrap_or(text).to_owned(),
        ))
    });
    reading.await.map_err(std::io::Error::other)?
}
