//! Credential plugins.

use std::{collections::BTreeMap, fmt};

use zeroize::Zeroizing;

/// A credential plugin, as `client.authentication.k8s.io` has them.
#[derive(Clone, PartialEq)]
pub struct Exec {
    /// The program's path.
    pub command: String,
    /// Its arguments.
    pub args: Vec<Zeroizing<String>>,
    /// Variables of its environment beside `PATH` and `HOME`.
    pub env: BTreeMap<String, Zeroizing<String>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}
