//! Decides which user or group a name means (security rule 22).
//!
//! An authenticator that asks a provider may give any name. Where the directory has a user of that name, a link has to say that
//! they are one; otherwise the name's bearer elsewhere would have that user's rights, even while that user is suspended. The
//! same is true of groups. Every question about rights is answered from here.
//!
//! Kubernetes and bindings compare names byte by byte, and so does a link. A name that differs from a user's in the case of
//! its letters has none of that user's rights; it is refused nevertheless, since identity providers look past case and
//! people who read an audit do. Other characters that only look alike (Cyrillic, composed accents) are other names.

use std::collections::BTreeMap;

use super::{
    object::{Group, Login, User},
    snapshot::Snapshot,
};
use underpass_authenticate::CredentialError;
use underpass_core::{Authority, Identity, Subject, SubjectKind};

/// A caller as clusters see them, and the authority that vouches for this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    pub(super) authority: Authority,
    /// They are the directory's user of that name, for any authority.
    pub(super) is_user: bool,
    pub(super) user: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl Facts {
    /// The authenticator's facts of a login.
    pub(super) fn of_login(login: &Login) -> Option<Self> {
        Some(Self {
            authority: login.authority()?,
            is_user: false,
            user: login.user.clone(),
            uid: login.uid.clone(),
            groups: login.groups.clone(),
            extra: login.extra.clone(),
        })
    }

    /// An authenticator's facts of a caller.
    pub(super) fn of_identity(authority: Authority, identity: &Identity) -> Self {
        Self {
            authority,
            is_user: false,
            user: identity.user().to_owned(),
            uid: identity.uid().map(str::to_owned),
            groups: identity.groups().to_vec(),
            extra: identity.extra().clone(),
        }
    }
}

/// A caller as bindings see them: their names, and the authority of these.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    authority: Option<&'a Authority>,
    user: &'a str,
    groups: &'a [String],
}

impl<'a> Named<'a> {
    /// A user of the directory, with groups of the directory.
    pub fn by_directory(user: &'a str, groups: &'a [String]) -> Self {
        Self {
            authority: Some(&Authority::Directory),
            user,
            groups,
        }
    }
}

/// An identity without an authority has no rights.
impl<'a> From<&'a Identity> for Named<'a> {
    fn from(identity: &'a Identity) -> Self {
        let provenance = identity.provenance();
        Self {
            authority: provenance.map(|provenance| provenance.authority()),
            user: identity.user(),
            groups: identity.groups(),
        }
    }
}

/// The authorities that give a name.
#[derive(Clone, Copy, Debug, Default)]
struct Given<'a> {
    /// The directory's.
    directory: bool,
    /// An authenticator's.
    provider: Option<&'a Authority>,
}

impl Given<'_> {
    /// Does a binding that names this authority, or none, mean the name?
    fn fits(self, wanted: Option<&Authority>) -> bool {
        match wanted {
            None => self.directory || self.provider.is_some(),
            Some(Authority::Directory) => self.directory,
            wanted => self.provider.is_some() && self.provider == wanted,
        }
    }
}

impl Snapshot {
    /// The user of the directory whom `authority` means by this name; `None` where it has no such name.
    fn user_of(&self, authority: &Authority, name: &str) -> Result<Option<&User>, CredentialError> {
        let Some(entry) = self.get::<User>(name) else {
            return match self.user_like(name) {
                None => Ok(None),
                Some(owner) => Err(CredentialError::LookAlike {
                    name: name.to_owned(),
                    owner: owner.to_owned(),
                }),
            };
        };
        let user = &*entry.object;
        if !authority.is_directory() && !user.links.contains(authority) {
            return Err(CredentialError::AnothersName {
                name: name.to_owned(),
                authority: authority.clone(),
            });
        }
        if user.disabled {
            return Err(CredentialError::Disabled(name.to_owned()));
        }
        Ok(Some(user))
    }

    /// Is this a name of the authenticator's, as far as groups of the directory are concerned?
    fn gives_group(&self, authority: &Authority, name: &str) -> bool {
        match self.get::<Group>(name) {
            Some(group) => group.object.links.contains(authority),
            None => self.group_like(name).is_none(),
        }
    }

    /// Applies the directory to an authenticator's facts: a linked user has their groups in the directory as well, and the
    /// authenticator gives no group of the directory's without a link.
    pub(super) fn admit(&self, claimed: &Facts) -> Result<Facts, CredentialError> {
        let authority = &claimed.authority;
        let user = self.user_of(authority, &claimed.user)?;
        let mut admitted = claimed.clone();
        admitted
            .groups
            .retain(|group| self.gives_group(authority, group));
        if let Some(user) = user {
            admitted.is_user = true;
            for group in self.groups_of(&claimed.user) {
                if !admitted.groups.contains(group) {
                    admitted.groups.push(group.clone());
                }
            }
            admitted.uid = user.uid.clone().or(admitted.uid);
            admitted.extra.extend(user.extra.clone());
        }
        Ok(admitted)
    }

    fn given_user<'a>(&self, authority: &'a Authority, name: &str) -> Given<'a> {
        if authority.is_directory() {
            // The token's look-up has checked the user.
            return Given {
                directory: true,
                provider: None,
            };
        }
        match self.user_of(authority, name) {
            Ok(user) => Given {
                directory: user.is_some(),
                provider: Some(authority),
            },
            Err(_) => Given::default(),
        }
    }

    fn given_group<'a>(
        &self,
        authority: &'a Authority,
        user: Given<'_>,
        named: &Named<'_>,
        group: &String,
    ) -> Given<'a> {
        if authority.is_directory() {
            return Given {
                directory: true,
                provider: None,
            };
        }
        let is_member = user.directory && self.groups_of(named.user).contains(group);
        let is_given = self.gives_group(authority, group);
        let is_linked = is_given && self.get::<Group>(group).is_some();
        Given {
            directory: is_member || is_linked,
            provider: is_given.then_some(authority),
        }
    }

    /// The subjects of bindings that mean this caller, with the names of the bindings.
    pub(super) fn subjects_of<'a>(
        &'a self,
        named: Named<'a>,
    ) -> impl Iterator<Item = (Subject, &'a str)> + 'a {
        let whom = named.authority.into_iter().flat_map(move |authority| {
            let user = self.given_user(authority, named.user);
            let groups = named.groups.iter().map(move |group| {
                let given = self.given_group(authority, user, &named, group);
                (SubjectKind::Group, group.as_str(), given)
            });
            std::iter::once((SubjectKind::User, named.user, user)).chain(groups)
        });
        whom.flat_map(move |(kind, name, given)| {
            let bindings = self.bindings_for(kind, name).iter();
            bindings
                .filter(move |(subject, _)| given.fits(subject.authority.as_ref()))
                .map(|(subject, binding)| (subject.clone(), binding.as_str()))
        })
    }
}
