//! HTTP CONNECT: connections to targets in clusters, over both versions of HTTP.

#[cfg(test)]
pub(crate) mod agent;
#[cfg(test)]
pub(crate) mod client;
#[cfg(test)]
pub(crate) mod decisions;
#[cfg(test)]
mod lasting;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod relayed;
