//! `underpass shell`

mod attach;
mod escape;
mod keyboard;
mod play;
mod recordings;

use anyhow::{Context, Result, bail};
use underpass_api::client::Match;
use underpass_api::{ShellList, ShellRequest, ShellView, ViewerWrites, segment};
use underpass_core::{ClusterName, Target};
use underpass_forward::Tunnel;
use underpass_terminal::{Terminal, say};

use self::attach::{Left, Viewing};
use super::node::CommandStatus;
use super::{list, print_table, timestamp};
use crate::args::{At, Shell, ShellCommand, Which};

pub(crate) async fn run(which: &Which, options: Shell) -> Result<()> {
    match options.command {
        Some(ShellCommand::List { cluster, at }) => show(which, &cluster, &at).await,
        Some(ShellCommand::Recordings { cluster, remove }) => match remove {
            Some(id) => recordings::remove(which, &cluster, &id).await,
            None => recordings::list(which, &cluster).await,
        },
        Some(ShellCommand::Play(play)) => play::run(which, &play).await,
        Some(ShellCommand::End { cluster, id, at }) => {
            let path = format!("{}/{id}", path(&cluster, &at));
            let client = which.client().await?;
            client.delete(&path, Match::Anything).await?;
            say!("Shell {id} is being ended.");
            Ok(())
        }
        None => enter(which, options).await,
    }
}

fn path(cluster: &ClusterName, at: &At) -> String {
    match &at.node {
        Some(node) => format!(
            "/v1/clusters/{cluster}/nodes/{}/shells",
            segment(node.as_str())
        ),
        None => format!("/v1/clusters/{cluster}/shells"),
    }
}

async fn show(which: &Which, cluster: &ClusterName, at: &At) -> Result<()> {
    let shells: ShellList = which.client().await?.get(&path(cluster, at)).await?;
    let rows = shells.items.iter().map(row);
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let header = ["ID", "KIND", "SINCE", "SIZE", "VIEWERS", "STATE", "WITHOUT"];
    print_table(&header, &rows);
    Ok(())
}

fn row(view: &ShellView) -> Result<Vec<String>> {
    let state = match &view.end {
        None => "running".to_owned(),
        Some(end) => match end.exit {
            Some(exit) => format!("ended: {}, {exit}", end.cause),
            None => format!("ended: {}", end.cause),
        },
    };
    Ok(vec![
        view.id.to_string(),
        view.kind.to_string(),
        timestamp(view.created)?,
        format!("{}x{}", view.columns, view.rows),
        view.viewers.to_string(),
        state,
        list(&view.missing),
    ])
}

async fn enter(which: &Which, options: Shell) -> Result<()> {
    let cluster = options.cluster.context("name the cluster")?;
    let Some(terminal) = Terminal::of_this_program() else {
        bail!("a shell needs a terminal: standard input and output are not one");
    };
    // First of all: without a way to it, no shell is opened.
    let server = which.server_to_forward().await?;
    let (client, path) = (which.client().await?, path(&cluster, &options.at));
    let view: ShellView = match &options.attach {
        Some(id) => client.get(&format!("{path}/{id}")).await?,
        None => {
            let (columns, rows) = terminal.size().unwrap_or_default();
            let request = ShellRequest {
                kind: options.kind,
                columns,
                rows,
                term: terminal.kind(),
            };
            client.post(&path, &request).await?
        }
    };
    if !view.missing.is_empty() && options.attach.is_none() {
        say!(
            "underpass: the shell is without these protections, as its agent's policy allows: {}",
            view.missing.join(", ")
        );
    }
    let tunnel = Tunnel::new(server, &cluster, |_| {});
    let tunnel = match &options.at.node {
        Some(node) => tunnel.at_node(node),
        None => tunnel,
    };
    let writes = match (options.take_over, options.watch) {
        (true, _) => ViewerWrites::TakeOver,
        (_, true) => ViewerWrites::Never,
        _ => ViewerWrites::Free,
    };
    let viewing = Viewing::new(tunnel, Target::Shell(view.kind, view.id.clone()), writes);
    match viewing.run(&terminal).await? {
        Left::Detached => {
            let at = options.at.node.map(|node| format!(" --node {node}"));
            say!(
                "Detached: `underpass shell {cluster}{} --attach {}` comes back.",
                at.unwrap_or_default(),
                view.id
            );
            Ok(())
        }
        Left::Refused(why) => bail!("{why}"),
        Left::Dismissed => bail!(
            "this terminal took nothing for too long while the shell's program waited for it; the shell goes on"
        ),
        Left::Ended(end) => {
            if !end.by_itself {
                say!("underpass: the shell ended: {}", end.cause);
            }
            let status = end.exit.map_or(1, underpass_api::ShellExit::status);
            match u8::try_from(status) {
                Ok(0) if end.by_itself => Ok(()),
                Ok(0) | Err(_) => Err(CommandStatus(1).into()),
                Ok(status) => Err(CommandStatus(status).into()),
            }
        }
    }
}
