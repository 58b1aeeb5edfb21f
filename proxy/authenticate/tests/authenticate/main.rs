//! Authenticators against real providers, and against forged credentials.
//!
//! (`cfg(test)` on the modules is for the lints: helpers state expectations too.)

#[cfg(test)]
mod active_directory;
#[cfg(test)]
mod certificate;
#[cfg(test)]
mod github;
#[cfg(test)]
mod hostile_directory;
#[cfg(test)]
mod ldap;
#[cfg(test)]
mod oidc;
#[cfg(test)]
mod oidc_attacks;
#[cfg(test)]
mod present;
