//! What claims mean.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use serde_json::Value;

use super::{
    OidcConfig,
    verify::{Signed, time},
};
use crate::authenticate::{Rejection, source::Assertion};

/// Reads a token that was verified.
pub(super) fn assertion(claims: &Signed, config: &OidcConfig) -> Result<Assertion, Rejection> {
    let mapping = &config.claims;
    for required in &config.required {
        let value = find(claims, &required.claim).and_then(Value::as_str);
        if value != Some(&required.value) {
            return Err(Rejection::RequiredClaim(required.claim.clone()));
        }
    }
    let username = text(claims, &mapping.username)?;
    // As kube-apiserver: a provider that says nothing of it is believed.
    if mapping.username == "email"
        && let Some(verified) = claims.get("email_verified")
        && *verified != Value::Bool(true)
    {
        return Err(Rejection::EmailNotVerified);
    }
    let groups = match &mapping.groups {
        None => Vec::new(),
        Some(groups) => texts(claims, &groups.claim)?
            .map(|group| format!("{}{group}", groups.prefix))
            .collect(),
    };
    let uid = mapping.uid.as_ref();
    let uid = uid.map(|claim| text(claims, claim).map(str::to_owned));
    let mut extra = BTreeMap::new();
    for (key, claim) in &mapping.extra {
        let values: Vec<_> = texts(claims, claim)?.map(str::to_owned).collect();
        if !values.is_empty() {
            extra.insert(key.clone(), values);
        }
    }
    let expires = time(claims, "exp")?.map(|end| end.saturating_add(config.clock_skew));
    Ok(Assertion {
        user: format!("{}{username}", config.username_prefix()),
        uid: uid.transpose()?,
        groups,
        extra,
        expires_at: expires.and_then(|end| UNIX_EPOCH.checked_add(end)),
    })
}

fn find<'a>(claims: &'a Signed, claim: &str) -> Option<&'a Value> {
    let Some(pointer) = claim.strip_prefix('/') else {
        return claims.get(claim);
    };
    let (first, rest) = match pointer.find('/') {
        Some(end) => pointer.split_at(end),
        None => (pointer, ""),
    };
    let first = first.replace("~1", "/").replace("~0", "~");
    claims.get(&first)?.pointer(rest)
}

fn wrong(claim: &str) -> Rejection {
    Rejection::Claim(claim.to_owned())
}

fn text<'a>(claims: &'a Signed, claim: &str) -> Result<&'a str, Rejection> {
    let text = find(claims, claim).and_then(Value::as_str);
    text.filter(|text| !text.is_empty())
        .ok_or_else(|| wrong(claim))
}

/// One text or a list of them; nothing where the claim is missing.
fn texts<'a>(
    claims: &'a Signed,
    claim: &str,
) -> Result<impl Iterator<Item = &'a str> + use<'a>, Rejection> {
    let values = match find(claims, claim) {
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

    use super::super::config::{PrefixedClaim, RequiredClaim, UsernamePrefix, tests::config};
    use super::*;

    fn read(config: &OidcConfig, claims: Value) -> Result<Assertion, Rejection> {
        assertion(claims.as_object().unwrap(), config)
    }

    fn mapped() -> OidcConfig {
        let mut config = config();
        config.claims.username_prefix = UsernamePrefix::Text("corp:".to_owned());
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
            assert_eq!(refused, Rejection::Claim(claim.to_owned()));
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
            assert_eq!(email(unverified), Err(Rejection::EmailNotVerified));
        }
        assert_eq!(
            read(&config, json!({ "email": "a@b" })).unwrap().user,
            "a@b"
        );
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
            assert_eq!(hd(other), Err(Rejection::RequiredClaim("hd".to_owned())));
        }
    }
}
