//! `underpass cluster credentials`

use anyhow::Result;
use serde_json::{Value, json};
use time::OffsetDateTime;
use underpass_api::client::Match;
use underpass_api::{Client, RegistrationStatus, segment};
use underpass_core::ClusterName;
use underpass_terminal::say;

use super::cluster::Shown;
use super::{list, print_table, timestamp};
use crate::args::Credentials;

pub(super) async fn run(client: &Client, command: Credentials) -> Result<()> {
    match command {
        Credentials::Allow { cluster, addresses } => {
            let rules = json!({ "addresses": addresses });
            let changed = change(client, &cluster, rules).await?;
            let places = places(&networks(&changed));
            say!(
                "Agents of cluster {cluster} that are started with --register-credentials register one. \
                 `underpass-agent rbac --register-credentials` prints the rights that they need. The server connects {places}."
            );
        }
        Credentials::Deny { cluster } => {
            change(client, &cluster, Value::Null).await?;
            say!(
                "Agents of cluster {cluster} register no credential; one that was registered is deleted, and open streams that use \
                 it end."
            );
        }
        Credentials::List => {
            let clusters: Vec<Shown> = client.list("/v1/clusters").await?;
            let concerned = clusters
                .iter()
                .filter(|cluster| cluster.spec.registrations.is_some());
            let rows: Result<Vec<_>> = concerned.map(row).collect();
            let header = [
                "CLUSTER",
                "API SERVER",
                "ACCOUNT",
                "EXPIRES",
                "REGISTERED",
                "AGENT",
                "ALLOWED AT",
            ];
            print_table(&header, &rows?);
        }
        Credentials::Delete { cluster } => {
            let path = format!("{}/registration", path(&cluster));
            client.delete(&path, Match::Anything).await?;
            say!(
                "The registered credential of cluster {cluster} is deleted; open streams that use it end."
            );
        }
    }
    Ok(())
}

fn path(cluster: &ClusterName) -> String {
    format!("/v1/clusters/{}", segment(cluster.as_str()))
}

async fn change(client: &Client, cluster: &ClusterName, rules: Value) -> Result<Shown> {
    let change = json!({ "registrations": rules });
    Ok(client
        .patch(&path(cluster), &change, Match::Anything)
        .await?)
}

/// The networks in which the API server has to be; none where no network was named.
fn networks(cluster: &Shown) -> Vec<String> {
    let rules = cluster.spec.registrations.iter();
    let networks = rules.flat_map(|rules| &rules.addresses);
    networks.map(ToString::to_string).collect()
}

/// `allow` replaces the networks that counted before, and says which count now.
fn places(networks: &[String]) -> String {
    match networks.is_empty() {
        true => {
            "to any address but its machine's and those of clouds' metadata: --address bounds it"
                .to_owned()
        }
        false => format!("to {} and nowhere else", list(networks)),
    }
}

fn row(cluster: &Shown) -> Result<Vec<String>> {
    let none = || "-".to_owned();
    let networks = networks(cluster);
    let allowed = match networks.is_empty() {
        true => "anywhere".to_owned(),
        false => list(&networks),
    };
    let Some(registration) = &cluster.status.registration else {
        let cells = [cluster.name.clone(), none(), none(), none(), none(), none()];
        return Ok(cells.into_iter().chain([allowed]).collect());
    };
    let RegistrationStatus {
        server,
        account,
        agent,
        registered,
        expires,
    } = registration;
    let expires = match *expires <= OffsetDateTime::now_utc() {
        true => "expired".to_owned(),
        false => timestamp(*expires)?,
    };
    Ok(vec![
        cluster.name.clone(),
        server.clone(),
        account.clone(),
        expires,
        timestamp(*registered)?,
        agent.clone(),
        allowed,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowing_says_where_the_server_connects_then() {
        let networks = ["10.0.0.0/8".to_owned(), "2001:db8::1".to_owned()];
        let said = places(&networks);
        assert!(
            said.contains("10.0.0.0/8") && said.contains("nowhere else"),
            "{said}"
        );
        let said = places(&[]);
        assert!(said.contains("any address but"), "{said}");
    }
}
