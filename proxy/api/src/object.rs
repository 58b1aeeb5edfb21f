//! Objects that have a name, and lists of them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_core::Revision;

/// An object as a client sees it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View<Spec, Status> {
    /// Its name.
    pub name: String,
    /// Of its last change; also its `ETag`.
    pub revision: Revision,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The fields that clients set.
    pub spec: Spec,
    /// The fields that the server sets.
    pub status: Status,
}

/// A new object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New<Spec> {
    /// Its name.
    pub name: String,
    /// Its fields.
    pub spec: Spec,
}

/// One page of a list, in the order of names.
#[derive(Debug, Serialize, Deserialize)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// The value of `after` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Characters that a path segment holds unescaped (RFC 3986, section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A name in a path.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}
