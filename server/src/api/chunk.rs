//! Lists in pages by `limit` and `continue`, as Kubernetes names them: for lists that have no order of names. The order is the list's own,
//! and a token says where in it the next page begins, whether the entry of that place is still there or not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::limits;

/// The query of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Chunk {
    /// How many entries; 0 is as many as the server likes.
    limit: usize,
    /// The token of the page before. An empty one asks for the first page.
    #[serde(rename = "continue")]
    token: String,
}

/// A token's contents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token<P> {
    /// The list that it is of.
    list: String,
    /// The place behind the last entry of the page before.
    behind: P,
}

impl Chunk {
    /// How many entries the page has.
    pub(super) fn limit(&self) -> usize {
        match self.limit {
            0 => limits::API_PAGE,
            limit => limit.min(limits::API_PAGE_MOST),
        }
    }

    /// The place in this list behind which the page begins; `None` for the first page.
    ///
    /// # Errors
    /// The token is broken, or of another list: 400.
    pub(super) fn behind<P: DeserializeOwned>(&self, list: &str) -> Result<Option<P>, Problem> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(&self.token).ok();
        let token: Option<Token<P>> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match token.filter(|token| token.list == list) {
            Some(token) => Ok(Some(token.behind)),
            None => {
                let detail = "the value of continue is no token that this list has given: ask without it, from the beginning";
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
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

    fn chunk(limit: usize, token: &str) -> Chunk {
        let token = token.to_owned();
        Chunk { limit, token }
    }

    #[test]
    fn a_token_leads_behind_its_place_in_its_list_and_in_no_other() {
        let token = token("shells", (7_u64, "x"));
        let behind = chunk(0, &token).behind::<(u64, String)>("shells");
        assert_eq!(behind, Ok(Some((7, "x".to_owned()))));
        assert_eq!(chunk(0, "").behind::<(u64, String)>("shells"), Ok(None));
        let other = super::token("shells", "x");
        let cut = &token[1..];
        for (broken, list) in [(&*token, "users"), (&other, "shells"), (cut, "shells")] {
            let problem = chunk(0, broken).behind::<(u64, String)>(list).unwrap_err();
            assert!(problem.to_string().contains("continue"), "{problem}");
        }
    }

    #[test]
    fn rule_19_a_page_has_an_end() {
        for (limit, expected) in [(0, 500), (1, 1), (1000, 1000), (usize::MAX, 1000)] {
            assert_eq!(chunk(limit, "").limit(), expected);
        }
    }
}
