//! Registers the session's key with the user's credential (PROTOCOL.md, "User sessions").

use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use tokio::sync::Notify;
use underpass_api::client::{ClientError, Credential, Server};
use underpass_api::{Client, SESSIONS, SessionMade, SessionRequest};
use underpass_https::{Credentials, Proxy, Roots};
use underpass_tunnel::PublicKey;
use zeroize::Zeroizing;

use super::error::ConnectError;

/// Registers one key, as often as it takes.
pub(super) struct Registrar {
    url: String,
    roots: Roots,
    proxy: Option<Proxy>,
    credentials: Arc<dyn Credentials>,
    key: PublicKey,
    /// The token that was shown last, with any answer.
    shown: Mutex<Option<Zeroizing<String>>>,
    missed: Notify,
}

impl Registrar {
    pub(super) fn new(
        url: String,
        roots: Roots,
        proxy: Option<Proxy>,
        credentials: Arc<dyn Credentials>,
        key: PublicKey,
    ) -> Self {
        Self {
            url,
            roots,
            proxy,
            credentials,
            key,
            shown: Mutex::default(),
            missed: Notify::new(),
        }
    }

    /// A caller was turned away since the server does not accept the credential: the user may have another one by now.
    pub(super) fn miss(&self) {
        self.missed.notify_one();
    }

    /// Waits until a caller was turned away, or has another token.
    pub(super) async fn missed(&self) {
        self.missed.notified().await;
    }

    /// The same, for a request. Where it is another one than the session rests on, the session is about to rest on it too.
    pub(super) async fn bearer_of_request(&self) -> Result<Zeroizing<String>, ConnectError> {
        let token = self.bearer().await?;
        let is_other = self.shown().as_ref().is_some_and(|shown| *shown != token);
        if is_other {
            self.missed.notify_one();
        }
        Ok(token)
    }

    /// The user's token as it is now.
    pub(super) async fn bearer(&self) -> Result<Zeroizing<String>, ConnectError> {
        let bearer = self.credentials.bearer().await;
        bearer.map_err(ConnectError::Credential)
    }

    /// The server's name and port, as its URL has them.
    pub(super) fn authority(&self) -> &str {
        let authority = self.url.split_once("//").map_or("", |(_, rest)| rest);
        authority.trim_end_matches('/')
    }

    /// Registers the key.
    pub(super) async fn register(&self) -> Result<SessionMade, ConnectError> {
        let token = self.bearer().await?;
        self.register_with(token).await
    }

    /// The same where the user has another token than the one that was shown last. `None`: it is the same.
    pub(super) async fn register_anew(&self) -> Result<Option<SessionMade>, ConnectError> {
        let token = self.bearer().await?;
        if self.shown().as_ref() == Some(&token) {
            return Ok(None);
        }
        self.register_with(token).await.map(Some)
    }

    async fn register_with(&self, token: Zeroizing<String>) -> Result<SessionMade, ConnectError> {
        *self.shown() = Some(token.clone());
        let credential = Credential::Bearer(token);
        let server = Server::new(&self.url, &self.roots, self.proxy.as_ref(), &credential)?;
        let request = SessionRequest {
            public_key: self.key.to_string(),
        };
        let registered = Client::at(server).post(SESSIONS, &request).await;
        registered.map_err(|error| match error {
            ClientError::Problem(problem) if problem.is(StatusCode::UNAUTHORIZED) => {
                ConnectError::Unauthorized(problem)
            }
            error if is_unknown_path(&error) => ConnectError::NoUserSessions,
            ClientError::Problem(problem) => ConnectError::Refused(problem),
            error => {
                // No answer says nothing about the token: it may be shown again.
                *self.shown() = None;
                ConnectError::Register(error)
            }
        })
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Option<Zeroizing<String>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the server, or something in front of it, not know the path?
fn is_unknown_path(error: &ClientError) -> bool {
    error.is(StatusCode::NOT_FOUND) || error.is(StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt as _;
    use underpass_core::BoxError;
    use underpass_tunnel::AgentKey;

    use super::*;

    struct Fixed(&'static str);

    #[async_trait::async_trait]
    impl Credentials for Fixed {
        async fn bearer(&self) -> Result<Zeroizing<String>, BoxError> {
            ready(Ok(self.0.to_owned().into())).await
        }
    }

    #[tokio::test]
    async fn a_request_with_another_token_has_it_registered() {
        let key = AgentKey::from_seed([1; 32]).unwrap().public_key();
        let roots = Roots::system().unwrap();
        let registrar = Registrar::new(
            "https://front".to_owned(),
            roots,
            None,
            Arc::new(Fixed("new")),
            key,
        );
        for (shown, is_other) in [(None, false), (Some("new"), false), (Some("old"), true)] {
            *registrar.shown() = shown.map(|token| token.to_owned().into());
            registrar.bearer_of_request().await.unwrap();
            let missed = registrar.missed().now_or_never().is_some();
            assert_eq!(missed, is_other, "{shown:?}");
        }
    }
}
