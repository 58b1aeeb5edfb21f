//! `underpass cluster join-account`

use anyhow::Result;
use serde_json::{Value, json};
use underpass_api::client::Match;
use underpass_api::{Client, SERVER, ServerInfo, segment};
use underpass_core::ClusterName;
use underpass_core::service_account::Account;
use underpass_terminal::say;

use super::cluster::Shown;
use super::print_table;
use crate::args::JoinAccount;
use crate::paste;

pub(super) async fn run(client: &Client, command: JoinAccount) -> Result<()> {
    match command {
        JoinAccount::Add {
            cluster,
            account,
            role,
        } => {
            change(client, &cluster, &account, json!(role)).await?;
            say!("Pods of the ServiceAccount {account} join cluster {cluster} in the role {role}.");
            let info: ServerInfo = client.get(SERVER).await?;
            let url = paste::url(&info.url).unwrap_or("the server's URL");
            say!("They need a projected token with the audience {url}, and these flags:");
            say!(
                "  underpass-agent --join-service-account-token FILE --cluster {cluster} --role {role}"
            );
            say!(
                "The cluster's agent needs the right to have tokens reviewed: underpass-agent rbac --token-reviewer"
            );
        }
        JoinAccount::List { cluster } => {
            let path = path(&cluster);
            let shown: Shown = client.get(&path).await?;
            let accounts = shown.spec.join_accounts.into_iter();
            let rows: Vec<_> = accounts
                .map(|(account, role)| vec![account.to_string(), role.to_string()])
                .collect();
            print_table(&["ACCOUNT", "ROLE"], &rows);
        }
        JoinAccount::Delete { cluster, account } => {
            change(client, &cluster, &account, Value::Null).await?;
            say!("No more pods of {account} join cluster {cluster}. Those that have joined stay.");
        }
    }
    Ok(())
}

fn path(cluster: &ClusterName) -> String {
    format!("/v1/clusters/{}", segment(cluster.as_str()))
}

/// Of one account only: others may be changed at the same time.
async fn change(
    client: &Client,
    cluster: &ClusterName,
    account: &Account,
    role: Value,
) -> Result<Shown> {
    let change = json!({ "joinAccounts": { account.to_string(): role } });
    Ok(client
        .patch(&path(cluster), &change, Match::Anything)
        .await?)
}
