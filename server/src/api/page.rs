//! Lists, in pages.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::ETAG;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use underpass_api::List;
use underpass_directory::{Revision, Table};

use crate::limits;

/// Which page.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Page {
    /// The last name of the page before.
    pub(super) after: Option<String>,
    /// How many objects.
    pub(super) limit: Option<usize>,
}

impl Page {
    /// How many entries the page has at the most.
    pub(super) fn limit(&self) -> usize {
        let limit = self.limit.unwrap_or(limits::API_PAGE);
        limit.clamp(1, limits::API_PAGE_MOST)
    }

    /// A page of the objects that `view` shows. It ends at so many objects or bytes.
    pub(super) fn of<T, V: Serialize>(
        &self,
        table: &Table<T>,
        mut view: impl FnMut(&str, &underpass_directory::Entry<T>) -> Option<V>,
    ) -> List<V> {
        let limit = self.limit();
        let from = match &self.after {
            Some(after) => (
                std::ops::Bound::Excluded(after.as_str()),
                std::ops::Bound::Unbounded,
            ),
            None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
        };
        let mut items = Vec::new();
        let mut bytes = Bytes::default();
        let mut last = None;
        for (name, entry) in table.range::<str, _>(from) {
            let Some(shown) = view(name, entry) else {
                continue;
            };
            if items.len() == limit || bytes.0 >= limits::API_PAGE_BYTES {
                return List { items, next: last };
            }
            // Counting does not fail; an object that cannot be written fails when it is written.
            let _ = serde_json::to_writer(&mut bytes, &shown);
            items.push(shown);
            last = Some(name.clone());
        }
        List { items, next: None }
    }
}

/// Counts what is written.
#[derive(Default)]
struct Bytes(usize);

impl std::io::Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn etag(revision: Revision) -> HeaderValue {
    // Digits and quotes are always a header.
    HeaderValue::from_str(&format!("\"{revision}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// A JSON answer with its `ETag`; 304 where the client has it already (RFC 9110, section 13.1.2).
pub(super) fn tagged<T: Serialize>(asked: &HeaderMap, revision: Revision, value: &T) -> Response {
    let tag = etag(revision);
    if names(asked, http::header::IF_NONE_MATCH, &tag) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    ([(ETAG, tag)], Json(value)).into_response()
}

/// Does a list of tags hold this one? Weak tags (`W/`) compare like others: ours change with every byte.
fn names(headers: &HeaderMap, list: http::HeaderName, tag: &HeaderValue) -> bool {
    let lines = headers.get_all(list);
    let mut tags = lines
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|named| named == "*" || named.as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_19_a_page_has_an_end() {
        for (limit, entries) in [
            (None, 500),
            (Some(0), 1),
            (Some(1000), 1000),
            (Some(usize::MAX), 1000),
        ] {
            let page = Page { after: None, limit };
            assert_eq!(page.limit(), entries, "{limit:?}");
        }
    }
}
