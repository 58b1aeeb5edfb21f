//! Names of Underpass's own in clusters.

/// The prefix of the names of Underpass's own users. No caller has such a name, and nobody acts as one.
pub const OWN_NAMES: &str = "underpass:";

/// The prefix of the extras that the server asserts.
pub const OWN_EXTRAS: &str = "underpass.dev/";

/// As whom clusters are asked whether a user may act as another. They let this user `create`
/// `subjectaccessreviews.authorization.k8s.io`.
pub const ACCESS_REVIEWER: &str = "underpass:access-reviewer";

/// As whom clusters are asked whose a ServiceAccount's token is. They let this user `create`
/// `tokenreviews.authentication.k8s.io`.
pub const TOKEN_REVIEWER: &str = "underpass:token-reviewer";

/// The extra that says, of somebody who acts as somebody else, who they are.
pub const ORIGINAL_USER_EXTRA: &str = "underpass.dev/original-user";
