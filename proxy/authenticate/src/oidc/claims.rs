//! Reads an identity from claims.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    OidcConfig, elsewhere,
    path::ClaimPath,
    verify::{Signed, time},
};
use crate::{ConfigError, CredentialError, source::Assertion};

/// The configured mapping of claims to an identity, with every claim's path parsed.
#[derive(Debug)]
pub(super) struct Meaning {
    username: ClaimPath,
    username_prefix: String,
    groups: Option<(ClaimPath, String)>,
    uid: Option<ClaimPath>,
    extra: Vec<(String, ClaimPath)>,
    required: Vec<(ClaimPath, String)>,
    clock_skew: Duration,
    login_lifetime: Option<Duration>,
}

impl Meaning {
    /// Parses the paths.
    pub(super) fn of(config: &OidcConfig) -> Result<Self, ConfigError> {
        let mapping = &config.claims;
        let mapped = |name: &str, claim: &str| {
            ClaimPath::parse(&format!("claimMappings.{name}.claim"), claim)
        };
        let groups = mapping.groups.as_ref();
        let groups = groups.map(|groups| {
            let path = mapped("groups", &groups.claim)?;
            Ok::<_, ConfigError>((path, groups.prefix.clone()))
        });
        let uid = mapping.uid.as_ref().map(|claim| mapped("uid", claim));
        let extra = mapping.extra.iter().enumerate();
        let extra = extra.map(|(position, (key, claim))| {
            let path = mapped(&format!("extra[{position}]"), claim)?;
            Ok((key.clone(), path))
        });
        let required = config.required.iter().enumerate();
        let required = required.map(|(position, required)| {
            let field = format!("claimValidationRules[{position}].claim");
            let path = ClaimPath::parse(&field, &required.claim)?;
            Ok((path, required.value.clone()))
        });
        Ok(Self {
            username: mapped("username", &mapping.username)?,
            username_prefix: mapping.username_prefix.clone(),
            groups: groups.transpose()?,
            uid: uid.transpose()?,
            extra: extra.collect::<Result<_, ConfigError>>()?,
            required: required.collect::<Result<_, ConfigError>>()?,
            clock_skew: config.clock_skew,
            login_lifetime: config.login_lifetime,
        })
    }
}

/// Reads a token that was verified.
pub(super) fn assertion(claims: &Signed, meaning: &Meaning) -> Result<Assertion, CredentialError> {
    for (claim, wanted) in &meaning.required {
        if claim.find(claims).and_then(Value::as_str) != Some(wanted) {
            return Err(CredentialError::RequiredClaim(claim.as_str().to_owned()));
        }
    }
    let username = text(claims, &meaning.username)?;
    if meaning.username.is_email() && is_unverified(claims, &meaning.username) {
        return Err(CredentialError::EmailNotVerified);
    }
    let groups = match &meaning.groups {
        None => Vec::new(),
        Some((claim, prefix)) => texts(claims, claim)?
            .map(|group| format!("{prefix}{group}"))
            .collect(),
    };
    let uid = meaning.uid.as_ref();
    let uid = uid.map(|claim| text(claims, claim).map(str::to_owned));
    let mut extra = BTreeMap::new();
    for (key, claim) in &meaning.extra {
        let values: Vec<_> = texts(claims, claim)?.map(str::to_owned).collect();
        if !values.is_empty() {
            extra.insert(key.clone(), values);
        }
    }
    let expires = time(claims, "exp")?.map(|end| end.saturating_add(meaning.clock_skew));
    // From the issue on, so that a stolen old token gives no longer login than its owner had.
    let login_until = match (meaning.login_lifetime, time(claims, "iat")?) {
        (Some(lifetime), Some(issued)) => Some(issued.saturating_add(lifetime)),
        _ => None,
    };
    Ok(Assertion {
        user: format!("{}{username}", meaning.username_prefix),
        uid: uid.transpose()?,
        groups,
        extra,
        expires_at: expires.and_then(|end| UNIX_EPOCH.checked_add(end)),
        login_until: login_until.and_then(|end| UNIX_EPOCH.checked_add(end)),
    })
}

/// Does the provider say anything else than that the address is verified? As with kube-apiserver, a provider that says nothing
/// of it is believed. The statement may stand beside a nested claim, or at the top.
fn is_unverified(claims: &Signed, address: &ClaimPath) -> bool {
    let enclosing = address.enclosing(claims).into_iter();
    let mut said = enclosing
        .flatten()
        .filter(|(name, _)| name.eq_ignore_ascii_case("email_verified"));
    said.any(|(_, verified)| *verified != Value::Bool(true))
}

fn wrong(claim: &ClaimPath) -> CredentialError {
    CredentialError::Claim(claim.as_str().to_owned())
}

fn text<'a>(claims: &'a Signed, claim: &ClaimPath) -> Result<&'a str, CredentialError> {
    elsewhere::refuse(claims, claim)?;
    let text = claim.find(claims).and_then(Value::as_str);
    text.filter(|text| !text.is_empty())
        .ok_or_else(|| wrong(claim))
}

/// One text or a list of them; nothing where the claim is missing.
fn texts<'a>(
    claims: &'a Signed,
    claim: &ClaimPath,
) -> Result<impl Iterator<Item = &'a str> + use<'a>, CredentialError> {
    elsewhere::refuse(claims, claim)?;
    let values = match claim.find(claims) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| value.as_str().ok_or_else(|| wrong(claim)))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong(claim)),
    };
    Ok(values.into_iter())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::config::{PrefixedClaim, RequiredClaim, tests::config};
    use super::*;

    fn read(config: &OidcConfig, claims: Value) -> Result<Assertion, CredentialError> {
        assertion(claims.as_object().unwrap(), &Meaning::of(config).unwrap())
    }

    fn mapped() -> OidcConfig {
        let mut config = config();
        config.claims.username_prefix = "corp:".to_owned();
        config.claims.groups = Some(PrefixedClaim {
            claim: "/realm_access/roles".to_owned(),
            prefix: "corp:".to_owned(),
        });
        config.claims.uid = Some("oid".to_owned());
        config.claims.extra = vec![("example.org/team".to_owned(), "https://x/team".to_owned())];
        config
    }

    #[test]
    fn claims_become_an_identity() {
        let claims = json!({
            "sub": "alice", "oid": "7", "exp": 100, "https://x/team": "ops",
            "realm_access": { "roles": ["dev", "ops"] },
        });
        let read = read(&mapped(), claims).unwrap();
        assert_eq!(read.user, "corp:alice");
        assert_eq!(read.uid.as_deref(), Some("7"));
        assert_eq!(read.groups, ["corp:dev", "corp:ops"]);
        assert_eq!(read.extra["example.org/team"], ["ops"]);
        let end = read.expires_at.unwrap().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(end.as_secs(), 110);
    }

    #[test]
    fn a_login_outlasts_its_token_only_where_the_configuration_says_so() {
        let claims = json!({ "sub": "alice", "iat": 40, "exp": 100 });
        let until = |config: &OidcConfig, claims: &Value| {
            let until = read(config, claims.clone()).unwrap().login_until;
            until.map(|until| until.duration_since(UNIX_EPOCH).unwrap().as_secs())
        };
        let mut config = mapped();
        config.claims.uid = None;
        assert_eq!(until(&config, &claims), None);
        config.login_lifetime = Some(Duration::from_secs(3600));
        assert_eq!(until(&config, &claims), Some(3640));
        // The time is counted from the issue.
        assert_eq!(until(&config, &json!({ "sub": "alice", "exp": 100 })), None);
    }

    #[test]
    fn claims_of_another_type_are_refused() {
        for (claims, claim) in [
            (json!({ "oid": "7" }), "sub"),
            (json!({ "sub": "", "oid": "7" }), "sub"),
            (json!({ "sub": ["alice"], "oid": "7" }), "sub"),
            (json!({ "sub": "alice" }), "oid"),
            (
                json!({ "sub": "alice", "oid": "7", "realm_access": { "roles": [7] } }),
                "/realm_access/roles",
            ),
            (
                json!({ "sub": "alice", "oid": "7", "https://x/team": {} }),
                "https://x/team",
            ),
        ] {
            let refused = read(&mapped(), claims).unwrap_err();
            assert_eq!(refused, CredentialError::Claim(claim.to_owned()));
        }
    }

    #[test]
    fn an_email_must_not_be_unverified() {
        let mut config = config();
        config.claims.username = "email".to_owned();
        let email = |verified: Value| {
            read(
                &config,
                json!({ "email": "a@b", "email_verified": verified }),
            )
            .map(|a| a.user)
        };
        assert_eq!(email(json!(true)).unwrap(), "a@b");
        for unverified in [json!(false), json!("true"), json!(null), json!(1)] {
            assert_eq!(email(unverified), Err(CredentialError::EmailNotVerified));
        }
        assert_eq!(
            read(&config, json!({ "email": "a@b" })).unwrap().user,
            "a@b"
        );
    }

    #[test]
    fn rule_22_an_unverified_email_is_refused_in_every_spelling() {
        let verified = |claim: &str, claims: Value| {
            let mut config = config();
            config.claims.username = claim.to_owned();
            read(&config, claims).map(|assertion| assertion.user)
        };
        let no = json!(false);
        for (claim, claims) in [
            ("/email", json!({ "email": "a@b", "email_verified": no })),
            ("Email", json!({ "Email": "a@b", "Email_Verified": no })),
            ("/Email", json!({ "Email": "a@b", "email_verified": no })),
            (
                "/user/email",
                json!({ "user": { "email": "a@b", "email_verified": no } }),
            ),
            (
                "/user/email",
                json!({ "user": { "email": "a@b" }, "email_verified": no }),
            ),
            (
                "/x~1y/email",
                json!({ "x/y": { "email": "a@b", "email_verified": no } }),
            ),
            (
                "/emails/0",
                json!({ "emails": ["a@b"], "email_verified": no }),
            ),
            (
                "/email/value",
                json!({ "email": { "value": "a@b", "email_verified": no } }),
            ),
        ] {
            let refused = verified(claim, claims.clone());
            assert_eq!(refused, Err(CredentialError::EmailNotVerified), "{claim}");
            let text = claims.to_string().replace("false", "true");
            let claims = serde_json::from_str(&text).unwrap();
            assert_eq!(verified(claim, claims).unwrap(), "a@b", "{claim}");
        }
        // Another claim is not an address: `email_verified` does not matter.
        let claims = json!({ "sub": "alice", "email_verified": no });
        assert_eq!(verified("sub", claims).unwrap(), "alice");
    }

    #[test]
    fn required_claims_are_exact() {
        let mut config = config();
        config.required.push(RequiredClaim {
            claim: "hd".to_owned(),
            value: "example.org".to_owned(),
        });
        let hd = |hd: Value| read(&config, json!({ "sub": "a", "hd": hd })).map(drop);
        assert_eq!(hd(json!("example.org")), Ok(()));
        for other in [json!("example.com"), json!(["example.org"]), json!(null)] {
            assert_eq!(
                hd(other),
                Err(CredentialError::RequiredClaim("hd".to_owned()))
            );
        }
    }
}
