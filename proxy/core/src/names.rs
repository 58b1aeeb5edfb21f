//! Names of Underpass's own in clusters.

/// The prefix of the names of Underpass's own users. No caller has such a name, and no caller acts as one.
pub const OWN_NAMES: &str = "underpass:";

/// The prefix of the extras that the server asserts.
pub const OWN_EXTRAS: &str = "underpass.dev/";

/// The user that asks clusters whether a user may act as another. They let this user `create`
/// `subjectaccessreviews.authorization.k8s.io`.
pub const ACCESS_REVIEWER: &str = "underpass:access-reviewer";

/// The user that asks clusters about a ServiceAccount's token. They let this user `create`
/// `tokenreviews.authentication.k8s.io`.
pub const TOKEN_REVIEWER: &str = "underpass:token-reviewer";

/// The extra that names the caller of an impersonated request.
pub const ORIGINAL_USER_EXTRA: &str = "underpass.dev/original-user";
