//! `underpass user` and `underpass group`

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;
use underpass_api::client::Match;
use underpass_api::{
    AccessGiven, AccessRequest, Client, GroupSpec, GroupStatus, NewPassword, UserSpec, UserStatus,
    View, segment,
};
use underpass_core::Authority;
use underpass_terminal::say;

use super::{list, print_table};
use crate::args::{Group, Rights, User};
use crate::password::read_password;

type Shown = View<UserSpec, UserStatus>;
type ShownGroup = View<GroupSpec, GroupStatus>;

pub(crate) async fn run(client: &Client, command: User) -> Result<()> {
    match command {
        User::Add {
            name,
            rights,
            links,
        } => {
            let Rights {
                groups,
                clusters,
                all_clusters,
                role,
            } = rights;
            let wanted = AccessRequest {
                user: name.clone(),
                links: links.into_iter().collect(),
                groups,
                clusters,
                all_clusters,
                role,
                token: None,
            };
            let given: AccessGiven = client.post("/v1/access", &wanted).await?;
            let made = if given.made {
                "is added"
            } else {
                "is up to date"
            };
            say!("User {name} {made}.");
        }
        User::Link { name, authorities } => {
            let path = format!("/v1/users/{}", segment(name.as_str()));
            let shown: Shown = client
                .patch(&path, &json!({ "links": authorities }), Match::Anything)
                .await?;
            match shown.spec.links.is_empty() {
                true => say!("Only the directory vouches for user {name}."),
                false => say!(
                    "User {name} is also the user of this name at {}.",
                    links(&shown.spec.links)
                ),
            }
        }
        User::List => {
            let users: Vec<Shown> = client.list("/v1/users").await?;
            let rows: Vec<_> = users.iter().map(row).collect();
            print_table(&["USER", "GROUPS", "CLUSTERS", "LINKS", "STATE"], &rows);
        }
        User::Password {
            name,
            password_file,
            current_password_file,
            remove,
        } => {
            let path = format!("/v1/users/{}/password", segment(name.as_str()));
            if remove {
                client.delete(&path, Match::Anything).await?;
                say!("User {name} has no password any longer.");
                return Ok(());
            }
            let current = match &current_password_file {
                Some(file) => Some(read_password(Some(file), "")?),
                None => None,
            };
            let prompt = format!("New password of {name}: ");
            let password = read_password(password_file.as_deref(), &prompt)?;
            if password_file.is_none() && read_password(None, "Again: ")? != password {
                anyhow::bail!("the passwords differ");
            }
            let wanted = NewPassword { password, current };
            client.put_secret(&path, &wanted).await?;
            say!("User {name} has a new password.");
        }
        User::Disable { name } => set_disabled(client, name.as_str(), true).await?,
        User::Enable { name } => set_disabled(client, name.as_str(), false).await?,
        User::Remove { name } => {
            client
                .delete(
                    &format!("/v1/users/{}", segment(name.as_str())),
                    Match::Anything,
                )
                .await?;
            say!("User {name} is removed; their open streams end.");
        }
    }
    Ok(())
}

async fn set_disabled(client: &Client, name: &str, disabled: bool) -> Result<()> {
    let path = format!("/v1/users/{}", segment(name));
    let _: Shown = client
        .patch(&path, &json!({ "disabled": disabled }), Match::Anything)
        .await?;
    if disabled {
        say!("User {name} is suspended; their open streams end.");
    } else {
        say!("User {name} is enabled; their tokens work again.");
    }
    Ok(())
}

fn links(links: &BTreeSet<Authority>) -> String {
    list(&links.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn row(user: &Shown) -> Vec<String> {
    let reach = user.status.reach.iter();
    let reach: Vec<_> = reach
        .flat_map(|(role, clusters)| {
            clusters
                .iter()
                .map(move |cluster| format!("{cluster}({role})"))
        })
        .collect();
    let state = if user.spec.disabled {
        "disabled"
    } else {
        "enabled"
    };
    vec![
        user.name.clone(),
        list(&user.status.groups),
        list(&reach),
        links(&user.spec.links),
        state.to_owned(),
    ]
}

pub(crate) async fn run_group(client: &Client, command: Group) -> Result<()> {
    match command {
        Group::List => {
            let groups: Vec<ShownGroup> = client.list("/v1/groups").await?;
            let rows: Vec<_> = groups
                .iter()
                .map(|group| {
                    let members = group.spec.members.iter().map(ToString::to_string);
                    let members = list(&members.collect::<Vec<_>>());
                    vec![group.name.clone(), members, links(&group.spec.links)]
                })
                .collect();
            print_table(&["GROUP", "MEMBERS", "LINKS"], &rows);
        }
        Group::Set {
            name,
            members,
            links,
        } => {
            let path = format!("/v1/groups/{}", segment(name.as_str()));
            let spec = GroupSpec {
                members: members.into_iter().collect(),
                links: links.into_iter().collect(),
            };
            let shown: ShownGroup = client.make_or_replace(&path, &spec).await?;
            say!("Group {name} has {} members.", shown.spec.members.len());
        }
        Group::Remove { name } => {
            client
                .delete(
                    &format!("/v1/groups/{}", segment(name.as_str())),
                    Match::Anything,
                )
                .await?;
            say!("Group {name} is removed, also from bindings.");
        }
    }
    Ok(())
}
