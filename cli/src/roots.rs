//! The CAs that a server's certificate may come from.

use anyhow::{Context, Result};
use underpass_https::Roots;

/// The CAs in `pem`, or the system's.
pub(crate) fn roots(pem: Option<&str>) -> Result<Roots> {
    match pem {
        None => Roots::system().context("the system has no CA certificates; give --api-ca-file"),
        Some(pem) => Roots::from_pem(pem.as_bytes()).context("the CA file cannot be used"),
    }
}
