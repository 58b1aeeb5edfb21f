//! The first administrator of a directory in which nobody may do anything yet.

use std::sync::Arc;

use anyhow::Result;
use underpass_api::TokenRequest;
use underpass_authenticate::Token;
use underpass_core::Authority;
use underpass_directory::{Binding, Directory, Draft, Expect, Name, Owner, Role, Subject, User};

use super::problem::Problem;
use super::tokens::{self, MadeBy};
use crate::limits;

/// What they are called.
pub(crate) const NAME: &str = "admin";

/// Has the directory neither users nor bindings?
pub(crate) fn needs_first_administrator(directory: &Directory) -> bool {
    let snapshot = directory.snapshot();
    snapshot.all::<User>().is_empty() && snapshot.all::<Binding>().is_empty()
}

/// Makes them, with this token, in a directory without users and bindings. Gives whether it did.
pub(crate) async fn first_administrator(directory: &Arc<Directory>, token: &Token) -> Result<bool> {
    let name = Name::new(NAME)?;
    let make = |draft: &mut Draft| {
        if !draft.all::<User>().is_empty() || !draft.all::<Binding>().is_empty() {
            return Ok(false);
        }
        let user = User::new(draft.now());
        draft.put(NAME, user, Expect::Absent)?;
        // Whoever is called so elsewhere is somebody else, even once this user is gone (security rule 22).
        let subject = Subject::user(name.clone()).of(Authority::Directory);
        draft.grant(&subject, &[], true, Role::Admin)?;
        let wanted = TokenRequest {
            expires_in_seconds: Some(limits::FIRST_TOKEN.as_secs()),
            description: "first administrator".to_owned(),
            ..TokenRequest::default()
        };
        let owner = Owner::User(name.clone());
        tokens::put(draft, token, owner, &MadeBy::default(), &wanted)?;
        Ok::<_, Problem>(true)
    };
    Ok(directory.change(make).await?.value)
}

#[cfg(test)]
mod tests {
    use underpass_directory::{Cluster, Labels, MemoryStore, Named};

    use super::*;

    #[tokio::test]
    async fn there_is_one_first_administrator() {
        let directory = Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap();
        // An agent's token may be made before the server was ever started.
        let cluster = |draft: &mut Draft| {
            let cluster = Cluster {
                created: draft.now(),
                labels: Labels::default(),
                direct: None,
            };
            draft.put("edge", cluster, Expect::Absent)
        };
        directory.change(cluster).await.unwrap();
        assert!(needs_first_administrator(&directory));
        let token = Token::generate().unwrap();
        assert!(first_administrator(&directory, &token).await.unwrap());
        let snapshot = directory.snapshot();
        assert!(snapshot.is_administrator(Named::by_directory(NAME, &[])));
        assert_eq!(snapshot.token(&token.hash()).unwrap().1.owner.name(), NAME);
        assert!(!needs_first_administrator(&directory));
        assert!(!first_administrator(&directory, &token).await.unwrap());
    }
}
