//! `underpass exec`: a command in a pod, over a session that survives a loss of the network.

mod api;
mod ended;
mod pod;
mod run;
mod selector;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use underpass_api::segment;
use underpass_session::{Event, UserSession};
use underpass_terminal::{Terminal, interject, say};

use self::api::Api;
use self::ended::Ended;
use self::pod::Choice;
use self::run::Wanted;
use crate::args::{Exec, Which};
use crate::signals::Signals;
use crate::status::{CommandStatus, SIGNALLED};

/// The status that a shell gives a program that wrote to a pipe whose reader is gone: SIGPIPE.
const BROKEN_PIPE: u8 = SIGNALLED + 13;

pub(crate) async fn run(which: &Which, options: Exec) -> Result<()> {
    let terminal = terminal(&options);
    let config = which.session(options.transport.into()).await?;
    let (url, is_raw) = (config.url.clone(), terminal.is_some());
    let (path, away) = watch::channel(false);
    let session = UserSession::connect(config, move |event| {
        path.send_replace(matches!(event, Event::Lost));
        tell(&url, is_raw, &event);
    });
    let session = session.await?;
    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        ended = in_pod(&session, &options, terminal.as_ref(), away) => ended,
        // By itself it would leave the command, and its session, until the server has waited for them.
        signal = signals.next() => Err(CommandStatus::of(signal).into()),
    };
    session.close().await;
    match ended? {
        Ended::Status(0) => Ok(()),
        Ended::Status(status) => {
            say!("command terminated with exit code {status}");
            Err(CommandStatus(u8::try_from(status).unwrap_or(1)).into())
        }
        Ended::Failed(why) => bail!("{why}"),
        Ended::OutputClosed => Err(CommandStatus(BROKEN_PIPE).into()),
    }
}

/// The terminal that the command gets.
fn terminal(options: &Exec) -> Option<Terminal> {
    // As with kubectl, a terminal without input is none.
    let terminal = (options.stdin && options.tty).then(Terminal::of_this_program)?;
    if terminal.is_none() && !options.quiet {
        say!("underpass: no terminal for the command: standard input and output are not one");
    }
    terminal
}

async fn in_pod(
    session: &UserSession,
    options: &Exec,
    terminal: Option<&Terminal>,
    away: watch::Receiver<bool>,
) -> Result<Ended> {
    let api = Api::new(session, &options.cluster, &options.namespace)?;
    let pod = pod::find(&api, &options.pod).await?;
    let Choice { container, others } = pod.container(options.container.as_deref())?;
    if let Some(others) = others.filter(|_| !options.quiet) {
        say!("Defaulted container \"{container}\" out of: {others}");
    }
    let mut query = format!("container={}", segment(container));
    for word in &options.command {
        query.push_str(&format!("&command={}", segment(word)));
    }
    let wanted = Wanted {
        path: api.path(&pod.exec()?, &query),
        stdin: options.stdin,
    };
    let ended = wanted.run(session, terminal, away).await;
    ended.with_context(|| format!("the command in pod {}", pod.name()))
}

fn tell(server: &str, is_raw: bool, event: &Event) {
    let words = match event {
        Event::Lost => format!(
            "the connection to {server} is lost, connecting again: the command goes on meanwhile"
        ),
        Event::Resumed => {
            format!("connected to {server} again, and the command goes on where it was")
        }
        Event::Refused(why) => format!("{server}: {why}"),
        // The stream's own error says so.
        _ => return,
    };
    match is_raw {
        true => interject(&words),
        false => say!("underpass: {words}"),
    }
}
