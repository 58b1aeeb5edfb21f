//! Whose the names are that authenticators give.

use super::{Authenticated, Rejection};

/// Whoever owns names: a name of theirs is not given to others by an authenticator that asks somebody else, unless they say
/// so (security rule 22). A [`Chain`](super::Chain) asks after each of its steps, so that no way in leaves it out.
pub trait Names: Send + Sync {
    /// What becomes of somebody whom an authenticator vouches for. It lives no longer than `found` does, and no longer than
    /// what was decided here.
    ///
    /// # Errors
    /// The name is somebody else's.
    fn admit(&self, found: Authenticated) -> Result<Authenticated, Rejection>;
}

/// No name is owned by anybody: for a chain without a directory.
#[derive(Clone, Copy, Debug)]
pub struct Unowned;

impl Names for Unowned {
    fn admit(&self, found: Authenticated) -> Result<Authenticated, Rejection> {
        Ok(found)
    }
}
