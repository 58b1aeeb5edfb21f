//! The request that opens a stream to a target in a cluster: HTTP CONNECT (RFC 9110, section 9.3.6). Its target is
//! `HOST:PORT` as the cluster knows it, or `HOST.CLUSTER.DOMAIN:PORT`.

use http::HeaderName;

/// Names the cluster, for clients that name it neither in TLS nor in the request's target.
pub const UNDERPASS_CLUSTER: HeaderName = HeaderName::from_static("underpass-cluster");

/// Names a target that is no `HOST:PORT`: `unix:PATH`, or `shell:ID` or `node-shell:ID`. The request's own target is [`UNIX_AUTHORITY`] then.
pub const UNDERPASS_TARGET: HeaderName = HeaderName::from_static("underpass-target");

/// Names the node that the target is at. Without it, the target is the cluster's, and its agent of the role `cluster` connects.
pub const UNDERPASS_NODE: HeaderName = HeaderName::from_static("underpass-node");

/// The request's own target beside [`UNDERPASS_TARGET`]: CONNECT cannot be without one. ICANN has reserved `.internal` for
/// private use, and no cluster's name is below it.
pub const UNIX_AUTHORITY: &str = "unix.underpass.internal:80";
