//! Identity providers, as processes of their own that end with the test.

mod oidc;
mod program;

pub use oidc::OidcProvider;
