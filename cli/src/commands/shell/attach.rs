//! A viewer of a shell, which comes back by itself when its way is lost.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use underpass_api::{
    AttachQuery, ShellChannel, ShellEnd, ShellEvent, TerminalSize, ViewerRequest, ViewerWrites,
};
use underpass_terminal::{Terminal, interject, obey};

use super::escape::{Escapes, Typed};
use super::way::{Way, is_final};
use crate::channels::{Channels, Heard, Incoming, Outgoing, close, not_understood};
use crate::keyboard::{Event, Keyboard};

/// The first wait before the way is tried again, and the longest.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_MOST: Duration = Duration::from_secs(5);

const KEYS: &str = "~. detaches, ~t takes the keyboard over, ~~ types a ~";

/// A viewer of a shell.
pub(super) struct Viewing<'a> {
    way: &'a Way,
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

impl<'a> Viewing<'a> {
    pub(super) fn new(way: &'a Way, writes: ViewerWrites) -> Self {
        Self {
            way,
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
        let mut channels = self.connect(terminal).await?;
        let _raw = terminal
            .raw()
            .context("the terminal does not give every key")?;
        let mut keyboard = Keyboard::new().context("the keyboard cannot be read")?;
        let mut escapes = Escapes::default();
        loop {
            let (mut to, mut from) = channels.split();
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
            channels = tokio::select! {
                channels = again => channels?,
                left = given_up(&mut keyboard, &mut escapes) => return Ok(left),
            };
            interject("connected again");
        }
    }

    async fn connect_again(&mut self, terminal: &Terminal) -> Result<Channels> {
        let mut wait = AGAIN;
        if self.writes.get() == ViewerWrites::Free {
            // The agent may not know yet that the one before is gone.
            self.writes.set(ViewerWrites::TakeOver);
        }
        loop {
            match self.connect(terminal).await {
                Ok(channels) => return Ok(channels),
                Err(error) if is_final(&error) => return Err(error),
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(AGAIN_MOST);
        }
    }

    async fn connect(&self, terminal: &Terminal) -> Result<Channels> {
        let query = AttachQuery {
            size: size(terminal),
            had: self.had,
            writes: self.writes.get(),
        };
        self.way.open(query).await
    }

    /// Shows the output.
    async fn show(&mut self, from: &mut Incoming) -> Parted {
        let mut ended = None;
        loop {
            let (channel, payload) = match from.next().await {
                Ok(Heard::On(channel, payload)) => (channel, payload),
                Ok(Heard::End) => return parted(ended, anyhow!("the agent has ended it")),
                Err(error) => return parted(ended, error),
            };
            let shown = match channel {
                Some(ShellChannel::Stdout) => {
                    self.count(payload.len());
                    // The terminal may take its time.
                    let shown = tokio::task::spawn_blocking(move || obey(&payload)).await;
                    shown.unwrap_or_else(|gone| Err(io::Error::other(gone)))
                }
                Some(ShellChannel::Events) => {
                    match read(&payload) {
                        Some(event) => ended = self.hear(event).or(ended),
                        None => return Parted::Lost(not_understood()),
                    }
                    Ok(())
                }
                // Without an event before it, the agent did not let the viewer in.
                Some(ShellChannel::Error) if ended.is_none() => {
                    let status: Option<Status> = read(&payload);
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

fn parted(ended: Option<Left>, lost: anyhow::Error) -> Parted {
    match ended {
        Some(left) => Parted::Left(left),
        None => Parted::Lost(lost),
    }
}

/// The keyboard's way to the shell.
struct Hands<'a> {
    to: &'a mut Outgoing,
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
                Typed::Keys(keys) => self.to.send(ShellChannel::Stdin, &keys).await?,
                Typed::Detach => return Ok(true),
                Typed::TakeOver => {
                    let request = ViewerRequest::TakeOver {};
                    self.to.send_json(ShellChannel::Events, &request).await?;
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
            Some(size) => self.to.send_json(ShellChannel::Resize, &size).await,
            None => Ok(()),
        }
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

fn read<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

fn size(terminal: &Terminal) -> Option<TerminalSize> {
    let (columns, rows) = terminal.size()?;
    Some(TerminalSize { columns, rows })
}
