//! The first administrator of a directory in which nobody may do anything yet.

use std::sync::Arc;

use anyhow::Result;
use underpass_proxy::authenticate::Token;
use underpass_proxy::directory::{
    Binding, Directory, Draft, Expect, Name, Owner, Role, Subject, User,
};

use super::problem::Problem;
use super::tokens::{self, TokenRequest};
use crate::limits;

/// What they are called.
pub(crate) const NAME: &str = "admin";

/// Makes them, and their token unless it is `given`, in a directory without users and bindings.
pub(crate) async fn first_administrator(
    directory: &Arc<Directory>,
    given: Option<Token>,
) -> Result<Option<Token>> {
    let name = Name::new(NAME)?;
    let token = match given {
        Some(token) => token,
        None => tokens::generate()?,
    };
    let make = |draft: &mut Draft| {
        if !draft.all::<User>().is_empty() || !draft.all::<Binding>().is_empty() {
            return Ok(false);
        }
        let user = User::new(draft.now());
        draft.put(NAME, user, Expect::Absent)?;
        draft.grant(&Subject::User(name.clone()), &[], true, Role::Admin)?;
        let wanted = TokenRequest {
            expires_in_seconds: Some(limits::FIRST_TOKEN.as_secs()),
            description: "first administrator".to_owned(),
            ..TokenRequest::default()
        };
        tokens::put(draft, &token, Owner::User(name.clone()), &wanted)?;
        Ok::<_, Problem>(true)
    };
    let made = directory.change(make).await?.value;
    Ok(made.then_some(token))
}

#[cfg(test)]
mod tests {
    use underpass_proxy::directory::{Cluster, Labels, MemoryStore};

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
        let given = tokens::generate().unwrap();
        let hash = given.hash();
        let token = first_administrator(&directory, Some(given)).await;
        let token = token.unwrap().unwrap();
        assert_eq!(token.hash(), hash);
        let snapshot = directory.snapshot();
        assert!(snapshot.is_administrator(NAME, &[]));
        assert_eq!(snapshot.token(&token.hash()).unwrap().1.owner.name(), NAME);
        let again = first_administrator(&directory, None).await;
        assert!(again.unwrap().is_none());
    }
}
