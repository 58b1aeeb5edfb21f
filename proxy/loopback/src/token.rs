//! The token of one run.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use rand::Rng as _;
use zeroize::Zeroizing;

/// A random token of 256 bits.
pub(crate) struct Token(Zeroizing<String>);

impl Token {
    pub(crate) fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(bytes.as_mut_slice());
        Self(Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*bytes)))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Takes the token from a request's headers. False: it is not there, it is another one, or there are several.
    pub(crate) fn take(&self, headers: &mut HeaderMap) -> bool {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let only = shown.next().filter(|_| shown.next().is_none());
        let is_it = only.is_some_and(|value| {
            let bytes = value.as_bytes();
            let (scheme, token) = bytes.split_at(bytes.len().min(7));
            let same = verify_slices_are_equal(token, self.0.as_bytes());
            scheme.eq_ignore_ascii_case(b"bearer ") && same.is_ok()
        });
        headers.remove(header::AUTHORIZATION);
        is_it
    }
}
