//! A viewer of a shell, and its keyboard.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::audience::{Told, ViewerId};
use crate::error::InputError;
use crate::record::{End, ShellId};
use crate::shell::{Admitted, Shell};
use crate::size::Size;

/// A viewer. Dropped, it is detached, and the shell goes on.
pub struct Viewer {
    seat: Arc<Seat>,
    first: Option<Event>,
    is_over: bool,
}

/// The keyboard of a viewer. Clones are the same; it is of no use once the viewer is gone.
#[derive(Clone)]
pub struct Input(Arc<Shell>, ViewerId);

/// An event for a viewer. Bytes of output are numbered from the shell's first one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is attached. This comes first.
    Attached {
        /// The number of the next byte of output.
        at: u64,
        /// The size of the terminal.
        size: Size,
        /// Sequences that bring a terminal of this size, in any state, to show the shell's screen as it is. None where the viewer
        /// goes on behind the bytes that it had.
        redraw: Option<Vec<u8>>,
        /// Whether this viewer writes.
        is_writer: bool,
    },
    /// Output, unchanged: it may be cut in the midst of a character or a sequence.
    Output {
        /// The number of its first byte.
        at: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The terminal has another size from here on.
    Resized(Size),
    /// Another viewer writes from now on, and this one does not.
    TakenOver,
    /// This viewer took nothing for [`limits::STALLED`](crate::limits::STALLED) while the program waited for it. This is the last event; the
    /// shell goes on.
    Dismissed,
    /// The shell has ended. This is the last event.
    Ended(End),
}

#[derive(Debug)]
struct Seat {
    shell: Arc<Shell>,
    viewer: ViewerId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shell.leave(self.viewer);
    }
}

impl fmt::Debug for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Viewer");
        text.field("shell", &self.seat.shell.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Input")
            .field(&self.0.id)
            .finish_non_exhaustive()
    }
}

impl Viewer {
    pub(crate) fn new(shell: Arc<Shell>, admitted: Admitted) -> Self {
        let Admitted {
            viewer,
            at,
            size,
            redraw,
            is_writer,
        } = admitted;
        Self {
            seat: Arc::new(Seat { shell, viewer }),
            first: Some(Event::Attached {
                at,
                size,
                redraw,
                is_writer,
            }),
            is_over: false,
        }
    }

    /// The shell's id.
    pub fn shell(&self) -> &ShellId {
        &self.seat.shell.id
    }

    /// The next event, each once and in order; `None` behind the last one. A viewer that does not ask has the program wait.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.is_over {
            return None;
        }
        let Seat { shell, viewer } = &*self.seat;
        loop {
            let mut heard = std::pin::pin!(shell.heard.notified());
            heard.as_mut().enable();
            let told = shell.audience().tell(*viewer, Instant::now());
            let event = match told {
                Told::Wait => {
                    heard.await;
                    continue;
                }
                Told::Output { at, data } => {
                    shell.took.notify_one();
                    Event::Output { at, data }
                }
                Told::Resized(size) => Event::Resized(size),
                Told::TakenOver => Event::TakenOver,
                Told::Dismissed => Event::Dismissed,
                Told::Ended(end) => Event::Ended(end),
            };
            self.is_over = matches!(event, Event::Dismissed | Event::Ended(_));
            return Some(event);
        }
    }

    /// Its keyboard.
    pub fn input(&self) -> Input {
        Input(Arc::clone(&self.seat.shell), self.seat.viewer)
    }
}

impl Input {
    /// Writes some bytes as if they were typed, and gives their number. A control character is what the terminal makes of it: Ctrl-C
    /// is the byte 3. It waits while the program reads nothing.
    ///
    /// # Errors
    /// Another viewer writes, or the viewer or the shell is gone.
    ///
    /// # Cancel safety
    /// Nothing is written where the future is dropped.
    pub async fn write(&self, bytes: &[u8]) -> Result<usize, InputError> {
        let Self(shell, viewer) = self;
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let mut heard = std::pin::pin!(shell.heard.notified());
            heard.as_mut().enable();
            let room = {
                let mut audience = shell.audience();
                audience.check_writer(*viewer)?;
                audience.touch(Instant::now());
                audience.input_room()
            };
            if room == 0 {
                // A recording that is required has to take what was typed before.
                heard.await;
                continue;
            }
            let terminal = shell.terminal().ok_or(InputError::Ended)?;
            let bytes = bytes.get(..room).unwrap_or(bytes);
            tokio::select! {
                written = terminal.write(bytes) => {
                    let written = written.map_err(InputError::Terminal)?;
                    let typed = bytes.get(..written).unwrap_or(bytes);
                    shell.audience().note_input(typed, Instant::now());
                    shell.heard.notify_waiters();
                    return Ok(written);
                }
                // Another viewer may have taken over meanwhile.
                () = heard => {}
            }
        }
    }

    /// Writes all of the bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write): some of them may be written.
    ///
    /// # Cancel safety
    /// Not cancel safe: some of the bytes may be written.
    pub async fn write_all(&self, mut bytes: &[u8]) -> Result<(), InputError> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Gives the terminal another size.
    ///
    /// # Errors
    /// Another viewer writes, or the viewer or the shell is gone.
    pub fn resize(&self, size: Size) -> Result<(), InputError> {
        self.0.resize_by(self.1, size)
    }

    /// Has this viewer write from now on, with a terminal of its size. The one that wrote before is told.
    ///
    /// # Errors
    /// The viewer or the shell is gone.
    pub fn take_over(&self, size: Option<Size>) -> Result<(), InputError> {
        self.0.take_over(self.1, size)
    }
}
