//! `kubectl --as`: a caller who wants to be somebody else (security rule 16).
//!
//! The headers are read into an [`Identity`], [`ImpersonationAuthorizer`](super::ImpersonationAuthorizer) is asked with the real caller's name, and the
//! result says in an extra who it really was. The headers themselves never pass. They are not merely dropped
//! either: a user who says `--as=somebody-harmless` must not find the command executed with their own rights.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};

use underpass_core::{Identity, Rejection, names::OWN_EXTRAS};

/// Reads whom the request wants to act as, before its headers are cleaned.
pub(crate) fn target(headers: &HeaderMap) -> Result<Option<Identity>, Rejection> {
    if !underpass_http::headers::asks_impersonation(headers) {
        return Ok(None);
    }
    let user = one(headers, "impersonate-user")?.ok_or(Rejection::BadRequest(
        "impersonation needs exactly one Impersonate-User header",
    ))?;
    let uid = one(headers, "impersonate-uid")?;
    let groups = headers
        .get_all("impersonate-group")
        .iter()
        .map(text)
        .collect::<Result<Vec<_>, _>>()?;
    let extra = extra(headers)?;
    Identity::new(user, uid, groups, extra)
        .map(Some)
        .map_err(|_| {
            Rejection::BadRequest(
                "the Impersonate headers hold a value that is empty, too long or too many",
            )
        })
}

fn one(headers: &HeaderMap, name: &str) -> Result<Option<String>, Rejection> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => text(line).map(Some),
        (Some(_), Some(_)) => Err(Rejection::BadRequest(
            "Impersonate-User and Impersonate-Uid must not be repeated",
        )),
    }
}

fn text(value: &HeaderValue) -> Result<String, Rejection> {
    String::from_utf8(value.as_bytes().to_vec())
        .map_err(|_| Rejection::BadRequest("the Impersonate headers must be UTF-8"))
}

fn extra(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Rejection> {
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        let Some(rest) = name.as_str().strip_prefix("impersonate-") else {
            continue;
        };
        match rest.strip_prefix("extra-") {
            // Nobody may say who they really are themselves.
            Some(key) if decode(key)?.starts_with(OWN_EXTRAS) => {
                return Err(Rejection::BadRequest(
                    "this Impersonate-Extra key is reserved",
                ));
            }
            Some(key) => extra.entry(decode(key)?).or_default().push(text(value)?),
            None if matches!(rest, "user" | "uid" | "group") => {}
            None => {
                return Err(Rejection::BadRequest(
                    "an Impersonate header is not known here",
                ));
            }
        }
    }
    Ok(extra)
}

fn decode(key: &str) -> Result<String, Rejection> {
    let malformed = Rejection::BadRequest("an Impersonate-Extra key is not valid percent-encoding");
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let (digits, after) = escaped.split_at_checked(2).ok_or(malformed.clone())?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed);
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed.clone())?);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| malformed)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn read(lines: &[(&str, &str)]) -> Result<Option<Identity>, Rejection> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        target(&headers)
    }

    #[test]
    fn reads_what_kubectl_writes() {
        let target = read(&[
            ("Impersonate-User", "bob"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Extra-Example.org%2fteam", "a"),
        ]);
        let target = target.unwrap().unwrap();
        assert_eq!(target.user(), "bob");
        assert_eq!(target.groups(), ["dev", "ops"]);
        assert_eq!(target.extra()["example.org/team"], ["a"]);
        assert!(read(&[("accept", "*/*")]).unwrap().is_none());
    }

    #[test]
    fn rule_16_ambiguity_is_refused() {
        let user = ("Impersonate-User", "bob");
        for lines in [
            &[("impersonate-group", "dev")][..],
            &[user, ("IMPERSONATE-USER", "root")],
            &[user, ("Impersonate-Future", "x")],
            &[
                user,
                ("Impersonate-Extra-underpass.dev%2Foriginal-user", "eve"),
            ],
            &[
                user,
                ("Impersonate-Extra-underpass%2Edev%2foriginal-user", "eve"),
            ],
            &[user, ("Impersonate-Extra-a%2", "x")],
            &[("Impersonate-User", "")],
        ] {
            assert!(
                matches!(read(lines), Err(Rejection::BadRequest(_))),
                "{lines:?}"
            );
        }
    }
}
