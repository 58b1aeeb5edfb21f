//! Authenticates by our own tokens, wherever they are kept.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use async_trait::async_trait;

use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, CredentialError,
    token::{Token, TokenError, TokenHash},
};
use underpass_core::{
    AuthenticationMethod, Authority, BoxError, Identity, Provenance, Revocation, Scope,
};

/// A token's record in the store.
#[derive(Clone, Debug, Default)]
pub struct TokenRecord {
    /// The token's id in the store. It is no secret.
    pub id: String,
    /// The name of the token's user.
    pub user: String,
    /// The authority that gave the names: the directory for a token of its users, otherwise the authenticator of the login.
    pub authority: Authority,
    /// Their uid, where there is one.
    pub uid: Option<String>,
    /// Their groups.
    pub groups: Vec<String>,
    /// Further facts, by lower-case key.
    pub extra: BTreeMap<String, Vec<String>>,
    /// From when on it is no longer accepted; `None` is never.
    pub expires_at: Option<SystemTime>,
    /// The token's scope.
    pub scope: Scope,
    /// Cancelled when the token is revoked, or its user's groups change.
    pub revocation: Revocation,
}

/// Where tokens are kept.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// Looks a token up; `None` if there is none with this hash. A revoked token is none.
    ///
    /// # Errors
    /// The store cannot be asked now; the client is told to try again.
    async fn find(&self, hash: &TokenHash) -> Result<Option<TokenRecord>, StoreError>;
}

/// The token store could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the token store is not available")]
pub struct StoreError(#[source] pub BoxError);

/// Accepts the tokens of a [`TokenStore`].
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a trait object")]
pub struct TokenAuthenticator {
    name: Arc<str>,
    store: Arc<dyn TokenStore>,
}

impl TokenAuthenticator {
    /// The authenticator called `name`, which looks tokens up in `store`.
    pub fn new(name: impl Into<Arc<str>>, store: Arc<dyn TokenStore>) -> Self {
        Self {
            name: name.into(),
            store,
        }
    }
}

#[async_trait]
impl Authenticator for TokenAuthenticator {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let token = match caller.bearer().map(Token::parse) {
            None | Some(Err(TokenError::Foreign)) => return Ok(None),
            Some(Err(_)) => return Err(CredentialError::Malformed.into()),
            Some(Ok(token)) => token,
        };
        let found = self.store.find(&token.hash()).await;
        let record = found
            .map_err(|error| AuthenticateError::Unavailable(Box::new(error)))?
            .ok_or(CredentialError::Unknown)?;
        if record
            .expires_at
            .is_some_and(|end| end <= SystemTime::now())
        {
            return Err(CredentialError::Expired.into());
        }
        let TokenRecord {
            id,
            user,
            authority,
            uid,
            groups,
            extra,
            expires_at,
            scope,
            revocation,
        } = record;
        let identity = Identity::new(user, uid, groups, extra)
            .map_err(|error| AuthenticateError::Unavailable(Box::new(error)))?;
        let provenance = Provenance::new(
            AuthenticationMethod::Token,
            Arc::clone(&self.name),
            authority,
        )
        .with_end(expires_at)
        .with_scope(scope)
        .with_token(id);
        let revocation = match expires_at {
            Some(end) => revocation.until(end),
            None => revocation,
        };
        Ok(Some(Authenticated {
            identity: identity.vouched_for(provenance),
            claimed: None,
            revocation,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use http::{HeaderMap, header};

    use super::*;
    use underpass_core::{ConnectionInfo, Protocol};

    struct Store(HashMap<TokenHash, TokenRecord>);

    #[async_trait]
    impl TokenStore for Store {
        async fn find(&self, hash: &TokenHash) -> Result<Option<TokenRecord>, StoreError> {
            Ok(self.0.get(hash).cloned())
        }
    }

    async fn present(
        bearer: &str,
        store: Vec<(&Token, TokenRecord)>,
    ) -> Result<Option<String>, AuthenticateError> {
        let mut headers = HeaderMap::new();
        let line = format!("Bearer {bearer}").parse().unwrap();
        headers.insert(header::AUTHORIZATION, line);
        let info = ConnectionInfo {
            peer: std::net::IpAddr::from([127, 0, 0, 1]).into(),
            protocol: Protocol::Http1,
            server_name: None,
            certificates: vec![],
            unusable_certificate: None,
        };
        let store = store
            .into_iter()
            .map(|(token, record)| (token.hash(), record))
            .collect();
        let caller = Caller::read(&headers, &info).unwrap();
        let found = TokenAuthenticator::new("tokens", Arc::new(Store(store)))
            .authenticate(&caller)
            .await?;
        Ok(found.map(|found| found.identity().user().to_owned()))
    }

    #[tokio::test]
    async fn rule_14_tokens_expire() {
        let token = Token::generate().unwrap();
        let record = |expires_at| {
            let user = "alice".to_owned();
            vec![(
                &token,
                TokenRecord {
                    user,
                    expires_at,
                    ..TokenRecord::default()
                },
            )]
        };
        let now = SystemTime::now();
        let later = Some(now + Duration::from_secs(60));
        for valid in [None, later] {
            let user = present(token.expose(), record(valid)).await.unwrap();
            assert_eq!(user.as_deref(), Some("alice"));
        }
        for past in [now, now - Duration::from_secs(1)] {
            let refused = present(token.expose(), record(Some(past))).await;
            assert!(matches!(
                refused,
                Err(AuthenticateError::Rejected(CredentialError::Expired))
            ));
        }
    }

    #[tokio::test]
    async fn other_kinds_are_left_to_others_and_ours_are_not() {
        let token = Token::generate().unwrap();
        assert!(matches!(
            present("eyJhbGciOiJSUzI1NiJ9.x.y", vec![]).await,
            Ok(None)
        ));
        for ours in ["upt_typo", token.expose()] {
            let refused = present(ours, vec![]).await;
            assert!(matches!(refused, Err(AuthenticateError::Rejected(_))));
        }
    }

    #[tokio::test]
    async fn rule_3_an_identity_that_cannot_be_written_is_nobody() {
        let token = Token::generate().unwrap();
        let broken = TokenRecord {
            user: "a\r\nb".to_owned(),
            ..TokenRecord::default()
        };
        let refused = present(token.expose(), vec![(&token, broken)]).await;
        assert!(matches!(refused, Err(AuthenticateError::Unavailable(_))));
    }
}
