//! Identity providers, servers behind a cluster, and clients that know nothing of us, as processes of their own that end with the test.

mod etcd;
mod github;
mod installed;
mod oidc;
mod postgres;
mod program;
mod prometheus;
mod schemathesis;
mod slapd;

pub use etcd::{EtcdMembers, EtcdSetup};
pub use github::FakeGitHub;
pub use oidc::OidcProvider;
pub use postgres::Postgres;
pub use prometheus::Prometheus;
pub use schemathesis::{Roles, schemathesis};
pub use slapd::{Directory, SEARCHER};
