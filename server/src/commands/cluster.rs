//! `underpass-server cluster`

use anyhow::{Context, Result};
use underpass_tunnel::AgentKey;

use super::print_table;
use super::serve::URL;
use crate::access::Access;
use crate::cli::Cluster;
use crate::data_dir::DataDir;
use crate::pki::Ca;

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
            eprintln!("{}", next_step(data));
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

/// How to start the agent, as far as this server knows itself already.
fn next_step(data: &DataDir) -> String {
    // Whatever is wrong with these, the token has been made.
    match (data.read(URL).ok().flatten(), Ca::pin(data).ok()) {
        (Some(url), Some(pin)) => format!(
            "With that in a file, start the agent:\n  \
             underpass-agent --server {} --ca-pin {pin} --token-file FILE",
            url.trim()
        ),
        _ => {
            "Once `underpass-server serve` has been started, `underpass-server ca-pin` prints what \
              else the agent needs."
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_can_be_copied() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let early = next_step(&data);
        assert!(early.contains("underpass-server ca-pin"), "{early}");
        Ca::load_or_create(&data).unwrap();
        data.write(URL, "https://u.example.org:8443\n").unwrap();
        let pin = Ca::pin(&data).unwrap();
        let wanted = format!("--server https://u.example.org:8443 --ca-pin {pin} --token-file");
        let told = next_step(&data);
        assert!(told.contains(&wanted), "{told}");
    }
}
