//! Programs at a terminal, as people run them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use avt::Terminal as Screen;
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use underpass_testenv::testing::eventually;

/// A program that has a terminal of its own, which shows what it writes.
pub(crate) struct Terminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<Shown>>,
    showing: JoinHandle<()>,
}

struct Shown {
    screen: Screen,
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts a program at a terminal of this size, in columns and rows.
    pub(crate) fn start(command: &Command, (columns, rows): (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let master = File::from(master.unwrap());
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits() as i32)
            .open(path.to_str().unwrap())
            .unwrap();
        set_size(&master, columns, rows);
        // The terminal is the program's own: its size changes by a signal.
        let mut program = Command::new("setsid");
        let command = command.as_std();
        program.arg("--ctty").arg(command.get_program());
        program.args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            program.env(name, value.unwrap_or_default());
        }
        let end = || Stdio::from(slave.try_clone().unwrap());
        program
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .kill_on_drop(true);
        let child = program.spawn().unwrap();
        let screen = Screen::new(columns.into(), rows.into()).unwrap();
        let shown = Arc::new(Mutex::new(Shown {
            screen,
            bytes: Vec::new(),
        }));
        let (reading, to) = (master.try_clone().unwrap(), Arc::clone(&shown));
        let showing = tokio::task::spawn_blocking(move || show(reading, &to));
        Self {
            child,
            keys: master,
            shown,
            showing,
        }
    }

    /// Types some keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Types many keys, for which the program may have to make room.
    pub(crate) async fn paste(&mut self, keys: Vec<u8>) {
        let mut to = self.keys.try_clone().unwrap();
        let pasting = tokio::task::spawn_blocking(move || to.write_all(&keys));
        pasting.await.unwrap().unwrap();
    }

    /// Gives the terminal another size.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        set_size(&self.keys, columns, rows);
        let mut shown = self.shown.lock().unwrap();
        shown.screen.resize(columns.into(), rows.into());
    }

    /// The screen, cell by cell with its attributes, and the cursor.
    pub(crate) fn screen(&self) -> String {
        self.shown.lock().unwrap().screen.dump()
    }

    /// Everything that was written to it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap().bytes).into_owned()
    }

    /// Waits until something was written to it.
    pub(crate) async fn shows(&self, words: &str) -> String {
        eventually(&format!("the terminal shows {words:?}"), async || {
            let text = self.text();
            match text.contains(words) {
                true => Ok(text),
                false => Err(text),
            }
        })
        .await
    }

    /// Waits until the program has ended, and gives its status and everything that it has written.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        let ending = async {
            let status = self.child.wait().await.unwrap();
            // Its last words may be on their way.
            (&mut self.showing).await.unwrap();
            status.code()
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), ending).await;
        let status = ended.unwrap_or_else(|_| panic!("{}", self.text()));
        (status, self.text())
    }
}

fn set_size(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

/// Until the last program at the terminal has ended.
fn show(mut from: File, shown: &Mutex<Shown>) {
    let mut piece = [0; 4096];
    let mut begun = Vec::new();
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let mut shown = shown.lock().unwrap();
        shown.bytes.extend_from_slice(&piece[..read]);
        begun.extend_from_slice(&piece[..read]);
        let whole = match str::from_utf8(&begun) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = begun.split_off(whole);
        shown.screen.feed(str::from_utf8(&begun).unwrap());
        begun = rest;
    }
}
