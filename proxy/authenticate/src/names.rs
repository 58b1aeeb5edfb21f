//! The owners of the names that authenticators give.

use super::{Authenticated, CredentialError};

/// An owner of names: no other authenticator gives one of them to a caller, unless the owner says so (security rule 22). A
/// [`Chain`](super::Chain) asks after each of its steps, so that no way in leaves it out.
pub trait Names: Send + Sync {
    /// Decides about a caller that an authenticator vouches for. The result lives no longer than `found`, and no longer than
    /// the decision.
    ///
    /// # Errors
    /// The name belongs to another user.
    fn admit(&self, found: Authenticated) -> Result<Authenticated, CredentialError>;
}

/// Names without owners: for a chain without a directory.
#[derive(Clone, Copy, Debug)]
pub struct Unowned;

impl Names for Unowned {
    fn admit(&self, found: Authenticated) -> Result<Authenticated, CredentialError> {
        Ok(found)
    }
}
