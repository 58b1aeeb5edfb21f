//! A real OpenID Connect provider.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt as _;
use serde_json::json;
use underpass_authenticate::{
    Chain, Claims, CredentialError, Oidc, OidcConfig, PrefixedClaim, Roots, Step, Unowned,
};
use underpass_core::{AuthenticationMethod, limits};
use underpass_testenv::testing::{eventually, providers::OidcProvider};

use crate::present::{bearer, identity, rejection, soon, source, unavailable};

pub(crate) fn config(provider: &OidcProvider) -> OidcConfig {
    OidcConfig {
        issuer_url: provider.issuer().to_owned(),
        discovery_url: None,
        audiences: vec!["underpass".to_owned(), "underpass-es256".to_owned()],
        roots: Roots::from_pem(provider.ca().as_bytes()).unwrap(),
        proxy: None,
        algorithms: vec!["RS256".parse().unwrap(), "ES256".parse().unwrap()],
        clock_skew: Duration::from_secs(2),
        login_lifetime: None,
        claims: Claims {
            groups: Some(PrefixedClaim {
                claim: "groups".to_owned(),
                prefix: "corp:".to_owned(),
            }),
            uid: Some("oid".to_owned()),
            extra: vec![("example.org/team".to_owned(), "team".to_owned())],
            ..Claims::subject("corp:")
        },
        required: Vec::new(),
    }
}

pub(crate) fn oidc(provider: &OidcProvider) -> Oidc {
    Oidc::new(source("corp", AuthenticationMethod::Jwt), config(provider)).unwrap()
}

pub(crate) fn alice() -> serde_json::Value {
    json!({ "sub": "alice", "oid": "7", "groups": ["dev", "ops"], "team": "blue" })
}

#[tokio::test]
async fn a_token_gives_an_identity() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    for client in ["underpass", "underpass-es256"] {
        let token = provider.token(client, &alice(), 60).await;
        let found = identity(bearer(&oidc, &token).await);
        assert_eq!(found.user(), "corp:alice");
        assert_eq!(found.uid(), Some("7"));
        assert_eq!(found.groups(), ["corp:dev", "corp:ops"]);
        assert_eq!(found.extra()["example.org/team"], ["blue"]);
        let provenance = found.provenance().unwrap();
        assert_eq!(provenance.to_string(), "jwt/corp");
        let left = provenance
            .expires_at()
            .unwrap()
            .duration_since(SystemTime::now())
            .unwrap();
        assert!(left <= Duration::from_secs(62), "{left:?}");
    }
    assert_eq!(provider.fetches().await, 1);
}

#[tokio::test]
async fn groups_that_the_provider_keeps_elsewhere_are_not_lost_in_silence() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let elsewhere = json!({ "groups": "src1" });
    let endpoint = format!("{}/groups", provider.issuer());
    let sources = json!({ "src1": { "endpoint": endpoint, "access_token": "x" } });
    for overage in [
        json!({ "_claim_names": elsewhere, "_claim_sources": sources }),
        json!({ "hasgroups": true }),
    ] {
        let mut claims = json!({ "sub": "alice", "oid": "7" });
        claims
            .as_object_mut()
            .unwrap()
            .extend(overage.as_object().unwrap().clone());
        let token = provider.token("underpass", &claims, 60).await;
        let refused = rejection(bearer(&oidc, &token).await);
        assert_eq!(
            refused,
            CredentialError::ClaimElsewhere("groups".to_owned())
        );
        assert!(
            refused.to_string().contains("application roles"),
            "{refused}"
        );
    }
    // A user without groups says nothing of them.
    let bob = json!({ "sub": "bob", "oid": "8" });
    let token = provider.token("underpass", &bob, 60).await;
    let bob = identity(bearer(&oidc, &token).await);
    assert!(bob.groups().is_empty());
}

#[tokio::test]
async fn keys_may_be_rotated() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let old = provider.token("underpass", &alice(), 60).await;
    identity(bearer(&oidc, &old).await);
    provider.rotate().await;
    let new = provider.token("underpass", &alice(), 60).await;
    // The keys were fetched a moment ago, and are not fetched again at once.
    eventually("the new key is known", async || bearer(&oidc, &new).await).await;
    // A key that the provider no longer publishes is rejected.
    assert_eq!(
        rejection(bearer(&oidc, &old).await),
        CredentialError::UnknownKey
    );
}

/// kube-apiserver asks for the keys again where a signature fits none of them.
#[tokio::test]
async fn a_new_key_may_have_the_name_of_the_old_one() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let old = provider.token("underpass", &alice(), 60).await;
    identity(bearer(&oidc, &old).await);
    provider.rekey().await;
    let new = provider.token("underpass", &alice(), 60).await;
    eventually("the new key is known", async || bearer(&oidc, &new).await).await;
    let refused = rejection(bearer(&oidc, &old).await);
    assert_eq!(refused, CredentialError::Signature);
    // Bad signatures do not flood the provider.
    let (before, begin) = (provider.fetches().await, Instant::now());
    for _ in 0..50 {
        rejection(bearer(&oidc, &old).await);
    }
    let pauses = begin.elapsed().as_secs() / limits::ISSUER_KEYS_PAUSE.as_secs();
    assert!(provider.fetches().await <= before + 1 + pauses);
}

#[tokio::test]
async fn a_provider_that_is_gone_leaves_its_keys() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let token = provider.token("underpass", &alice(), 60).await;
    let es256 = provider.token("underpass-es256", &alice(), 60).await;
    identity(bearer(&oidc, &token).await);
    provider.kill();
    identity(bearer(&oidc, &token).await);
    identity(bearer(&oidc, &es256).await);
    // It is unknown whether there is another key now.
    let forged = crate::oidc_attacks::forged(&provider, json!({ "kid": "new", "alg": "RS256" }));
    let said = eventually("the keys are asked for", async || {
        match bearer(&oidc, &forged).await {
            Err(underpass_authenticate::AuthenticateError::Rejected(r)) => Err(r),
            other => Ok(unavailable(other)),
        }
    })
    .await;
    assert!(said.contains("discovery document"), "{said}");
    identity(bearer(&oidc, &token).await);
}

/// The keys that are known are the old ones: that a token fits none of them says nothing while the provider is away.
#[tokio::test]
async fn an_outage_after_new_keys_is_not_the_tokens_fault() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let old = provider.token("underpass", &alice(), 60).await;
    identity(bearer(&oidc, &old).await);
    provider.rekey().await;
    let new = provider.token("underpass", &alice(), 60).await;
    provider.kill();
    // The keys were fetched a moment ago, and are not fetched again at once.
    let said = eventually("the keys are asked for", async || {
        match bearer(&oidc, &new).await {
            Err(underpass_authenticate::AuthenticateError::Rejected(r)) => Err(r),
            other => Ok(unavailable(other)),
        }
    })
    .await;
    assert!(said.contains("discovery document"), "{said}");
    // A moment later it is not asked again, and the answer is the same.
    let said = unavailable(bearer(&oidc, &new).await);
    assert!(said.contains("could not be fetched"), "{said}");
    identity(bearer(&oidc, &old).await);
}

#[tokio::test]
async fn rule_23_a_provider_that_hangs_is_asked_once_by_all() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let token = provider.token("underpass", &alice(), 60).await;
    provider.hang().await;
    let tasks = || {
        let runtime = tokio::runtime::Handle::current();
        runtime.metrics().num_alive_tasks()
    };
    let before = tasks();
    let mut callers: Vec<_> = (0..100).map(|_| Box::pin(bearer(&oidc, &token))).collect();
    for caller in &mut callers {
        assert!(caller.as_mut().now_or_never().is_none());
    }
    assert_eq!(tasks(), before + 1, "one fetch");
    // It goes on without callers that leave.
    callers.truncate(1);
    provider.resume().await;
    let last = soon(callers.remove(0)).await;
    assert!(last.is_ok() || !unavailable(last).is_empty());
    eventually("it is back", async || bearer(&oidc, &token).await).await;
}

#[tokio::test]
async fn a_provider_that_hangs_delays_its_own_users_only() {
    let (hanging, good) = (OidcProvider::start().await, OidcProvider::start().await);
    let slow = hanging.token("underpass", &alice(), 60).await;
    let quick = good.token("underpass", &alice(), 60).await;
    hanging.hang().await;
    let limit = Duration::from_secs(1);
    let steps = vec![
        Step::new("hanging", Arc::new(oidc(&hanging)), limit),
        Step::new("good", Arc::new(oidc(&good)), Duration::from_secs(20)),
    ];
    let chain = Chain::new(steps, Arc::new(Unowned));
    let begin = Instant::now();
    let (hung, served) = tokio::join!(bearer(&chain, &slow), async {
        let served = bearer(&chain, &quick).await;
        assert!(begin.elapsed() < limits::PROVIDER_TIME);
        served
    });
    assert!(unavailable(hung).contains("longer than 1s"));
    assert!(begin.elapsed() < limits::PROVIDER_TIME);
    identity(served);
    // It is over when the provider is back, and its time has passed.
    hanging.resume().await;
    eventually("it is back", async || bearer(&chain, &slow).await).await;
}

#[tokio::test]
async fn a_provider_with_another_certificate_is_not_believed() {
    let (provider, other) = (OidcProvider::start().await, OidcProvider::start().await);
    let token = provider.token("underpass", &alice(), 60).await;
    let mut config = config(&provider);
    config.roots = Roots::from_pem(other.ca().as_bytes()).unwrap();
    let oidc = Oidc::new(source("corp", AuthenticationMethod::Jwt), config).unwrap();
    let said = unavailable(bearer(&oidc, &token).await);
    assert!(said.contains("cannot be reached"), "{said}");
}
