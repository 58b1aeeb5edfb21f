//! HTTP exchanges, as both halves of the impersonating proxy treat them.
//!
//! - [`broken_off`]: an answer that breaks off arrives as far as it came.
//! - [`call`]: one parse of a request, for the decision about it and for the forwarded request (security rule 26).
//! - [`headers`]: removes headers that must not cross the proxy, in either direction (rules 3, 4, 20).
//! - [`impersonate`]: an identity, as the headers that kube-apiserver reads.
//! - [`exchange`]: one request and its answer over one stream, as HTTP/1.1; [`upgrade`] and [`pipe`]: its bytes after a 101.
//! - [`review`]: this server's own questions to a cluster.
//! - [`serve`]: connections of clients, with the answers that hyper alone would not give.
//! - [`watch_end`]: a watch ends between two events.
//! - [`scheduling`]: how few tasks and wake-ups that takes.
//!
//! Nothing here knows the origin of a stream, or the policy.

pub mod broken_off;
pub mod call;
pub mod exchange;
pub mod headers;
pub mod impersonate;
pub mod pipe;
pub mod review;
pub mod scheduling;
pub mod serve;
pub mod upgrade;
pub mod watch_end;
