//! Both halves of the proxy, joined, between real clients on sockets and a fake API server behind TLS.
//!
//! (`cfg(test)` on the modules is for the lints: helpers state expectations too.)

#[cfg(test)]
mod api;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authorities;
#[cfg(test)]
mod broken_answers;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod early_answers;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod foreign_pages;
#[cfg(test)]
mod hops;
#[cfg(test)]
mod identity_rules;
#[cfg(test)]
mod impersonation;
#[cfg(test)]
mod names;
#[cfg(test)]
mod one_parse;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod redirects;
#[cfg(test)]
mod services;
#[cfg(test)]
mod shells;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod trailers;
#[cfg(test)]
mod upgrades;
#[cfg(test)]
mod world;
