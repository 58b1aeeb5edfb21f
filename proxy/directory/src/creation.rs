//! Creations of objects: a name may be another object's later.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The creation of an object: that of an object that is made again under the same name is another one. It is random, since times are in whole
/// seconds and a store's revisions begin anew when a directory is copied to another store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CreationId(String);

impl CreationId {
    /// A new one.
    pub(super) fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// That of an object. One of an earlier version has its time alone.
    pub(super) fn of(creation: Option<&Self>, created: OffsetDateTime) -> Self {
        let at = || Self(format!("at-{}", created.unix_timestamp()));
        creation.cloned().unwrap_or_else(at)
    }

    /// That of an object that takes the place of one before, or of none.
    pub(super) fn succeed(before: Option<Option<&Self>>) -> Option<Self> {
        match before {
            // An object of an earlier version has none, and stays the one that it is.
            Some(before) => before.cloned(),
            None => Some(Self::random()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::directory;
    use crate::{ChangeError, Cluster, Draft, Expect, User};

    fn put(draft: &mut Draft) -> Result<(), ChangeError> {
        let cluster = Cluster::new(draft.now());
        draft.put("edge", cluster, Expect::Anything)?;
        let user = User::new(draft.now());
        draft.put("alice", user, Expect::Anything)
    }

    fn remove(draft: &mut Draft) -> Result<(), ChangeError> {
        draft.remove::<Cluster>("edge", Expect::Present)?;
        draft.remove::<User>("alice", Expect::Present)
    }

    #[tokio::test]
    async fn an_object_that_is_made_again_under_its_name_is_another_one() {
        let directory = directory().await;
        let ids = || {
            let now = directory.snapshot();
            let cluster = now.get::<Cluster>("edge").unwrap().object.creation_id();
            (
                cluster,
                now.get::<User>("alice").unwrap().object.creation_id(),
            )
        };
        directory.change(put).await.unwrap();
        let first = ids();
        // A change leaves it as it is, and the new object has no say in it.
        let disable = |draft: &mut Draft| {
            let user = User {
                disabled: true,
                ..User::new(draft.now())
            };
            draft.put("alice", user, Expect::Present)
        };
        directory.change(disable).await.unwrap();
        assert_eq!(ids(), first);
        // Also within one change, and within one second.
        let anew = |draft: &mut Draft| {
            remove(draft)?;
            put(draft)
        };
        directory.change(anew).await.unwrap();
        let second = ids();
        assert!(first.0 != second.0 && first.1 != second.1, "{second:?}");
    }

    #[test]
    fn an_object_of_an_earlier_version_stays_the_one_that_it_is() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let id = CreationId::of(None, at);
        assert_eq!(
            CreationId::of(CreationId::succeed(Some(None)).as_ref(), at),
            id
        );
        assert_ne!(CreationId::of(CreationId::succeed(None).as_ref(), at), id);
    }
}
