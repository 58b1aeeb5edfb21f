//! The directory as the owner of names.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::{Directory, grants::Grant, object::AccessToken, snapshot::Snapshot, standing::Facts};
use crate::Owner;
use underpass_authenticate::{Authenticated, CredentialError, Names};
use underpass_core::{Authority, Identity, Provenance, limits};

/// Groups that the log has named lately, by authority.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<(Authority, String), Instant>>);

impl Told {
    fn is_news(&self, authority: &Authority, group: &str) -> bool {
        let now = Instant::now();
        let key = (authority.clone(), group.to_owned());
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.duration_since(*at) < limits::GROUP_NEWS;
        if told.get(&key).is_some_and(is_recent) {
            return false;
        }
        if told.len() >= limits::GROUP_NEWS_KEPT {
            told.retain(|_, at| is_recent(at));
        }
        let has_room = told.len() < limits::GROUP_NEWS_KEPT;
        if has_room {
            told.insert(key, now);
        }
        has_room
    }
}

impl Directory {
    /// The token's owner as clusters see them; `None` where the token counts for nothing.
    pub(super) fn facts(
        &self,
        snapshot: &Snapshot,
        id: &str,
        token: &AccessToken,
    ) -> Option<Facts> {
        let facts = snapshot.facts(token);
        if let Owner::Login(login) = &token.owner
            && let Some(claimed) = Facts::of_login(login)
        {
            match snapshot.admit(&claimed) {
                Ok(admitted) => self.tell(&claimed, &admitted),
                Err(rejection) => {
                    tracing::info!(token = id, %rejection, "a login's token counts for nothing");
                }
            }
        }
        facts
    }

    /// Rights are not lost in silence.
    fn tell(&self, claimed: &Facts, admitted: &Facts) {
        // In the order of their authenticator, which is kept: no search for each of thousands.
        let mut kept = admitted.groups.iter().peekable();
        let claimed_groups = claimed.groups.iter();
        claimed_groups
            .filter(|group| kept.next_if_eq(group).is_none() && !admitted.groups.contains(group))
            .filter(|group| self.told.is_news(&claimed.authority, group))
            .for_each(|group| {
                tracing::warn!(
                    authenticator = %claimed.authority, group,
                    "the directory has a group of this name, or one that differs in case only, and no link: the \
                     authenticator's counts for nothing. Link them if they are one (underpass group set NAME \
                     --link), or give the authenticator a prefix for groups"
                );
            });
    }
}

impl Names for Directory {
    fn admit(&self, found: Authenticated) -> Result<Authenticated, CredentialError> {
        let identity = found.identity();
        let Some(provenance) = identity.provenance() else {
            return Err(CredentialError::Unknown);
        };
        // The owner of a token was looked up here, and admitted.
        if provenance.token().is_some() || provenance.authority().is_directory() {
            return Ok(found);
        }
        let claimed = Facts::of_identity(provenance.authority().clone(), identity);
        let admitted = self.snapshot().admit(&claimed)?;
        self.tell(&claimed, &admitted);
        let admitted_identity = identity_of(&admitted, provenance.clone())?;
        let grant = Grant::Claim { claimed, admitted };
        let decision = self.grants.revocation(grant, &self.current);
        Ok(found.admitted_as(admitted_identity, decision))
    }
}

fn identity_of(facts: &Facts, provenance: Provenance) -> Result<Identity, CredentialError> {
    let Facts {
        user,
        uid,
        groups,
        extra,
        ..
    } = facts.clone();
    let identity = Identity::new(user, uid, groups, extra)
        .map_err(|error| CredentialError::Identity(error.to_string()))?;
    Ok(identity.vouched_for(provenance))
}
