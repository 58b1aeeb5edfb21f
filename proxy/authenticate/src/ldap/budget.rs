//! The bound on what a directory has a login remember.

use std::sync::atomic::{AtomicUsize, Ordering};

use underpass_core::limits;

/// The bytes and values that one login may still read.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: AtomicUsize,
    values: AtomicUsize,
}

/// The directory has sent more than any login needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the directory has answered one login with more than {} bytes, or than {} attributes and values",
    limits::LDAP_LOGIN_BYTES,
    limits::LDAP_LOGIN_VALUES
)]
pub(super) struct TooMuch;

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            bytes: AtomicUsize::new(limits::LDAP_LOGIN_BYTES),
            values: AtomicUsize::new(limits::LDAP_LOGIN_VALUES),
        }
    }

    /// Pays for a message of this length.
    pub(super) fn message(&self, length: usize) -> Result<(), TooMuch> {
        pay(&self.bytes, length)
    }

    /// Pays for an attribute, or for a value.
    pub(super) fn value(&self) -> Result<(), TooMuch> {
        pay(&self.values, 1)
    }
}

fn pay(left: &AtomicUsize, price: usize) -> Result<(), TooMuch> {
    // Questions of a login are asked beside each other; no other memory hangs on the numbers.
    let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
    let paid = left.fetch_update(set, fetch, |left| left.checked_sub(price));
    paid.map(drop).map_err(|_| TooMuch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_a_login_has_so_many_bytes_and_values() {
        let budget = Budget::new();
        for _ in 0..limits::LDAP_LOGIN_BYTES / limits::LDAP_MESSAGE_BYTES {
            budget.message(limits::LDAP_MESSAGE_BYTES).unwrap();
        }
        assert_eq!(budget.message(1), Err(TooMuch));
        for _ in 0..limits::LDAP_LOGIN_VALUES {
            budget.value().unwrap();
        }
        assert_eq!(budget.value(), Err(TooMuch));
    }
}
