//! Administrators that the server itself makes: the first one of a directory in which nobody may do anything yet, and one to
//! recover a directory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use underpass_api::{TokenRequest, TokenView};
use underpass_authenticate::Token;
use underpass_core::Authority;
use underpass_directory::{Binding, Directory, Draft, Expect, Name, Owner, Role, Subject, User};

use super::problem::Problem;
use super::tokens::{self, MadeBy};
use crate::limits;

/// The first administrator's name.
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
        let life = limits::FIRST_TOKEN;
        administrator(draft, &name, token, life, "first administrator")?;
        Ok::<_, Problem>(true)
    };
    Ok(directory.change(make).await?.value)
}

/// Makes one more, who has never been there, with this token.
pub(crate) async fn new_administrator(
    directory: &Arc<Directory>,
    name: &Name,
    token: &Token,
) -> Result<TokenView> {
    let make = |draft: &mut Draft| {
        let life = limits::RECOVERY_TOKEN;
        administrator(draft, name, token, life, "recovery")
    };
    let id = directory.change(make).await?.value;
    Ok(tokens::made(&directory.snapshot(), &id, token)?.about)
}

/// Makes a user who administers everything, and a token of theirs.
fn administrator(
    draft: &mut Draft,
    name: &Name,
    token: &Token,
    life: Duration,
    description: &str,
) -> Result<String, Problem> {
    let user = User::new(draft.now());
    draft.put(name.as_str(), user, Expect::Absent)?;
    // A user of this name at another authority is another user, also once this one is gone (security rule 22).
    let subject = Subject::user(name.clone()).of(Authority::Directory);
    draft.grant(&subject, &[], true, Role::Admin)?;
    let wanted = TokenRequest {
        expires_in_seconds: Some(life.as_secs()),
        description: description.to_owned(),
        ..TokenRequest::default()
    };
    let owner = Owner::User(name.clone());
    tokens::put(draft, token, owner, &MadeBy::default(), &wanted)
}

#[cfg(test)]
mod tests {
    use underpass_directory::{Cluster, MemoryStore, Named};

    use super::*;

    #[tokio::test]
    async fn there_is_one_first_administrator() {
        let directory = Directory::open(Arc::new(MemoryStore::default()))
            .await
            .unwrap();
        // An agent's token may be made before the server was ever started.
        let cluster = |draft: &mut Draft| {
            let cluster = Cluster::new(draft.now());
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
