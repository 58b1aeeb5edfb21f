//! Several authenticators, in a stated order.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::{
    AuthenticateError, Authenticated, Authenticator, Caller, CredentialError, Names, Password,
    certificate, error::TooSlow,
};
use underpass_core::{NetworkLogShare, Provenance};

/// One authenticator of a [`Chain`].
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a trait object")]
pub struct Step {
    name: Arc<str>,
    authenticator: Arc<dyn Authenticator>,
    limit: Duration,
}

impl Step {
    /// Asks `authenticator`, which logs and metrics call `name`, and waits for at most `limit`.
    pub fn new(
        name: impl Into<Arc<str>>,
        authenticator: Arc<dyn Authenticator>,
        limit: Duration,
    ) -> Self {
        Self {
            name: name.into(),
            authenticator,
            limit,
        }
    }

    /// The name in logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn ask(
        &self,
        caller: &Caller<'_>,
        names: &dyn Names,
        lines: &Lines,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let asking = self.authenticator.authenticate(caller);
        let answered = tokio::time::timeout(self.limit, asking)
            .await
            .unwrap_or_else(|_| Err(AuthenticateError::unavailable(TooSlow(self.limit))));
        let accept = |found| {
            let found = own_origin(unexpired(found)?, caller)?;
            Ok(names.admit(found)?)
        };
        let answered = answered.and_then(|found| found.map(accept).transpose());
        let outcome = match &answered {
            Ok(None) => return answered,
            Ok(Some(_)) => "vouched",
            Err(
                AuthenticateError::Rejected(rejection)
                | AuthenticateError::Certificate { why: rejection, .. },
            ) => {
                if let Some(suppressed) = lines.rejected.take(caller.client()) {
                    tracing::info!(
                        authenticator = &*self.name, client = %caller.client(), %rejection,
                        suppressed = (suppressed > 0).then_some(suppressed),
                        "credential rejected"
                    );
                }
                "rejected"
            }
            Err(AuthenticateError::Unavailable(source)) => {
                // Strangers bring it about as well, while a provider or a cluster is away.
                if let Some(suppressed) = lines.unavailable.take(caller.client()) {
                    let error = &**source as &dyn std::error::Error;
                    tracing::error!(
                        authenticator = &*self.name, client = %caller.client(), error,
                        suppressed = (suppressed > 0).then_some(suppressed),
                        "cannot authenticate"
                    );
                }
                "unavailable"
            }
            Err(AuthenticateError::Busy | AuthenticateError::Wait(_)) => "busy",
        };
        metrics::counter!(
            "underpass_proxy_authentications_total",
            "authenticator" => self.name.to_string(), "outcome" => outcome
        )
        .increment(1);
        answered
    }
}

/// The log's shares: rejections do not hide outages.
#[derive(Debug, Default)]
struct Lines {
    rejected: NetworkLogShare,
    unavailable: NetworkLogShare,
}

/// Authenticators may answer from a cache, or for a connection that has outlived its certificate.
fn unexpired(authenticated: Authenticated) -> Result<Authenticated, AuthenticateError> {
    let provenance = authenticated.identity.provenance();
    let expires_at = provenance.and_then(Provenance::expires_at);
    if expires_at.is_some_and(|end| end <= SystemTime::now()) {
        return Err(CredentialError::Expired.into());
    }
    Ok(authenticated)
}

/// Security rule 27: a credential that browsers attach by themselves counts for pages of our own only.
fn own_origin(
    authenticated: Authenticated,
    caller: &Caller<'_>,
) -> Result<Authenticated, AuthenticateError> {
    if caller.is_foreign() && authenticated.is_ambient() {
        return Err(CredentialError::ForeignOrigin.into());
    }
    Ok(authenticated)
}

/// Several authenticators. The first that knows the credential's kind decides alone: a token that looks like
/// ours and is wrong is never handed to the next one.
#[allow(missing_debug_implementations, reason = "trait objects")]
pub struct Chain {
    steps: ArcSwap<Vec<Step>>,
    names: Arc<dyn Names>,
    lines: Lines,
}

impl Chain {
    /// Asks `steps` from first to last, and `names` about each caller that one of them vouches for.
    pub fn new(steps: Vec<Step>, names: Arc<dyn Names>) -> Self {
        Self {
            steps: ArcSwap::from_pointee(steps),
            names,
            lines: Lines::default(),
        }
    }

    /// Authenticates a name and a password, for a login: the same authenticators decide, in the same order and with the same
    /// bounds, as for HTTP Basic on a request. `None`: none of them reads passwords of such names.
    ///
    /// # Errors
    /// The password is wrong, or cannot be checked now.
    ///
    /// # Cancel safety
    /// As [`Authenticator::authenticate`].
    pub async fn login(
        &self,
        login: Password,
        client: IpAddr,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        self.authenticate(&Caller::typed(login, client)).await
    }

    /// The client shows a certificate that is none of the authenticators', and nothing else.
    fn of_no_authority(&self, caller: &Caller<'_>) -> AuthenticateError {
        let why = CredentialError::Certificate("it leads to no configured CA".to_owned());
        if let Some(suppressed) = self.lines.rejected.take(caller.client()) {
            tracing::info!(
                client = %caller.client(), rejection = %why,
                suppressed = (suppressed > 0).then_some(suppressed),
                "credential rejected"
            );
        }
        AuthenticateError::Certificate {
            told: certificate::NO_AUTHORITY,
            why,
        }
    }

    /// Replaces the authenticators. Checks that are under way go on.
    pub fn replace(&self, steps: Vec<Step>) {
        self.steps.store(Arc::new(steps));
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(
        &self,
        caller: &Caller<'_>,
    ) -> Result<Option<Authenticated>, AuthenticateError> {
        let steps = self.steps.load_full();
        let mut refused = None;
        for step in &*steps {
            let shown = refused.as_ref().map_or(caller, |(_, rest)| rest);
            match step.ask(shown, &*self.names, &self.lines).await {
                Ok(None) => {}
                Err(bad @ AuthenticateError::Certificate { .. })
                    if refused.is_none() && caller.has_authorization() =>
                {
                    // As with kube-apiserver, the other credential decides. No other authenticator sees the certificate.
                    refused = Some((bad, caller.without_certificate()));
                }
                answered => return answered,
            }
        }
        match refused {
            Some((bad, _)) => Err(bad),
            None if caller.has_certificate() && !caller.has_authorization() => {
                Err(self.of_no_authority(caller))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        Source, Unowned,
        source::{Assertion, Reserved},
    };
    use underpass_core::{AuthenticationMethod, ConnectionInfo, Protocol};

    /// Knows tokens that begin with its name, and behaves as the rest says.
    struct Fake(&'static str);

    #[async_trait]
    impl Authenticator for Fake {
        async fn authenticate(
            &self,
            caller: &Caller<'_>,
        ) -> Result<Option<Authenticated>, AuthenticateError> {
            let bearer = caller.bearer().unwrap_or_default();
            let source = Source::new(
                self.0,
                AuthenticationMethod::Jwt,
                Reserved::default(),
                CancellationToken::new(),
            );
            let mut assertion = Assertion {
                user: self.0.to_owned(),
                ..Assertion::default()
            };
            match bearer.strip_prefix(self.0) {
                None => return Ok(None),
                Some("-bad") => return Err(CredentialError::Unknown.into()),
                Some("-away") => {
                    return Err(AuthenticateError::unavailable(TooSlow(Duration::ZERO)));
                }
                Some("-hangs") => std::future::pending().await,
                Some("-old") => assertion.expires_at = Some(SystemTime::now()),
                Some(_) => {}
            }
            Ok(Some(source.vouch(assertion)?))
        }
    }

    thread_local! {
        /// The errors that this thread has logged.
        static ERRORS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Counts errors.
    struct Log;

    impl tracing::Subscriber for Log {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::ERROR
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            ERRORS.set(ERRORS.get() + 1);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    /// Any client may send tokens for a provider that is away, thousands of times a second.
    #[tokio::test(start_paused = true)]
    async fn rule_23_a_provider_that_is_away_does_not_let_strangers_fill_the_log() {
        tracing::subscriber::set_global_default(Log).unwrap();
        let chain = chain(&["jwt"]);
        for _ in 0..10_000 {
            ask(&chain, "jwt-bad").await.unwrap_err();
        }
        for _ in 0..10_000 {
            ask(&chain, "jwt-away").await.unwrap_err();
        }
        let lines = ERRORS.get();
        let share = underpass_core::limits::REFUSAL_LINES as usize;
        assert_eq!(lines, share, "rejections take none of them");
    }

    fn chain(names: &[&'static str]) -> Chain {
        Chain::new(steps(names), Arc::new(Unowned))
    }

    fn steps(names: &[&'static str]) -> Vec<Step> {
        let step = |&name| Step::new(name, Arc::new(Fake(name)), Duration::from_secs(5));
        names.iter().map(step).collect()
    }

    async fn ask(chain: &Chain, bearer: &str) -> Result<Option<String>, AuthenticateError> {
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
        let caller = Caller::read(&headers, &info).unwrap();
        let found = chain.authenticate(&caller).await?;
        Ok(found.map(|found| found.identity().user().to_owned()))
    }

    #[tokio::test]
    async fn whose_credential_it_is_decides_alone() {
        let chain = chain(&["a", "ab", "c"]);
        assert_eq!(ask(&chain, "ab").await.unwrap().as_deref(), Some("a"));
        assert_eq!(ask(&chain, "c").await.unwrap().as_deref(), Some("c"));
        assert_eq!(ask(&chain, "d").await.unwrap(), None);
        let refused = ask(&chain, "a-bad").await.unwrap_err();
        assert!(matches!(
            refused,
            AuthenticateError::Rejected(CredentialError::Unknown)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_given_up_and_delays_nobody_else() {
        let chain = chain(&["a", "b"]);
        let hung = ask(&chain, "a-hangs").await.unwrap_err();
        assert!(matches!(hung, AuthenticateError::Unavailable(_)));
        let begin = tokio::time::Instant::now();
        assert_eq!(ask(&chain, "b").await.unwrap().as_deref(), Some("b"));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn an_expired_identity_is_nobody() {
        let refused = ask(&chain(&["a"]), "a-old").await.unwrap_err();
        assert!(matches!(
            refused,
            AuthenticateError::Rejected(CredentialError::Expired)
        ));
    }

    #[tokio::test]
    async fn the_chain_may_change() {
        let chain = chain(&["a"]);
        chain.replace(steps(&["b"]));
        assert_eq!(ask(&chain, "a").await.unwrap(), None);
        assert_eq!(ask(&chain, "b").await.unwrap().as_deref(), Some("b"));
    }
}
