//! Identity providers, and a client that knows nothing of us, as processes of their own that end with the test.

mod github;
mod installed;
mod oidc;
mod program;
mod schemathesis;
mod slapd;

pub use github::FakeGitHub;
pub use oidc::OidcProvider;
pub use schemathesis::{Roles, schemathesis};
pub use slapd::{Directory, SEARCHER};
