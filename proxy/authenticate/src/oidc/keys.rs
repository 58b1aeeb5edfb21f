//! An issuer's keys: found, fetched, and kept while the issuer is away.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::Uri;
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::config::Algorithm;
use crate::{AuthenticateError, CredentialError, config::https_url};
use underpass_core::{brief, limits};
use underpass_https::{Https, HttpsError};

/// Where an issuer's keys come from, and those that it had last.
pub(super) struct Issuer {
    url: String,
    discovery: Uri,
    https: Https,
    keys: ArcSwapOption<Keys>,
    fetch: Mutex<Fetch>,
}

/// The fetch that is under way, or the last one.
enum Fetch {
    None,
    /// All callers without keys wait for this one.
    UnderWay(Fetching),
    Ended {
        at: Instant,
        failed: bool,
    },
}

type Fetching = Shared<BoxFuture<'static, Result<(), Arc<KeysError>>>>;

struct Keys {
    keys: Vec<Arc<Key>>,
    fetched: Instant,
}

/// A key that signs.
pub(super) struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    kind: KeyType,
    pub(super) key: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyType {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// Why there are no (new) keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error("cannot fetch the issuer's discovery document")]
    Discovery(#[source] HttpsError),
    #[error("the discovery document is of {0:?}, another issuer")]
    OtherIssuer(String),
    #[error("the discovery document's jwks_uri is no https URL")]
    KeysUrl,
    #[error("cannot fetch the issuer's keys")]
    Keys(#[source] HttpsError),
    #[error("none of the issuer's keys can be used")]
    NoKey,
    #[error("the issuer's keys could not be fetched a moment ago")]
    NotNow,
}

/// OpenID Connect Discovery 1.0, section 3: the fields that are used.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Each key by itself: one of a kind that is not known must not take the others away.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl Issuer {
    pub(super) fn new(url: String, discovery: Uri, https: Https) -> Self {
        Self {
            url,
            discovery,
            https,
            keys: ArcSwapOption::empty(),
            fetch: Mutex::new(Fetch::None),
        }
    }

    /// The keys that may have signed a token with this header; there is at least one.
    pub(super) async fn keys(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<Arc<Key>>, AuthenticateError> {
        let current = self.keys.load_full();
        let found = current.as_ref().map(|keys| keys.find(id, algorithm));
        if let (Some(keys), Some(found)) = (&current, found)
            && !found.is_empty()
        {
            let age = keys.fetched.elapsed();
            if age < limits::ISSUER_KEYS_STALE {
                if age >= limits::ISSUER_KEYS_AGE {
                    // It goes on by itself.
                    let _ = self.fetching();
                }
                return Ok(found);
            }
        }
        self.refresh()
            .await
            .map_err(AuthenticateError::unavailable)?;
        let current = self.keys.load_full();
        let found = current
            .map(|keys| keys.find(id, algorithm))
            .unwrap_or_default();
        if found.is_empty() {
            return Err(CredentialError::UnknownKey.into());
        }
        Ok(found)
    }

    /// The keys that may have signed a token with this header, where the issuer has others by now than `known`. Where it cannot
    /// be asked, it may have: the token is none the worse for that.
    pub(super) async fn newer(
        self: &Arc<Self>,
        known: &[Arc<Key>],
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Vec<Arc<Key>>>, AuthenticateError> {
        let Some(before) = self.keys.load_full() else {
            return Ok(None);
        };
        self.refresh()
            .await
            .map_err(AuthenticateError::unavailable)?;
        let Some(now) = self.keys.load_full() else {
            return Ok(None);
        };
        let found = now.find(id, algorithm);
        let has = |key: &&Arc<Key>| known.iter().any(|one| Arc::ptr_eq(one, key));
        let new = !Arc::ptr_eq(&before, &now) || !found.iter().all(|key| has(&key));
        Ok(new.then_some(found))
    }

    /// Fetches the keys, unless that was done a moment ago.
    ///
    /// # Cancel safety
    /// The fetch goes on: other callers may wait for it.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), Arc<KeysError>> {
        match self.fetching() {
            Ok(fetching) => fetching.await,
            Err(true) => Err(Arc::new(KeysError::NotNow)),
            Err(false) => Ok(()),
        }
    }

    /// The fetch that is under way, or a new one. One that ended a moment ago tells whether it failed.
    fn fetching(self: &Arc<Self>) -> Result<Fetching, bool> {
        let mut fetch = self.fetch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*fetch {
            Fetch::UnderWay(fetching) => return Ok(fetching.clone()),
            Fetch::Ended { at, failed } if at.elapsed() < limits::ISSUER_KEYS_PAUSE => {
                return Err(*failed);
            }
            Fetch::None | Fetch::Ended { .. } => {}
        }
        let issuer = Arc::clone(self);
        let task = tokio::spawn(async move { issuer.fetch_and_keep().await });
        let ended = task.map(|ended| match ended {
            Ok(ended) => ended,
            Err(_) => Err(Arc::new(KeysError::NotNow)),
        });
        let fetching = ended.boxed().shared();
        *fetch = Fetch::UnderWay(fetching.clone());
        Ok(fetching)
    }

    async fn fetch_and_keep(&self) -> Result<(), Arc<KeysError>> {
        // Also where the fetch panics: no caller may wait for it for ever.
        let mut ending = Ending {
            fetch: &self.fetch,
            failed: true,
        };
        match self.fetch().await {
            Ok(keys) => {
                tracing::debug!(issuer = self.url, keys = keys.keys.len(), "keys fetched");
                self.keys.store(Some(Arc::new(keys)));
                ending.failed = false;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(
                    issuer = self.url,
                    error = &error as &dyn std::error::Error,
                    "cannot fetch keys"
                );
                Err(Arc::new(error))
            }
        }
    }

    async fn fetch(&self) -> Result<Keys, KeysError> {
        let discovery = self.https.document::<Discovery>(&self.discovery).await;
        let discovery = discovery.map_err(KeysError::Discovery)?;
        if discovery.issuer != self.url {
            return Err(KeysError::OtherIssuer(
                brief(&discovery.issuer).into_owned(),
            ));
        }
        let url = https_url("jwks_uri", &discovery.jwks_uri);
        let url = url.map_err(|_| KeysError::KeysUrl)?;
        let set = self.https.document::<KeySet>(&url).await;
        let set = set.map_err(KeysError::Keys)?;
        let keys = set.keys.into_iter().filter_map(Key::read).map(Arc::new);
        let mut keys: Vec<_> = keys.collect();
        if let left_out @ 1.. = keys.len().saturating_sub(limits::ISSUER_KEYS) {
            let (issuer, most) = (&self.url, limits::ISSUER_KEYS);
            tracing::warn!(
                issuer,
                left_out,
                most,
                "the issuer has more keys than are kept: tokens that the last of them sign are refused"
            );
            keys.truncate(most);
        }
        if keys.is_empty() {
            return Err(KeysError::NoKey);
        }
        let fetched = Instant::now();
        Ok(Keys { keys, fetched })
    }
}

/// Notes the end of a fetch when it is dropped.
struct Ending<'a> {
    fetch: &'a Mutex<Fetch>,
    failed: bool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let (at, failed) = (Instant::now(), self.failed);
        let mut fetch = self.fetch.lock().unwrap_or_else(PoisonError::into_inner);
        *fetch = Fetch::Ended { at, failed };
    }
}

impl Keys {
    /// A token without a key's id may be of any of them.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<Arc<Key>> {
        let fits = |key: &&Arc<Key>| {
            (id.is_none() || key.id.as_deref() == id) && key.signs_with(algorithm)
        };
        self.keys.iter().filter(fits).cloned().collect()
    }
}

impl Key {
    /// `None` for a key that signs nothing, or in a way that is not known here. Symmetric keys are never read.
    fn read(mut value: serde_json::Value) -> Option<Self> {
        tidy(&mut value);
        let algorithm = match value.get("alg") {
            None => None,
            Some(name) => Some(name.as_str()?.to_owned()),
        };
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let signs = match &jwk.common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(_) => false,
        };
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => KeyType::Rsa,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => KeyType::P256,
                EllipticCurve::P384 => KeyType::P384,
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) => match key.curve {
                EllipticCurve::Ed25519 => KeyType::Ed25519,
                _ => return None,
            },
            _ => return None,
        };
        signs.then_some(())?;
        Some(Self {
            key: DecodingKey::from_jwk(&jwk).ok()?,
            id: jwk.common.key_id,
            algorithm,
            kind,
        })
    }

    /// A key that says how it signs signs in no other way.
    fn signs_with(&self, algorithm: Algorithm) -> bool {
        use jsonwebtoken::Algorithm as A;
        let kind = match algorithm.0 {
            A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => KeyType::Rsa,
            A::ES256 => KeyType::P256,
            A::ES384 => KeyType::P384,
            A::EdDSA => KeyType::Ed25519,
            _ => return false,
        };
        let said = self.algorithm.as_deref();
        self.kind == kind && said.is_none_or(|said| said == algorithm.to_string())
    }
}

/// Takes away padding, and the leading zero octets of RSA's numbers, which RFC 7518 (sections 2 and 6.3.1) has none of. Some issuers write
/// them, and go-jose, with which kube-apiserver reads keys, takes both.
fn tidy(key: &mut serde_json::Value) {
    for name in ["n", "e", "x", "y"] {
        let Some(serde_json::Value::String(text)) = key.get_mut(name) else {
            continue;
        };
        text.truncate(text.trim_end_matches('=').len());
        // A point's coordinates have the curve's length, zeros included.
        if let ("n" | "e", Ok(number)) = (name, BASE64URL.decode(&*text)) {
            let zeros = number.iter().take_while(|octet| **octet == 0).count();
            if let Some(rest) = number.get(zeros..).filter(|_| zeros > 0) {
                *text = BASE64URL.encode(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rsa(extra: serde_json::Value) -> Option<Key> {
        let mut jwk = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "a" });
        let fields = jwk.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        Key::read(jwk)
    }

    #[test]
    fn only_keys_that_sign_in_public_are_read() {
        assert!(rsa(json!({})).is_some());
        assert!(rsa(json!({ "use": "sig", "alg": "RS256" })).is_some());
        assert!(rsa(json!({ "use": "enc" })).is_none());
        assert!(rsa(json!({ "alg": 7 })).is_none());
        for other in [
            json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "a" }),
            json!({ "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" }),
            json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
            json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }),
            json!({ "kty": "RSA", "n": "!", "e": "AQAB" }),
            json!([]),
            json!("x"),
        ] {
            assert!(Key::read(other.clone()).is_none(), "{other}");
        }
    }

    #[test]
    fn numbers_may_be_padded_and_begin_with_zeros() {
        let tidied = |n: &str| {
            let mut key = json!({ "kty": "RSA", "n": n, "e": "AAEAAQ==" });
            assert!(Key::read(key.clone()).is_some(), "{n}");
            tidy(&mut key);
            assert_eq!(key["e"], "AQAB");
            key["n"].as_str().unwrap().to_owned()
        };
        // 65537, also with a zero octet as of a signed number.
        for n in ["AQAB", "AAEAAQ", "AAEAAQ==", "AAABAAE=", "AAAAAQAB"] {
            assert_eq!(tidied(n), "AQAB", "{n}");
        }
        let mut point = json!({ "kty": "EC", "x": "AAEAAQ==", "y": "AAAA" });
        tidy(&mut point);
        assert_eq!(point, json!({ "kty": "EC", "x": "AAEAAQ", "y": "AAAA" }));
    }

    #[test]
    fn a_key_signs_in_its_own_way_only() {
        let algorithm = |name: &str| name.parse::<Algorithm>().unwrap();
        let any = rsa(json!({})).unwrap();
        assert!(any.signs_with(algorithm("RS256")) && any.signs_with(algorithm("PS512")));
        assert!(!any.signs_with(algorithm("ES256")));
        let one = rsa(json!({ "alg": "PS256" })).unwrap();
        assert!(one.signs_with(algorithm("PS256")) && !one.signs_with(algorithm("RS256")));
        let encrypts = rsa(json!({ "alg": "RSA-OAEP" })).unwrap();
        assert!(!encrypts.signs_with(algorithm("RS256")));
    }

    #[test]
    fn keys_are_found_by_their_id() {
        let keys = ["a", "b"].map(|id| Arc::new(rsa(json!({ "kid": id })).unwrap()));
        let fetched = Instant::now();
        let keys = Keys {
            keys: keys.into(),
            fetched,
        };
        assert_eq!(keys.find(Some("a"), Algorithm::RS256).len(), 1);
        assert_eq!(keys.find(None, Algorithm::RS256).len(), 2);
        for path in ["c", "../a", "a\0", "", "A"] {
            assert!(keys.find(Some(path), Algorithm::RS256).is_empty());
        }
    }
}
