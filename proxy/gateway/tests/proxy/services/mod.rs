//! The reverse proxy to services of clusters, over both versions of HTTP.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod repeated;
mod requests;
#[cfg(test)]
pub(crate) mod site;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod upgraded;
