//! Every bound of this crate, each with its reason.

/// An HTTP proxy's answer to CONNECT, in bytes, up to the empty line. Proxies send some hundred bytes,
/// with lists of their authentication schemes.
pub const PROXY_ANSWER: usize = 8 * 1024;
