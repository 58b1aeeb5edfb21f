//! Asks HTTPS servers, with bounds: [`Roots`] say whose certificates count, [`Https`] follows no redirect and reads so much
//! for so long, and [`DeviceLogin`] is RFC 8628's login with a code.
//!
//! Authenticators ask identity providers with it, and the command line logs in.

mod device;
mod https;

use http::Uri;

pub use self::{
    device::{DeviceAuthorization, DeviceConfigError, DeviceError, DeviceLogin},
    https::{Https, HttpsError, Roots, RootsError},
};

/// Reads `https://HOST[:PORT][/PATH]`: a URL that credentials are sent to, or that trust comes from.
pub fn https_url(url: &str) -> Option<Uri> {
    let parsed = url.parse::<Uri>().ok()?;
    let authority = parsed.authority()?;
    let plain = parsed.query().is_none() && !url.contains('#') && !authority.as_str().contains('@');
    let is_https = parsed.scheme_str() == Some("https") && !authority.host().is_empty();
    (is_https && plain).then_some(parsed)
}
