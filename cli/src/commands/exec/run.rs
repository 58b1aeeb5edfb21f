//! The streams of a command in a pod (KEP-4006).

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use underpass_api::{CHANNEL_PROTOCOL, ShellChannel, TerminalSize};
use underpass_session::UserSession;
use underpass_terminal::{Terminal, obey, relay_to_stderr, relay_to_stdout};

use super::api::shown;
use super::ended::Ended;
use crate::channels::{Channels, Heard, Incoming, Outgoing, close};
use crate::keyboard::{Event, Keyboard};
use crate::refusal::Refusal;

/// API servers before Kubernetes 1.30 speak the version that has no end of input.
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";

/// The time for the other end to close behind the command's status, and behind each output that comes after it.
const CLOSING: Duration = Duration::from_secs(5);

/// A command in a pod.
pub(super) struct Wanted {
    /// The path of the request, with the command, without the streams.
    pub(super) path: String,
    pub(super) stdin: bool,
}

impl Wanted {
    /// Runs it to its end. `away`: the session has no connection, and what is on its way comes later.
    ///
    /// # Errors
    /// It cannot be begun, or its stream is lost.
    pub(super) async fn run(
        &self,
        session: &UserSession,
        terminal: Option<&Terminal>,
        away: watch::Receiver<bool>,
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
            ended = hear(&mut from, terminal.is_some(), away) => ended,
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

/// Passes the output on, until the command has ended and its streams with it. The status may come before the last output, and an end
/// that the other end does not send is not waited for.
async fn hear(from: &mut Incoming, is_raw: bool, mut away: watch::Receiver<bool>) -> Result<Ended> {
    let mut ended = None;
    let mut until = Instant::now();
    loop {
        let heard = match ended.is_some() {
            true => tokio::select! {
                biased;
                heard = from.next() => heard.unwrap_or(Heard::End),
                () = silence(&mut until, &mut away) => Heard::End,
            },
            false => from.next().await.context("the stream is lost")?,
        };
        let is_output = match &heard {
            Heard::On(Some(ShellChannel::Stdout | ShellChannel::Stderr), data) => !data.is_empty(),
            Heard::On(Some(ShellChannel::Error), _) => ended.is_none(),
            Heard::On(..) | Heard::End => false,
        };
        let written = match heard {
            Heard::On(Some(ShellChannel::Stdout), data) => write(data, is_raw, false).await,
            Heard::On(Some(ShellChannel::Stderr), data) => write(data, is_raw, true).await,
            Heard::On(Some(ShellChannel::Error), status) => {
                // Of two, the first: the other end has one.
                ended.get_or_insert_with(|| Ended::read(&status));
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
        if is_output {
            // A slow reader's time does not count.
            until = Instant::now() + CLOSING;
        }
    }
}

/// Waits until then, and longer where the connection was away: output on its way has its time once there is another.
async fn silence(until: &mut Instant, away: &mut watch::Receiver<bool>) {
    loop {
        tokio::time::sleep_until(*until).await;
        if !*away.borrow() {
            return;
        }
        if away.wait_for(|is_away| !is_away).await.is_err() {
            // The session is gone, and the stream's own error says so.
            return;
        }
        *until = Instant::now() + CLOSING;
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

#[cfg(test)]
mod tests {
    use futures_util::SinkExt as _;
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// The other end of a command's streams, and this one, whose connection is away while that is `true`.
    struct Streams {
        theirs: WebSocketStream<DuplexStream>,
        path: watch::Sender<bool>,
        heard: JoinHandle<Result<Ended>>,
    }

    impl Streams {
        async fn new() -> Self {
            let (ours, theirs) = tokio::io::duplex(1024);
            let (_, mut from) = Channels::raw(ours).await.split();
            let theirs = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
            let (path, away) = watch::channel(false);
            let heard = tokio::spawn(async move { hear(&mut from, false, away).await });
            Self {
                theirs,
                path,
                heard,
            }
        }

        async fn say(&mut self, channel: ShellChannel, payload: &str) {
            self.say_raw(channel.message(payload.as_bytes())).await;
        }

        async fn say_raw(&mut self, message: Vec<u8>) {
            self.theirs.send(Message::binary(message)).await.unwrap();
        }

        async fn ended(self) -> Result<String> {
            let ended = tokio::time::timeout(Duration::from_secs(600), self.heard).await;
            ended
                .expect("it does not end")
                .unwrap()
                .map(|ended| match ended {
                    Ended::Status(status) => status.to_string(),
                    Ended::Failed(why) => why,
                    Ended::OutputClosed => "closed".to_owned(),
                })
        }
    }

    const SUCCESS: &str = r#"{"status":"Success"}"#;

    #[tokio::test(start_paused = true)]
    async fn output_behind_the_status_is_waited_for_as_long_as_it_comes() {
        let mut streams = Streams::new().await;
        streams.say(ShellChannel::Error, SUCCESS).await;
        for _ in 0..5 {
            tokio::time::sleep(CLOSING * 4 / 5).await;
            streams.say(ShellChannel::Stdout, "\n").await;
        }
        assert!(!streams.heard.is_finished());
        let last = Instant::now();
        assert_eq!(streams.ended().await.unwrap(), "0");
        assert!(last.elapsed() <= CLOSING + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_are_no_output_do_not_keep_a_command_from_its_end() {
        let mut streams = Streams::new().await;
        streams.say(ShellChannel::Error, SUCCESS).await;
        let begun = Instant::now();
        while !streams.heard.is_finished() && begun.elapsed() < CLOSING * 3 {
            tokio::time::sleep(CLOSING / 5).await;
            // A channel that is none, an empty output, and another end.
            for message in [vec![77, 1], ShellChannel::Stdout.message(b"")] {
                let _ = streams.theirs.send(Message::binary(message)).await;
            }
            let other = ShellChannel::Error.message(b"{}");
            let _ = streams.theirs.send(Message::binary(other)).await;
        }
        assert!(begun.elapsed() < CLOSING * 3);
        assert_eq!(streams.ended().await.unwrap(), "0");
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_a_lost_connection_holds_up_is_waited_for() {
        let mut streams = Streams::new().await;
        streams.say(ShellChannel::Error, SUCCESS).await;
        streams.path.send_replace(true);
        tokio::time::sleep(CLOSING * 6).await;
        assert!(!streams.heard.is_finished());
        streams.path.send_replace(false);
        tokio::time::sleep(CLOSING / 2).await;
        assert!(!streams.heard.is_finished());
        streams.say(ShellChannel::Stdout, "\n").await;
        streams.theirs.close(None).await.unwrap();
        assert_eq!(streams.ended().await.unwrap(), "0");
    }

    #[tokio::test]
    async fn an_end_without_a_status_is_an_error() {
        let mut streams = Streams::new().await;
        streams.say(ShellChannel::Stdout, "\n").await;
        streams.theirs.close(None).await.unwrap();
        let error = streams.ended().await.unwrap_err();
        assert!(error.to_string().contains("before the command's status"));
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
