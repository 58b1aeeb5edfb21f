//! HTTP CONNECT: connections to targets in clusters, over both versions of HTTP.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod client;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod lasting;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod relayed;
