//! Random bytes, for everything that is not in `proto`, which gets its as arguments.

use rand::Rng;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
