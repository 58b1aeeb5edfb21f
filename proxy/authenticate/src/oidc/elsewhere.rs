//! Claims that a token leaves to another server (OpenID Connect Core 1.0, section 5.6.2).
//!
//! kube-apiserver fetches the groups from there. This server refuses the token: a login without its groups would have lost rights
//! in silence, and a fetch would let a token choose a server that this one has to ask, for each request anew. Microsoft Entra ID,
//! the provider that does so, names a server of Azure AD Graph, which has been switched off, and gives no token for it.

use serde_json::Value;

use super::{path::ClaimPath, verify::Signed};
use crate::CredentialError;

/// Refuses a token that leaves this claim to another server.
pub(super) fn refuse(claims: &Signed, claim: &ClaimPath) -> Result<(), CredentialError> {
    let is_here = match claim.find(claims) {
        None | Some(Value::Null) => false,
        Some(Value::Array(values)) => !values.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    if !is_here && is_elsewhere(claims, claim) {
        return Err(CredentialError::ClaimElsewhere(claim.as_str().to_owned()));
    }
    Ok(())
}

fn is_elsewhere(claims: &Signed, claim: &ClaimPath) -> bool {
    let named = match claims.get("_claim_names") {
        None | Some(Value::Null) => false,
        Some(Value::Object(names)) => names.contains_key(claim.outermost()),
        // It cannot be known which claims it is about.
        Some(_) => true,
    };
    // Entra's sign in tokens whose length is bounded, without a place where the groups are.
    let has_groups = match claims.get("hasgroups") {
        Some(Value::Bool(has)) => *has,
        Some(Value::String(has)) => has.eq_ignore_ascii_case("true"),
        _ => false,
    };
    named || (has_groups && claim.outermost() == "groups")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(claim: &str, claims: Value) -> bool {
        let path = ClaimPath::parse("claim", claim).unwrap();
        match refuse(claims.as_object().unwrap(), &path) {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error, CredentialError::ClaimElsewhere(claim.to_owned()));
                true
            }
        }
    }

    #[test]
    fn a_claim_that_the_token_leaves_to_another_server_is_no_missing_one() {
        let elsewhere = json!({
            "_claim_names": { "groups": "src1" },
            "_claim_sources": { "src1": { "endpoint": "https://graph.windows.net/t/users/u/getMemberObjects" } },
        });
        assert!(refused("groups", elsewhere.clone()));
        assert!(refused("/groups", elsewhere.clone()));
        // Application roles are in the token.
        assert!(!refused("roles", elsewhere.clone()));
        // As with kube-apiserver, a claim that is there counts.
        let with = |groups: Value| {
            let mut claims = elsewhere.clone();
            claims["groups"] = groups;
            claims
        };
        assert!(!refused("groups", with(json!(["dev"]))));
        assert!(!refused("groups", with(json!("dev"))));
        for none in [json!([]), json!(""), json!(null)] {
            assert!(refused("groups", with(none)));
        }
        let nested = json!({ "_claim_names": { "realm_access": "src1" } });
        assert!(refused("/realm_access/roles", nested));
        for unclear in [json!("{\"groups\":\"src1\"}"), json!(["groups"]), json!(7)] {
            assert!(refused("groups", json!({ "_claim_names": unclear })));
        }
        for nothing in [
            json!({}),
            json!({ "_claim_names": {} }),
            json!({ "_claim_names": null }),
        ] {
            assert!(!refused("groups", nothing));
        }
    }

    #[test]
    fn a_token_without_room_for_groups_says_so() {
        for has in [json!(true), json!("true")] {
            assert!(refused("groups", json!({ "hasgroups": has })));
            assert!(!refused("roles", json!({ "hasgroups": has })));
            assert!(!refused(
                "groups",
                json!({ "hasgroups": has, "groups": ["dev"] })
            ));
        }
        assert!(!refused("groups", json!({ "hasgroups": false })));
    }
}
