//! The streams of a command in a pod (KEP-4006).

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use serde::Deserialize;
use underpass_api::{CHANNEL_PROTOCOL, ShellChannel, TerminalSize};
use underpass_session::UserSession;
use underpass_terminal::{Terminal, obey, relay_to_stderr, relay_to_stdout};

use super::api::shown;
use crate::channels::{Channels, Heard, Incoming, Outgoing, close};
use crate::keyboard::{Event, Keyboard};
use crate::refusal::Refusal;

/// API servers before Kubernetes 1.30 speak the version that has no end of input.
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";

/// The time for the other end to close behind the command's status.
const CLOSING: Duration = Duration::from_secs(5);

/// A command in a pod.
pub(super) struct Wanted {
    /// The path of the request, with the command, without the streams.
    pub(super) path: String,
    pub(super) stdin: bool,
}

/// The end of a command.
pub(super) enum Ended {
    /// By itself, with this exit status.
    Status(i32),
    /// It did not run, or its end is not known: why, in the cluster's words.
    Failed(String),
    /// Nothing reads its output any more.
    OutputClosed,
}

/// The end, as Kubernetes has it: a `Status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    reason: String,
    message: String,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

impl Wanted {
    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be begun, or its stream is lost.
    pub(super) async fn run(
        &self,
        session: &UserSession,
        terminal: Option<&Terminal>,
    ) -> Result<Ended> {
        let path = self.request(terminal.is_some());
        let opened = Channels::in_session(session, &path, PROTOCOLS);
        let channels = opened
            .await
            .map_err(|error| match error.downcast::<Refusal>() {
                Ok(refusal) => shown(refusal),
                Err(error) => error,
            })?;
        let ends_input = channels.protocol() == Some(CHANNEL_PROTOCOL);
        if self.stdin && terminal.is_none() && !ends_input {
            bail!(
                "the API server is older than Kubernetes 1.30 and does not hear of the end of the input: leave -i out, or \
                 use kubectl with `underpass proxy`"
            );
        }
        let (mut to, mut from) = channels.split();
        let _raw = match terminal {
            Some(terminal) => Some(
                terminal
                    .raw()
                    .context("the terminal does not give every key")?,
            ),
            None => None,
        };
        let typing = async {
            match self.stdin {
                true => type_in(&mut to, terminal, ends_input).await,
                false => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = hear(&mut from, terminal.is_some()) => ended,
            never = typing => match never? {},
        };
        close(to, from).await;
        ended
    }

    fn request(&self, tty: bool) -> String {
        let mut path = format!("{}&stdout=true", self.path);
        // A terminal has one output.
        path.push_str(if tty { "&tty=true" } else { "&stderr=true" });
        if self.stdin {
            path.push_str("&stdin=true");
        }
        path
    }
}

/// Sends standard input, its end, and the sizes of the terminal.
async fn type_in(
    to: &mut Outgoing,
    terminal: Option<&Terminal>,
    ends_input: bool,
) -> Result<Infallible> {
    let mut keyboard = Keyboard::new().context("standard input cannot be read")?;
    let mut resized = terminal.is_some();
    loop {
        let sent = match resized.then(|| terminal.and_then(Terminal::size)).flatten() {
            Some((columns, rows)) => {
                let size = TerminalSize { columns, rows };
                to.send_json(ShellChannel::Resize, &size).await
            }
            None => Ok(()),
        };
        resized = false;
        let sent = match sent {
            Ok(()) => match keyboard.next().await {
                Event::Keys(keys) => to.send(ShellChannel::Stdin, &keys).await,
                Event::Resized => {
                    resized = terminal.is_some();
                    Ok(())
                }
                Event::Gone if ends_input => {
                    let stdin = [ShellChannel::Stdin as u8];
                    // From here on there is output alone.
                    let _ = to.send(ShellChannel::Close, &stdin).await;
                    std::future::pending().await
                }
                Event::Gone => std::future::pending().await,
            },
            lost => lost,
        };
        if sent.is_err() {
            // The other half says why, and whether the command has ended.
            std::future::pending::<()>().await;
        }
    }
}

/// Passes the output on, until the command has ended.
async fn hear(from: &mut Incoming, is_raw: bool) -> Result<Ended> {
    let mut ended = None;
    loop {
        let heard = match ended.is_some() {
            // The status is there, and the end of the stream is near.
            true => match tokio::time::timeout(CLOSING, from.next()).await {
                Ok(Ok(heard)) => heard,
                Ok(Err(_)) | Err(_) => Heard::End,
            },
            false => from.next().await.context("the stream is lost")?,
        };
        let written = match heard {
            Heard::On(Some(ShellChannel::Stdout), data) => write(data, is_raw, false).await,
            Heard::On(Some(ShellChannel::Stderr), data) => write(data, is_raw, true).await,
            Heard::On(Some(ShellChannel::Error), status) => {
                ended = Some(end(&status));
                Ok(())
            }
            Heard::On(..) => Ok(()),
            Heard::End => {
                return ended
                    .ok_or_else(|| anyhow!("the stream ended before the command's status came"));
            }
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(Ended::OutputClosed);
            }
            Err(error) => return Err(error).context("the output cannot be written"),
        }
    }
}

/// A reader may take its time, and holds up nothing but the command.
async fn write(data: Bytes, is_raw: bool, is_stderr: bool) -> io::Result<()> {
    let writing = tokio::task::spawn_blocking(move || match (is_raw, is_stderr) {
        (true, _) => obey(&data),
        (false, false) => relay_to_stdout(&data),
        (false, true) => relay_to_stderr(&data),
    });
    writing
        .await
        .unwrap_or_else(|gone| Err(io::Error::other(gone)))
}

fn end(status: &[u8]) -> Ended {
    let Ok(status) = serde_json::from_slice::<Status>(status) else {
        let text = String::from_utf8_lossy(status);
        return Ended::Failed(format!("the command's status is not understood: {text}"));
    };
    if status.status == "Success" {
        return Ended::Status(0);
    }
    let mut causes = status.details.causes.iter();
    let code = causes.find(|cause| cause.reason == "ExitCode");
    let code = code.and_then(|cause| cause.message.parse().ok());
    match code {
        // A command that failed with 0 did not succeed.
        Some(code) if status.reason == "NonZeroExitCode" && code != 0 => Ended::Status(code),
        _ => Ended::Failed(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_commands_end() {
        for (status, expected) in [
            (r#"{"status":"Success"}"#, "0"),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","message":"x",
                    "details":{"causes":[{"reason":"ExitCode","message":"126"}]}}"#,
                "126",
            ),
            (
                r#"{"status":"Failure","reason":"InternalError","message":"executable file not found"}"#,
                "executable file not found",
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","message":"odd",
                    "details":{"causes":[{"reason":"ExitCode","message":"0"}]}}"#,
                "odd",
            ),
            ("}", "the command's status is not understood: }"),
        ] {
            let shown = match end(status.as_bytes()) {
                Ended::Status(status) => status.to_string(),
                Ended::Failed(why) => why,
                Ended::OutputClosed => panic!("{status}"),
            };
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn the_request_names_the_streams_alone_that_there_are() {
        let request = |stdin, tty| {
            let path = "/exec?command=ls".to_owned();
            Wanted { path, stdin }.request(tty)
        };
        let usual = "/exec?command=ls&stdout=true";
        assert_eq!(request(false, false), format!("{usual}&stderr=true"));
        assert_eq!(
            request(true, false),
            format!("{usual}&stderr=true&stdin=true")
        );
        assert_eq!(request(true, true), format!("{usual}&tty=true&stdin=true"));
    }
}
