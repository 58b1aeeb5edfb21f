//! Parts of a request's way, to be measured alone. With the feature `bench` only; no part of the API.

use std::collections::BTreeMap;

use http::{HeaderMap, Request, uri::PathAndQuery};

use crate::route::{Destination, Route};
use underpass_core::{ClusterDomains, ClusterName, Identity, IdentityError, RequestInfo};
use underpass_http::{headers, impersonate};

/// Removes hop-by-hop headers, and those that could be taken for an identity or a credential.
pub fn clean_request(headers: &mut HeaderMap) {
    headers::clean_request(headers, &RequestInfo::default());
}

/// A request's cluster, and the target for its API server; `None` where it has none. `server_name` is its connection's, in TLS.
pub fn route<B>(
    request: &Request<B>,
    server_name: Option<&str>,
    domains: &ClusterDomains,
) -> Option<(ClusterName, PathAndQuery)> {
    match Destination::of(request, server_name, domains) {
        Destination::Cluster(Some(Route { cluster, path, .. })) => Some((cluster, path)),
        _ => None,
    }
}

/// An identity to write, and nothing else: none can be had of it.
#[derive(Debug)]
pub struct Impersonation(Identity);

impl Impersonation {
    /// Of a user with groups.
    ///
    /// # Errors
    /// A value that is too long or that could not be written as a header.
    pub fn new(user: &str, groups: Vec<String>) -> Result<Self, IdentityError> {
        Identity::new(user.to_owned(), None, groups, BTreeMap::new()).map(Self)
    }

    /// Writes it on clean headers; says whether it is there now.
    pub fn write(&self, headers: &mut HeaderMap) -> bool {
        impersonate::write(headers, &self.0).is_ok()
    }
}
