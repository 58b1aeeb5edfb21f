//! `underpass-server cluster`

use anyhow::{Context, Result};
use underpass_tunnel::AgentKey;

use super::print_table;
use crate::access::Access;
use crate::cli::Cluster;
use crate::data_dir::DataDir;

pub(crate) fn run(data: &DataDir, command: Cluster) -> Result<()> {
    match command {
        Cluster::Add { name } => {
            let key = AgentKey::from_seed(rand::random()).context("cannot make an agent token")?;
            Access::edit(data, |access| {
                access.add_agent(&name, key.public_key());
                Ok(())
            })?;
            eprintln!("A token for an agent of cluster {name}; it is shown this once:");
            println!("{}", *key.to_secret_text());
        }
        Cluster::List => {
            let access = Access::read(data)?;
            let rows: Vec<_> = access
                .clusters()
                .map(|(name, agents)| vec![name.to_string(), agents.to_string()])
                .collect();
            print_table(&["CLUSTER", "AGENT TOKENS"], &rows);
        }
        Cluster::Remove { name } => {
            Access::edit(data, |access| access.remove_cluster(&name))?;
            eprintln!("Cluster {name} is forgotten; its agents are cut off.");
        }
    }
    Ok(())
}
