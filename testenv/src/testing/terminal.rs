//! kubectl on a terminal.

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Client, DEADLINE, Reading, spawn, succeed};

/// kubectl on a pseudo-terminal, which `script` provides.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    stdin: ChildStdin,
    screen: Reading<ChildStdout>,
    device: String,
}

impl Terminal {
    /// Runs kubectl with arguments as a shell splits them, on 40 rows and 100 columns.
    pub async fn run(client: &Client<'_>, arguments: &str) -> Self {
        let kubectl = client.kubectl();
        let kubectl = kubectl.as_std();
        let program = kubectl.get_program().to_str().unwrap();
        // Its own first line says which terminal it is.
        let script = format!("tty; stty rows 40 cols 100; exec '{program}' {arguments}");
        let mut command = Command::new("script");
        command.env_clear().args(["-qefc", &script, "/dev/null"]);
        command.envs(
            kubectl
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command.env("SHELL", "/bin/sh").env("TERM", "xterm");
        let mut child = spawn(&mut command);
        let mut screen = Reading::new(child.stdout.take().unwrap());
        let device = screen.until("\n").await.trim().to_owned();
        Self {
            stdin: child.stdin.take().unwrap(),
            screen,
            child,
            device,
        }
    }

    /// Types.
    pub async fn send(&mut self, keys: &str) {
        self.stdin.write_all(keys.as_bytes()).await.unwrap();
    }

    /// Waits for a text on the screen.
    pub async fn expect(&mut self, wanted: &str) {
        self.screen.until(wanted).await;
    }

    /// The text on the screen.
    pub const fn screen(&mut self) -> &mut Reading<ChildStdout> {
        &mut self.screen
    }

    /// Makes the window larger or smaller.
    pub async fn resize(&self, rows: u16, columns: u16) {
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let size = ["-F", &self.device, "rows", &rows, "cols", &columns];
        succeed(Command::new("stty").args(size), b"").await;
    }

    /// Closes the window.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for kubectl's end.
    pub async fn exit_code(mut self) -> Option<i32> {
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        status.expect("the terminal's command ends").unwrap().code()
    }
}
