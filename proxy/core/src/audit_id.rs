//! The id by which one call is found in every log.

use aws_lc_rs::rand;

/// A new `Audit-ID`: a random UUID (RFC 9562, section 5.4), as kube-apiserver makes them.
pub fn new_audit_id() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness the id is constant: it correlates log lines and guards nothing.
    let _ = rand::fill(&mut bytes);
    let value = u128::from_be_bytes(bytes);
    let value = value & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{value:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let id = new_audit_id();
        let bytes = id.as_bytes();
        assert_eq!(id.len(), 36);
        assert_eq!(bytes[14], b'4');
        assert!(b"89ab".contains(&bytes[19]));
        assert_ne!(id, new_audit_id());
    }
}
