//! Pages of lists that have an order of their own, and not that of names: `after` is a token, which says where in the list the page begins,
//! whether the entry of that place is still there or not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::page::Page;
use super::problem::Problem;

/// A token's contents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token<P> {
    /// The list that it is of.
    list: String,
    /// The place behind the last entry of the page before.
    behind: P,
}

/// The place in this list behind which the page begins; `None` for the first page.
///
/// # Errors
/// The token is broken, or of another list: 400.
pub(super) fn behind<P: DeserializeOwned>(page: &Page, list: &str) -> Result<Option<P>, Problem> {
    let Some(token) = page.after.as_ref().filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let token: Option<Token<P>> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match token.filter(|token| token.list == list) {
        Some(token) => Ok(Some(token.behind)),
        None => {
            let detail = "the value of after is no token that this list has given: ask without it, from the beginning";
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// The token of the page of this list that begins behind a place.
pub(super) fn token<P: Serialize>(list: &str, behind: P) -> String {
    let list = list.to_owned();
    // A place is made of numbers and texts, which JSON takes. Without a token the list would end.
    let text = serde_json::to_vec(&Token { list, behind }).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(token: &str) -> Page {
        Page {
            after: Some(token.to_owned()),
            limit: None,
        }
    }

    #[test]
    fn a_token_leads_behind_its_place_in_its_list_and_in_no_other() {
        let token = token("shells", (7_u64, "x"));
        let found = behind::<(u64, String)>(&after(&token), "shells");
        assert_eq!(found, Ok(Some((7, "x".to_owned()))));
        assert_eq!(behind::<(u64, String)>(&after(""), "shells"), Ok(None));
        let other = super::token("shells", "x");
        let cut = &token[1..];
        for (broken, list) in [(&*token, "users"), (&other, "shells"), (cut, "shells")] {
            let problem = behind::<(u64, String)>(&after(broken), list).unwrap_err();
            assert!(problem.to_string().contains("after"), "{problem}");
        }
    }
}
