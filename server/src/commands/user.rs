//! `underpass-server user`

use anyhow::Result;

use super::{list, print_table};
use crate::access::Access;
use crate::cli::{Rights, User};
use crate::data_dir::DataDir;

pub(crate) fn run(data: &DataDir, command: User) -> Result<()> {
    match command {
        User::Add { name, rights } => {
            let Rights {
                groups,
                clusters,
                all_clusters,
            } = rights;
            let made = Access::edit(data, |access| {
                let made = access.ensure_user(&name)?;
                access.join_groups(&name, &groups)?;
                access.grant(&name, &clusters)?;
                if all_clusters {
                    access.grant_all(&name)?;
                }
                Ok(made)
            })?;
            eprintln!(
                "User {name} {}.",
                if made { "is made" } else { "is up to date" }
            );
        }
        User::List => {
            let access = Access::read(data)?;
            let rows: Vec<_> = access
                .users()
                .map(|(name, groups, clusters)| vec![name.to_owned(), list(groups), list(clusters)])
                .collect();
            print_table(&["USER", "GROUPS", "CLUSTERS"], &rows);
        }
        User::Remove { name } => {
            Access::edit(data, |access| access.remove_user(&name))?;
            eprintln!("User {name} is forgotten; what they have open ends.");
        }
    }
    Ok(())
}
