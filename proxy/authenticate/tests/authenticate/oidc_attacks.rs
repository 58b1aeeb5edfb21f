//! Forged tokens, and tokens that are not for us.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use underpass_authenticate::{Caller, CredentialError, Oidc};
use underpass_core::{AuthenticationMethod, ConnectionInfo, Protocol, Rejection, limits};
use underpass_testenv::testing::providers::OidcProvider;

use crate::oidc::{alice, config, oidc};
use crate::present::{bearer, identity, rejection, source, unavailable};

const HOUR: u64 = 3600;

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn claims(provider: &OidcProvider) -> Value {
    json!({
        "iss": provider.issuer(), "aud": "underpass", "exp": now() + HOUR, "sub": "root", "oid": "0",
    })
}

fn encode(part: &Value) -> String {
    BASE64URL.encode(part.to_string())
}

/// A token with this header and any signature.
pub(crate) fn forged(provider: &OidcProvider, header: Value) -> String {
    let signature = BASE64URL.encode([7; 256]);
    format!(
        "{}.{}.{signature}",
        encode(&header),
        encode(&claims(provider))
    )
}

/// A key of the attacker's, and its public half.
fn attackers_key() -> (EncodingKey, Jwk) {
    let key = rcgen::KeyPair::generate().unwrap();
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    (key, jwk)
}

async fn kid_of(provider: &OidcProvider, alg: &str) -> String {
    let keys = provider.document("/jwks").await;
    let keys = keys["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["alg"] == alg).unwrap();
    key["kid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_signature_and_symmetric_signatures_are_refused() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let kid = kid_of(&provider, "RS256").await;
    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "RS1", "PS256",
    ] {
        for token in [
            forged(&provider, json!({ "alg": alg, "kid": kid })),
            // Without a signature at all.
            format!(
                "{}.{}.",
                encode(&json!({ "alg": alg })),
                encode(&claims(&provider))
            ),
        ] {
            assert_eq!(
                rejection(bearer(&oidc, &token).await),
                CredentialError::Algorithm,
                "{alg}"
            );
        }
    }
    // Signed with a published value: the public key, in each form that a library might take for a secret.
    let keys = provider.document("/jwks").await;
    let public = &keys["keys"][0];
    let modulus = public["n"].as_str().unwrap();
    let secrets = [
        public.to_string().into_bytes(),
        modulus.as_bytes().to_vec(),
        BASE64URL.decode(modulus).unwrap(),
    ];
    for secret in secrets {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.clone());
        let key = EncodingKey::from_secret(&secret);
        let token = jsonwebtoken::encode(&header, &claims(&provider), &key).unwrap();
        assert_eq!(
            rejection(bearer(&oidc, &token).await),
            CredentialError::Algorithm
        );
    }
    // None of them was a reason to ask the provider; this test did twice.
    assert_eq!(provider.fetches().await, 2);
}

#[tokio::test]
async fn what_was_signed_cannot_be_changed() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let token = provider.token("underpass", &alice(), 60).await;
    let mut parts = token.split('.');
    let (head, _, signature) = (parts.next().unwrap(), parts.next(), parts.next().unwrap());
    let changed = format!("{head}.{}.{signature}", encode(&claims(&provider)));
    assert_eq!(
        rejection(bearer(&oidc, &changed).await),
        CredentialError::Signature
    );
    let other = provider
        .token("underpass", &json!({ "sub": "bob", "oid": "8" }), 60)
        .await;
    let others = other.rsplit('.').next().unwrap();
    let swapped = token.replace(signature, others);
    assert_eq!(
        rejection(bearer(&oidc, &swapped).await),
        CredentialError::Signature
    );
    identity(bearer(&oidc, &token).await);
}

#[tokio::test]
async fn a_key_that_the_token_brings_is_not_used() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let (key, jwk) = attackers_key();
    let kid = kid_of(&provider, "ES256").await;
    for (kid, why) in [
        (Some(kid), CredentialError::Signature),
        (Some("attacker".to_owned()), CredentialError::UnknownKey),
        (None, CredentialError::Signature),
    ] {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = kid;
        header.jwk = Some(jwk.clone());
        header.jku = Some("https://attacker.example/jwks".to_owned());
        header.x5u = Some("https://attacker.example/x5u".to_owned());
        let token = jsonwebtoken::encode(&header, &claims(&provider), &key).unwrap();
        assert_eq!(rejection(bearer(&oidc, &token).await), why);
    }
    // A key of one kind under the id of another.
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(kid_of(&provider, "RS256").await);
    let token = jsonwebtoken::encode(&header, &claims(&provider), &key).unwrap();
    assert_eq!(
        rejection(bearer(&oidc, &token).await),
        CredentialError::UnknownKey
    );
}

#[tokio::test]
async fn a_key_id_is_a_name_and_nothing_else() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    for kid in [
        "../../../../dev/null",
        "/etc/passwd",
        "file:///dev/null",
        "https://attacker.example/key",
        "' OR '1'='1",
        "a\0b",
        "",
        &"k".repeat(10_000),
    ] {
        let token = forged(&provider, json!({ "alg": "RS256", "kid": kid }));
        assert_eq!(
            rejection(bearer(&oidc, &token).await),
            CredentialError::UnknownKey,
            "{kid}"
        );
    }
    for kid in [json!(7), json!(["a"]), json!({})] {
        let token = forged(&provider, json!({ "alg": "RS256", "kid": kid }));
        assert_eq!(
            rejection(bearer(&oidc, &token).await),
            CredentialError::Malformed,
            "{kid}"
        );
    }
    let critical = json!({ "alg": "RS256", "crit": ["b64"], "b64": false });
    let token = forged(&provider, critical);
    assert_eq!(
        rejection(bearer(&oidc, &token).await),
        CredentialError::Malformed
    );
}

#[tokio::test]
async fn rule_11_made_up_key_ids_do_not_flood_the_provider() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let begin = std::time::Instant::now();
    for n in 0..200 {
        let token = forged(&provider, json!({ "alg": "RS256", "kid": format!("k{n}") }));
        assert_eq!(
            rejection(bearer(&oidc, &token).await),
            CredentialError::UnknownKey
        );
    }
    let pauses = begin.elapsed().as_millis() / limits::ISSUER_KEYS_PAUSE.as_millis();
    let fetches = provider.fetches().await;
    assert!(
        u128::from(fetches) <= pauses + 1,
        "{fetches} in {pauses} pauses"
    );
}

#[tokio::test]
async fn tokens_for_others_and_of_others_are_refused() {
    let (provider, other) = (OidcProvider::start().await, OidcProvider::start().await);
    let oidc = oidc(&provider);
    let token = provider.token("other", &alice(), 60).await;
    assert_eq!(
        rejection(bearer(&oidc, &token).await),
        CredentialError::Audience
    );
    // Another issuer's token is another authenticator's.
    let token = other.token("underpass", &alice(), 60).await;
    assert!(bearer(&oidc, &token).await.unwrap().is_none());
    // Another issuer that says it is this one.
    let mut config = config(&provider);
    config.discovery_url = Some(format!(
        "{}/.well-known/openid-configuration",
        other.issuer()
    ));
    config.roots = underpass_authenticate::Roots::from_pem(other.ca().as_bytes()).unwrap();
    let confused = Oidc::new(source("corp", AuthenticationMethod::Jwt), config).unwrap();
    let token = provider.token("underpass", &alice(), 60).await;
    let said = unavailable(bearer(&confused, &token).await);
    assert!(said.contains("another issuer"), "{said}");
}

#[tokio::test]
async fn expired_tokens_are_refused() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let token = provider.token("underpass", &alice(), -60).await;
    assert_eq!(
        rejection(bearer(&oidc, &token).await),
        CredentialError::Expired
    );
}

#[tokio::test]
async fn rule_17_reserved_names_are_refused() {
    let provider = OidcProvider::start().await;
    let mut config = config(&provider);
    config.claims.username_prefix.clear();
    config.claims.groups.as_mut().unwrap().prefix.clear();
    let oidc = Oidc::new(source("corp", AuthenticationMethod::Jwt), config).unwrap();
    for (claims, name) in [
        (json!({ "sub": "system:admin", "oid": "1" }), "system:admin"),
        (
            json!({ "sub": "eve", "oid": "1", "groups": ["dev", "system:masters"] }),
            "system:masters",
        ),
    ] {
        let token = provider.token("underpass", &claims, 60).await;
        let refused = rejection(bearer(&oidc, &token).await);
        assert_eq!(refused, CredentialError::Reserved(name.to_owned()));
    }
}

#[tokio::test]
async fn rule_11_floods_of_groups_and_huge_tokens_are_refused() {
    let provider = OidcProvider::start().await;
    let oidc = oidc(&provider);
    let groups = vec!["g"; limits::GROUPS + 1];
    let claims = json!({ "sub": "eve", "oid": "1", "groups": groups });
    let token = provider.token("underpass", &claims, 60).await;
    let error = bearer(&oidc, &token).await.unwrap_err();
    let told = Rejection::from(&error);
    assert_eq!(told.code(), StatusCode::FORBIDDEN);
    assert!(
        told.to_string().contains("too many or too long groups"),
        "{told}"
    );
    // A text larger than any token is not even read.
    let mut headers = HeaderMap::new();
    let huge = format!("Bearer {}", "a".repeat(limits::BEARER_BYTES + 1));
    headers.insert(header::AUTHORIZATION, huge.parse().unwrap());
    let info = ConnectionInfo {
        peer: std::net::IpAddr::from([127, 0, 0, 1]).into(),
        protocol: Protocol::Http1,
        server_name: None,
        certificates: vec![],
        unusable_certificate: None,
    };
    assert!(Caller::read(&headers, &info).is_none());
}
