//! Identity providers, as processes of their own that end with the test.

mod github;
mod oidc;
mod program;
mod slapd;

pub use github::FakeGitHub;
pub use oidc::OidcProvider;
pub use slapd::{Directory, SEARCHER};
