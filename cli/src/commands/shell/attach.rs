//! A viewer of a shell, which comes back by itself when its way is lost.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use underpass_api::{
    AttachQuery, SHELL_PROTOCOL, ShellChannel, ShellEnd, ShellEvent, TerminalSize, ViewerRequest,
    ViewerWrites,
};
use underpass_core::Target;
use underpass_forward::{OpenError, Stream, Tunnel};
use underpass_terminal::{Terminal, interject, obey};

use super::escape::{Escapes, Typed};
use super::keyboard::{Event, Keyboard};

/// The largest message of an agent's: a piece of output.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// The first wait before the way is tried again, and the longest.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// The time for the agent to answer once there is a stream.
const ANSWER: Duration = Duration::from_secs(15);

/// The time for the agent to hear that the viewer leaves.
const GOODBYE: Duration = Duration::from_secs(1);

const KEYS: &str = "~. detaches, ~t takes the keyboard over, ~~ types a ~";

/// A viewer's way to a shell.
pub(super) struct Viewing {
    tunnel: Tunnel,
    target: Target,
    /// Whether it writes, from the next attachment on. The keyboard changes it as well.
    writes: Rc<Cell<ViewerWrites>>,
    /// Bytes of output so far; `None` before the first.
    had: Option<u64>,
    /// Bytes that show the screen, and have no number.
    redraw: u64,
}

/// Why a viewer has left a shell.
pub(super) enum Left {
    Detached,
    Dismissed,
    /// In the agent's words.
    Refused(String),
    Ended(ShellEnd),
}

/// The end of a view, as Kubernetes has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
}

/// Why a viewer hears of a shell no more, for the moment or for good.
enum Parted {
    Left(Left),
    Lost(anyhow::Error),
}

type To = SplitSink<WebSocketStream<Stream>, Message>;
type From = SplitStream<WebSocketStream<Stream>>;

impl Viewing {
    pub(super) fn new(tunnel: Tunnel, target: Target, writes: ViewerWrites) -> Self {
        Self {
            tunnel,
            target,
            writes: Rc::new(Cell::new(writes)),
            had: None,
            redraw: 0,
        }
    }

    /// Shows the shell, and types into it, until one of them has enough.
    ///
    /// # Errors
    /// There is no way to the shell, or none any more.
    pub(super) async fn run(mut self, terminal: &Terminal) -> Result<Left> {
        let mut socket = self.connect(terminal).await?;
        let _raw = terminal
            .raw()
            .context("the terminal does not give every key")?;
        let mut keyboard = Keyboard::new().context("the keyboard cannot be read")?;
        let mut escapes = Escapes::default();
        loop {
            let (mut to, mut from) = socket.split();
            let mut hands = Hands {
                to: &mut to,
                writes: Rc::clone(&self.writes),
                keyboard: &mut keyboard,
                escapes: &mut escapes,
                terminal,
            };
            let parted = tokio::select! {
                parted = self.show(&mut from) => parted,
                parted = hands.type_in() => parted,
            };
            match parted {
                Parted::Left(left) => {
                    close(to, from).await;
                    return Ok(left);
                }
                Parted::Lost(error) => {
                    interject(&format!(
                        "the connection is lost ({error:#}); connecting again"
                    ));
                }
            }
            let again = self.connect_again(terminal);
            socket = tokio::select! {
                socket = again => socket?,
                left = given_up(&mut keyboard, &mut escapes) => return Ok(left),
            };
            interject("connected again");
        }
    }

    async fn connect_again(&mut self, terminal: &Terminal) -> Result<WebSocketStream<Stream>> {
        let mut wait = AGAIN;
        if self.writes.get() == ViewerWrites::Free {
            // The agent may not know yet that the one before is gone.
            self.writes.set(ViewerWrites::TakeOver);
        }
        loop {
            match self.connect(terminal).await {
                Ok(socket) => return Ok(socket),
                Err(error) if is_final(&error) => return Err(error),
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(AGAIN_MOST);
        }
    }

    async fn connect(&self, terminal: &Terminal) -> Result<WebSocketStream<Stream>> {
        let stream = self.tunnel.open(&self.target).await?;
        let query = AttachQuery {
            size: size(terminal),
            had: self.had,
            writes: self.writes.get(),
        };
        let mut request = format!("ws://shell/?{query}").into_client_request()?;
        let protocol = HeaderValue::from_static(SHELL_PROTOCOL);
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let config = WebSocketConfig::default()
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES));
        let connecting = client_async_with_config(request, stream, Some(config));
        let connected = tokio::time::timeout(ANSWER, connecting).await;
        let (socket, _) = connected
            .context("the agent does not answer")?
            .context("the agent opens no view of the shell")?;
        Ok(socket)
    }

    /// Shows the output.
    async fn show(&mut self, from: &mut From) -> Parted {
        let mut ended = None;
        loop {
            let message = match from.next().await {
                Some(Ok(Message::Binary(message))) => message,
                Some(Ok(Message::Close(_))) | None => {
                    return match ended {
                        Some(left) => Parted::Left(left),
                        None => Parted::Lost(anyhow!("the agent has ended it")),
                    };
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    return match ended {
                        Some(left) => Parted::Left(left),
                        None => Parted::Lost(error.into()),
                    };
                }
            };
            let Some((channel, payload)) = message.split_first() else {
                continue;
            };
            let shown = match ShellChannel::read(*channel) {
                Some(ShellChannel::Stdout) => {
                    self.count(payload.len());
                    // The terminal may take its time.
                    let output = message.slice(1..);
                    let shown = tokio::task::spawn_blocking(move || obey(&output)).await;
                    shown.unwrap_or_else(|gone| Err(io::Error::other(gone)))
                }
                Some(ShellChannel::Events) => {
                    match read(payload) {
                        Some(event) => ended = self.hear(event).or(ended),
                        None => {
                            return Parted::Lost(anyhow!("the agent's words are not understood"));
                        }
                    }
                    Ok(())
                }
                // Without an event before it, the agent did not let the viewer in.
                Some(ShellChannel::Error) if ended.is_none() => {
                    let status: Option<Status> = read(payload);
                    let why = status.map(|status| status.message).unwrap_or_default();
                    ended = Some(Left::Refused(why));
                    Ok(())
                }
                _ => Ok(()),
            };
            if shown.is_err() {
                return Parted::Left(Left::Detached);
            }
        }
    }

    fn count(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let drawn = bytes.min(self.redraw);
        self.redraw = self.redraw.saturating_sub(drawn);
        let new = bytes.saturating_sub(drawn);
        self.had = self.had.map(|had| had.saturating_add(new));
    }

    /// Hears of an event; gives the end, where it is one.
    fn hear(&mut self, event: ShellEvent) -> Option<Left> {
        match event {
            ShellEvent::Attached {
                at, redraw, writes, ..
            } => {
                (self.had, self.redraw) = (Some(at), redraw);
                if !writes && self.writes.replace(ViewerWrites::Never) == ViewerWrites::Free {
                    interject("another viewer writes to this shell: ~t takes the keyboard over");
                }
                None
            }
            ShellEvent::TakenOver {} => {
                self.writes.set(ViewerWrites::Never);
                interject("another viewer writes to this shell now: ~t takes the keyboard back");
                None
            }
            ShellEvent::Resized(_) => None,
            ShellEvent::Dismissed {} => Some(Left::Dismissed),
            ShellEvent::Ended(end) => Some(Left::Ended(end)),
        }
    }
}

/// The keyboard's way to the shell.
struct Hands<'a> {
    to: &'a mut To,
    writes: Rc<Cell<ViewerWrites>>,
    keyboard: &'a mut Keyboard,
    escapes: &'a mut Escapes,
    terminal: &'a Terminal,
}

impl Hands<'_> {
    async fn type_in(&mut self) -> Parted {
        loop {
            let sent = match self.keyboard.next().await {
                Event::Gone => return Parted::Left(Left::Detached),
                Event::Resized => self.resize().await,
                Event::Keys(keys) => match self.press(&keys).await {
                    Ok(true) => return Parted::Left(Left::Detached),
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                },
            };
            if sent.is_err() {
                // The other half says why, and whether the shell has ended.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Presses some keys. Whether they detach this viewer.
    async fn press(&mut self, keys: &[u8]) -> Result<bool> {
        for typed in self.escapes.read(keys) {
            match typed {
                Typed::Keys(keys) => self.send(ShellChannel::Stdin, &keys).await?,
                Typed::Detach => return Ok(true),
                Typed::TakeOver => {
                    let request = ViewerRequest::TakeOver {};
                    self.send_json(ShellChannel::Events, &request).await?;
                    self.writes.set(ViewerWrites::TakeOver);
                    self.resize().await?;
                }
                Typed::Help => interject(KEYS),
            }
        }
        Ok(false)
    }

    async fn resize(&mut self) -> Result<()> {
        match size(self.terminal) {
            Some(size) => self.send_json(ShellChannel::Resize, &size).await,
            None => Ok(()),
        }
    }

    async fn send_json(
        &mut self,
        channel: ShellChannel,
        content: &impl serde::Serialize,
    ) -> Result<()> {
        let text = serde_json::to_vec(content)?;
        self.send(channel, &text).await
    }

    async fn send(&mut self, channel: ShellChannel, payload: &[u8]) -> Result<()> {
        let message = Message::binary(channel.message(payload));
        Ok(self.to.send(message).await?)
    }
}

/// Waits until the keyboard says that nobody waits for the shell.
async fn given_up(keyboard: &mut Keyboard, escapes: &mut Escapes) -> Left {
    loop {
        match keyboard.next().await {
            Event::Gone => return Left::Detached,
            Event::Resized => {}
            Event::Keys(keys) => {
                let typed = escapes.read(&keys);
                // Ctrl-C, which a terminal that gives every key gives as one.
                if typed.contains(&Typed::Detach) || keys.contains(&3) {
                    return Left::Detached;
                }
            }
        }
    }
}

/// Says goodbye, so that the agent does not take the viewer for lost.
async fn close(to: To, from: From) {
    let Ok(mut socket) = to.reunite(from) else {
        return;
    };
    let closing = async {
        // The agent may have said it first.
        let _ = socket.close(None).await;
        // The end goes with it: nothing would carry it once the program ends.
        let stream = socket.get_mut();
        let _ = stream.shutdown().await;
        let mut rest = [0; 1024];
        while let Ok(1..) = stream.read(&mut rest).await {}
    };
    let _ = tokio::time::timeout(GOODBYE, closing).await;
}

/// Does no further attempt help?
fn is_final(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<OpenError>() {
        Some(OpenError::Refused { code, .. }) => !matches!(
            *code,
            StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        ),
        Some(OpenError::Credential(_) | OpenError::Target(_)) => true,
        _ => false,
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

fn size(terminal: &Terminal) -> Option<TerminalSize> {
    let (columns, rows) = terminal.size()?;
    Some(TerminalSize { columns, rows })
}
