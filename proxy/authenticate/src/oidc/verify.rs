//! Is the token genuine, for us, and of now?

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{
    OidcConfig,
    config::Algorithm,
    keys::{Issuer, Key},
};
use crate::{AuthenticateError, CredentialError, jwt};

/// How far the issuer's clock may be ahead of ours at the least, where it says from when on its token counts: as with
/// kube-apiserver. The token is the issuer's own and no older for it.
const NOT_BEFORE_SKEW: Duration = Duration::from_secs(60);

/// The claims that a token's issuer has signed.
pub(super) type Signed = Map<String, Value>;

/// Checks the signature, and then the claims. (RFC 7519, section 7.2; RFC 8725, sections 3.1 to 3.9.)
pub(super) async fn verify(
    token: &str,
    config: &OidcConfig,
    issuer: &Arc<Issuer>,
) -> Result<Signed, AuthenticateError> {
    let header = jwt::header(token).ok_or(CredentialError::Malformed)?;
    if header.crit.is_some() {
        return Err(CredentialError::Malformed.into());
    }
    // Before any key is looked for: the token does not choose among algorithms that are not allowed.
    let algorithm = header.alg.parse::<Algorithm>();
    let algorithm = algorithm.map_err(|_| CredentialError::Algorithm)?;
    if !config.algorithms.contains(&algorithm) {
        return Err(CredentialError::Algorithm.into());
    }
    let id = header.kid.as_deref();
    let keys = issuer.keys(id, algorithm).await?;
    let mut signed = signed_by(&keys, token, algorithm);
    // A new key may have the name of an old one, or none.
    if let Err(CredentialError::Signature) = signed
        && let Some(newer) = issuer.newer(&keys, id, algorithm).await?
    {
        signed = signed_by(&newer, token, algorithm);
    }
    let claims = signed?;
    check(&claims, config, now())?;
    Ok(claims)
}

fn signed_by(
    keys: &[Arc<Key>],
    token: &str,
    algorithm: Algorithm,
) -> Result<Signed, CredentialError> {
    let mut refused = CredentialError::Signature;
    for key in keys {
        match jsonwebtoken::decode::<Signed>(token, &key.key, &signature_only(algorithm)) {
            Ok(signed) => return Ok(signed.claims),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
            Err(_) => refused = CredentialError::Malformed,
        }
    }
    Err(refused)
}

/// The claims are checked here: a missing claim, or one of another type, is an error of its own.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm.0);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::MAX)
}

fn check(claims: &Signed, config: &OidcConfig, now: Duration) -> Result<(), CredentialError> {
    if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer_url) {
        return Err(CredentialError::Claim("iss".to_owned()));
    }
    let wanted = |audience: &Value| {
        let audience = audience.as_str();
        audience.is_some_and(|audience| config.audiences.iter().any(|a| a == audience))
    };
    let ours = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(wanted),
        Some(audience) => wanted(audience),
        None => false,
    };
    if !ours {
        return Err(CredentialError::Audience);
    }
    let expires = time(claims, "exp")?.ok_or(CredentialError::Claim("exp".to_owned()))?;
    if now >= expires.saturating_add(config.clock_skew) {
        return Err(CredentialError::Expired);
    }
    let begins_by = now.saturating_add(config.clock_skew.max(NOT_BEFORE_SKEW));
    if time(claims, "nbf")?.is_some_and(|begin| begin > begins_by) {
        return Err(CredentialError::NotYetValid);
    }
    Ok(())
}

/// A NumericDate (RFC 7519, section 2), which may have a fraction. As by kube-apiserver (go-oidc) it is read from a string as well,
/// a `null` is none, and a time before 1970 is as long ago.
pub(super) fn time(claims: &Signed, name: &str) -> Result<Option<Duration>, CredentialError> {
    let seconds = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str::<f64>(text).ok(),
        Some(value) => value.as_f64(),
    };
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
        .map(Some)
        .ok_or(CredentialError::Claim(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oidc::config::tests::config;

    const NOW: u64 = 1_000_000;

    fn check_with(changes: Value) -> Result<(), CredentialError> {
        let config = config();
        let mut claims = json!({ "iss": config.issuer_url, "aud": "underpass", "exp": NOW + 60 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims = claims.as_object().unwrap();
        check(claims, &config, Duration::from_secs(NOW))
    }

    #[test]
    fn what_is_signed_must_be_for_us_and_of_now() {
        for good in [
            json!({}),
            json!({ "aud": ["x", "underpass"] }),
            // Within the skew.
            json!({ "exp": NOW - 9 }),
            json!({ "exp": NOW as f64 + 0.5 }),
            json!({ "nbf": NOW + 60 }),
            json!({ "nbf": null }),
            json!({ "nbf": -5 }),
            json!({ "exp": "1000060", "nbf": "1e3" }),
        ] {
            assert_eq!(check_with(good.clone()), Ok(()), "{good}");
        }
        let claim = |name: &str| CredentialError::Claim(name.to_owned());
        for (bad, why) in [
            (json!({ "iss": "https://issuer.example/a" }), claim("iss")),
            (
                json!({ "iss": ["https://issuer.example/a/"] }),
                claim("iss"),
            ),
            (json!({ "aud": "Underpass" }), CredentialError::Audience),
            (json!({ "aud": ["x"] }), CredentialError::Audience),
            (json!({ "aud": null }), CredentialError::Audience),
            (json!({ "aud": [["underpass"]] }), CredentialError::Audience),
            (json!({ "exp": NOW - 10 }), CredentialError::Expired),
            (json!({ "exp": 0 }), CredentialError::Expired),
            (json!({ "exp": -1 }), CredentialError::Expired),
            (json!({ "exp": "1000060s" }), claim("exp")),
            (json!({ "exp": "" }), claim("exp")),
            (json!({ "exp": "NaN" }), claim("exp")),
            (json!({ "exp": null }), claim("exp")),
            (json!({ "exp": 1e300 }), claim("exp")),
            (json!({ "nbf": NOW + 61 }), CredentialError::NotYetValid),
            (json!({ "nbf": [] }), claim("nbf")),
        ] {
            assert_eq!(check_with(bad.clone()), Err(why), "{bad}");
        }
    }
}
