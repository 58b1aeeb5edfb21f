//! The properties that all identities of one authenticator share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use tokio_util::sync::CancellationToken;

use super::{
    Authenticated, CredentialError,
    left_out::{LeftOut, Reason},
};
use underpass_core::{AuthenticationMethod, Authority, Identity, Provenance, Revocation};

/// An authenticator with an external provider: its identities' names and lifetimes.
///
/// Names that begin with `system:` or `kubeadm:` mean something to Kubernetes, and names that begin with `underpass:` or
/// `serviceaccount:` to this server: a user who can choose their own name at a provider must not be able to choose one of
/// those. An authenticator gives them only where its configuration states them one by one.
#[derive(Clone, Debug)]
pub struct Source {
    name: Arc<str>,
    method: AuthenticationMethod,
    stated: Arc<Reserved>,
    retired: CancellationToken,
    left_out: Arc<LeftOut>,
}

/// Reserved names that an authenticator may give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Users, in full.
    pub users: BTreeSet<String>,
    /// Groups, in full.
    pub groups: BTreeSet<String>,
}

/// An authenticator's facts about a caller.
#[derive(Debug, Default)]
pub struct Assertion {
    /// The name, with the authenticator's prefix.
    pub user: String,
    /// Tells two users apart who have had the same name.
    pub uid: Option<String>,
    /// The groups, with the authenticator's prefix.
    pub groups: Vec<String>,
    /// Keys, lower-case, and their values.
    pub extra: BTreeMap<String, Vec<String>>,
    /// From when on the credential is worth nothing; `None` where it says nothing of its end.
    pub expires_at: Option<SystemTime>,
    /// Until when a login with the credential counts, where that is longer than the credential itself does.
    pub login_until: Option<SystemTime>,
}

impl Source {
    /// The authenticator called `name` in the configuration. Cancelling `retired` ends every request that rests on an
    /// identity of it, for when it is configured no longer.
    pub fn new(
        name: impl Into<Arc<str>>,
        method: AuthenticationMethod,
        stated: Reserved,
        retired: CancellationToken,
    ) -> Self {
        let name = name.into();
        Self {
            left_out: Arc::new(LeftOut::new(&name)),
            name,
            method,
            stated: Arc::new(stated),
            retired,
        }
    }

    /// The authenticator's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it says which groups do not count.
    pub(crate) fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Makes the identity. A group that no header can hold is left out, and never mended: a space less is another group's
    /// name. Groups give rights and take none, so that its members lose that group's rights and no others.
    ///
    /// # Errors
    /// A reserved name that is not stated, or a value that no identity can hold.
    pub fn identity(&self, assertion: Assertion) -> Result<Identity, CredentialError> {
        let Assertion {
            user,
            uid,
            mut groups,
            extra,
            expires_at,
            login_until,
        } = assertion;
        if self.is_reserved(&user) && !self.stated.users.contains(&user) {
            return Err(CredentialError::Reserved(user));
        }
        let reserved =
            |group: &&String| self.is_reserved(group) && !self.stated.groups.contains(*group);
        if let Some(group) = groups.iter().find(reserved) {
            return Err(CredentialError::Reserved(group.clone()));
        }
        groups.retain(|group| {
            let writable = Identity::can_hold_group(group);
            if !writable {
                self.left_out.say(group, Reason::Unwritable);
            }
            writable
        });
        let identity = Identity::new(user, uid, groups, extra)
            .map_err(|error| CredentialError::Identity(error.to_string()))?;
        let name = Arc::clone(&self.name);
        let authority = Authority::provider(self.method, Arc::clone(&name));
        let provenance = Provenance::new(self.method, name, authority)
            .with_end(expires_at)
            .with_login_until(login_until);
        Ok(identity.vouched_for(provenance))
    }

    fn is_reserved(&self, name: &str) -> bool {
        let anothers = self.method != AuthenticationMethod::TokenReview && begins(name, &ACCOUNTS);
        anothers || begins(name, &RESERVED)
    }

    /// Makes the identity, which lasts as long as the authenticator.
    ///
    /// # Errors
    /// As [`identity`](Self::identity).
    pub fn vouch(&self, assertion: Assertion) -> Result<Authenticated, CredentialError> {
        Ok(Authenticated {
            identity: self.identity(assertion)?,
            claimed: None,
            revocation: Revocation::when(self.retired.clone()),
        })
    }

    /// The life of one decision, which ends with the authenticator at the latest.
    pub(crate) fn decision(&self) -> CancellationToken {
        self.retired.child_token()
    }
}

/// Prefixes of names that belong to Kubernetes, and to this server.
const RESERVED: [&str; 3] = ["system:", "kubeadm:", underpass_core::names::OWN_NAMES];

/// Only [`TokenReview`](super::TokenReview) makes such names.
const ACCOUNTS: [&str; 2] = ["serviceaccount:", "serviceaccounts:"];

/// Kubernetes compares names as they are; case is looked past here because a directory may not.
fn begins(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(stated: Reserved) -> Source {
        Source::new(
            "corp",
            AuthenticationMethod::Jwt,
            stated,
            CancellationToken::new(),
        )
    }

    fn assertion(user: &str, groups: &[&str]) -> Assertion {
        Assertion {
            user: user.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..Assertion::default()
        }
    }

    #[test]
    fn rule_17_reserved_names_need_to_be_stated() {
        let plain = source(Reserved::default());
        for (user, groups) in [
            ("system:admin", &[][..]),
            ("System:admin", &[]),
            ("underpass:token-reviewer", &[]),
            ("serviceaccount:edge:ci:deployer", &[]),
            ("alice", &["serviceaccounts:edge"]),
            ("alice", &["dev", "system:masters"]),
            ("alice", &["kubeadm:cluster-admins"]),
        ] {
            let refused = plain.identity(assertion(user, groups));
            assert!(
                matches!(refused, Err(CredentialError::Reserved(_))),
                "{user} {groups:?}"
            );
        }
        let stated = source(Reserved {
            users: BTreeSet::new(),
            groups: BTreeSet::from(["system:monitoring".to_owned()]),
        });
        stated
            .identity(assertion("alice", &["system:monitoring"]))
            .unwrap();
        stated
            .identity(assertion("alice", &["system:masters"]))
            .unwrap_err();
    }

    #[test]
    fn rule_3_a_group_that_no_header_can_hold_is_left_out_and_not_mended() {
        let long = "x".repeat(underpass_core::limits::NAME_BYTES + 1);
        let groups = ["dev", "", " ops", "ops ", "a\tb", "a\r\nb", &long, "qa"];
        let plain = source(Reserved::default());
        let identity = plain.identity(assertion("alice", &groups)).unwrap();
        assert_eq!(identity.groups(), ["dev", "qa"]);
        // A user's name and uid are never guessed.
        for user in ["", " alice", "alice ", "a\nb", &long] {
            let refused = plain.identity(assertion(user, &[]));
            assert!(matches!(refused, Err(CredentialError::Identity(_))));
            let uid = Assertion {
                uid: Some(user.to_owned()),
                ..assertion("alice", &[])
            };
            plain.identity(uid).unwrap_err();
        }
        // One that looks reserved is no less so for its space.
        let reserved = plain.identity(assertion("alice", &["system:masters "]));
        assert!(matches!(reserved, Err(CredentialError::Reserved(_))));
    }

    #[test]
    fn rule_11_a_flood_of_groups_is_refused() {
        let groups: Vec<_> = (0..=underpass_core::limits::GROUPS)
            .map(|n| n.to_string())
            .collect();
        let groups: Vec<_> = groups.iter().map(String::as_str).collect();
        let refused = source(Reserved::default()).identity(assertion("alice", &groups));
        assert!(matches!(refused, Err(CredentialError::Identity(_))));
    }

    #[test]
    fn who_vouches_is_kept() {
        let identity = source(Reserved::default())
            .identity(assertion("alice", &[]))
            .unwrap();
        assert_eq!(identity.provenance().unwrap().to_string(), "jwt/corp");
    }
}
