//! Asks HTTPS servers, with bounds: [`Roots`] say whose certificates count, [`Https`] follows no redirect and reads so much
//! for so long, [`Connector`] goes through the proxy that the environment names, and [`DeviceLogin`] is RFC 8628's login with a code.
//!
//! Authenticators ask identity providers with it, and the command line logs in.

mod connector;
mod credentials;
mod device;
mod https;

use http::Uri;

pub use underpass_http_proxy::{NoProxy, Proxy, ProxyConfigError, ProxyEnvError, ProxyUrl};

pub use self::{
    connector::{ConnectError, Connector, Socket},
    credentials::Credentials,
    device::{DeviceAuthorization, DeviceConfigError, DeviceError, DeviceLogin},
    https::{Https, HttpsConfigError, HttpsError, Roots, RootsError},
};

/// Reads `https://HOST[:PORT][/PATH]`: a URL that credentials are sent to, or that trust comes from.
pub fn https_url(url: &str) -> Option<Uri> {
    let parsed = url.parse::<Uri>().ok()?;
    let authority = parsed.authority()?;
    let plain = parsed.query().is_none() && !url.contains('#') && !authority.as_str().contains('@');
    // A port that is none must not become 443.
    let port = authority.as_str().strip_prefix(authority.host())?;
    let has_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.parse::<u16>().is_ok_and(|port| port > 0) && !digits.starts_with('+')
        }
    };
    let is_https = parsed.scheme_str() == Some("https") && !authority.host().is_empty();
    (is_https && has_port && plain).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_what_it_says() {
        for url in [
            "https://u",
            "https://u:1",
            "https://u:65535/a/b",
            "https://[::1]:8443",
            "https://[::1]",
        ] {
            assert!(https_url(url).is_some(), "{url}");
        }
        for url in [
            "http://u",
            "https://u:65536",
            "https://u:84433",
            "https://u:8443x",
            "https://u:",
            "https://u:0",
            "https://u:+443",
            "https://a@u",
            "https://u?q",
            "https://u#f",
            "u:443",
        ] {
            assert!(https_url(url).is_none(), "{url}");
        }
    }
}
