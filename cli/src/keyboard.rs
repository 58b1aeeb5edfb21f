//! The keyboard of this program's terminal.

use std::io::{self, Read as _};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Keys that are read at once: a paste comes in such pieces.
const PIECE: usize = 16 * 1024;

/// Keys, and changes of the terminal's size.
pub(crate) struct Keyboard {
    keys: mpsc::Receiver<Vec<u8>>,
    resized: Signal,
}

/// An event at the terminal.
pub(crate) enum Event {
    Keys(Vec<u8>),
    Resized,
    /// The terminal is gone.
    Gone,
}

impl Keyboard {
    /// Reads keys from now on. A thread waits for them that ends with the program: nothing ends the wait for a key.
    ///
    /// # Errors
    /// The system lacks something.
    pub(crate) fn new() -> io::Result<Self> {
        let (typed, keys) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || {
                let mut piece = vec![0; PIECE];
                while let Ok(read @ 1..) = io::stdin().lock().read(&mut piece) {
                    let keys = piece.get(..read).unwrap_or_default().to_vec();
                    if typed.blocking_send(keys).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            keys,
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// The next event.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            keys = self.keys.recv() => keys.map_or(Event::Gone, Event::Keys),
            Some(()) = self.resized.recv() => Event::Resized,
        }
    }
}
