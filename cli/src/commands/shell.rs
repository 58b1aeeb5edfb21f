//! `underpass shell`

mod attach;
mod escape;
mod play;
mod recordings;
mod way;

use anyhow::{Context, Result, bail};
use underpass_api::client::Match;
use underpass_api::{ShellList, ShellRequest, ShellView, ViewerWrites};
use underpass_core::{ClusterName, ShellKind};
use underpass_terminal::{Terminal, say, show as show_line};

use self::attach::{Left, Viewing};
use self::way::{Path, shells};
use super::{list, print_table, timestamp};
use crate::args::{At, Shell, ShellCommand, Which};
use crate::status::CommandStatus;

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
    shells(cluster, at.node.as_ref())
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

/// Opens a shell, and says what it lacks.
async fn open(
    which: &Which,
    path: &str,
    kind: ShellKind,
    terminal: Option<&Terminal>,
    command: Vec<String>,
) -> Result<ShellView> {
    let (columns, rows) = terminal.and_then(Terminal::size).unwrap_or_default();
    let request = ShellRequest {
        kind,
        columns,
        rows,
        term: terminal.map_or_else(|| "dumb".to_owned(), Terminal::kind),
        command,
    };
    let view: ShellView = which.client().await?.post(path, &request).await?;
    if !view.missing.is_empty() {
        say!(
            "underpass: the shell is without these protections, as its agent's policy allows: {}",
            view.missing.join(", ")
        );
    }
    Ok(view)
}

async fn enter(which: &Which, options: Shell) -> Result<()> {
    let cluster = options.cluster.context("name the cluster")?;
    let path = path(&cluster, &options.at);
    if options.detach {
        let terminal = Terminal::of_this_program();
        let view = open(which, &path, options.kind, terminal.as_ref(), options.words).await?;
        show_line(view.id);
        return Ok(());
    }
    let Some(terminal) = Terminal::of_this_program() else {
        bail!("a shell needs a terminal: standard input and output are not one");
    };
    // First of all: without a way to it, no shell is opened.
    let node = options.at.node.as_ref();
    let way = Path::find(which, options.transport.into(), &cluster, node).await?;
    let view = match &options.attach {
        Some(id) => {
            let client = which.client().await?;
            client.get::<ShellView>(&format!("{path}/{id}")).await?
        }
        None => open(which, &path, options.kind, Some(&terminal), options.words).await?,
    };
    let writes = match (options.take_over, options.watch) {
        (true, _) => ViewerWrites::TakeOver,
        (_, true) => ViewerWrites::Never,
        _ => ViewerWrites::Free,
    };
    let way = way.to(path, view.kind, view.id.clone());
    let left = Viewing::new(&way, writes).run(&terminal).await;
    way.close().await;
    match left? {
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
            let status = end.exit.map_or(1, underpass_api::ProgramExit::status);
            match u8::try_from(status) {
                Ok(0) if end.by_itself => Ok(()),
                Ok(0) | Err(_) => Err(CommandStatus(1).into()),
                Ok(status) => Err(CommandStatus(status).into()),
            }
        }
    }
}
