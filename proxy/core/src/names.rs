//! Names of Underpass's own in clusters.

/// What the names of Underpass's own users begin with. No caller has such a name, and nobody acts as one.
pub const OWN_NAMES: &str = "underpass:";

/// What the keys of the extras begin with that the server asserts.
pub const OWN_EXTRAS: &str = "underpass.dev/";

/// As whom clusters are asked whether a user may act as another. They let this user `create`
/// `subjectaccessreviews.authorization.k8s.io`.
pub const ACCESS_REVIEWER: &str = "underpass:access-reviewer";

/// As whom clusters are asked whose a ServiceAccount's token is. They let this user `create`
/// `tokenreviews.authentication.k8s.io`.
pub const TOKEN_REVIEWER: &str = "underpass:token-reviewer";

/// The extra that says, of somebody who acts as somebody else, who they are.
pub const ORIGINAL_USER_EXTRA: &str = "underpass.dev/original-user";
