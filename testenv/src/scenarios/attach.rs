//! `kubectl attach` and `kubectl run`

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::testing::{Client, Reading, Terminal, eventually, pod, spawn, succeed, text};

/// A pod whose main process answers what it reads.
fn echoing(name: &str, tty: bool) -> Value {
    let script = "while read line; do echo \"got $line\"; echo \"log $line\" >&2; done";
    let mut manifest = pod(name, script);
    let container = &mut manifest["spec"]["containers"][0];
    container["stdin"] = json!(true);
    container["tty"] = json!(tty);
    manifest
}

/// Input, output and errors of the process that runs already.
pub async fn reaches_the_main_process(client: &Client<'_>) {
    let name = client.name("attach");
    client.start_pod(&echoing(&name, false)).await;
    let mut child = spawn(client.kubectl().args(["attach", "-i", &name]));
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = Reading::new(child.stdout.take().unwrap());
    let mut stderr = Reading::new(child.stderr.take().unwrap());
    for line in ["one", "two"] {
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        stdout.until(&format!("got {line}\n")).await;
        stderr.until(&format!("log {line}\n")).await;
    }
    child.kill().await.unwrap();
    // Another client finds the same process, which has heard both.
    let logs = client.run(&["logs", &name]).await;
    for line in ["got one", "got two"] {
        assert_eq!(logs.lines().filter(|l| *l == line).count(), 1, "{logs}");
    }
}

/// A terminal, up to the end of the process in it.
pub async fn to_a_terminal(client: &Client<'_>) {
    let name = client.name("attach-tty");
    client.start_pod(&echoing(&name, true)).await;
    let mut terminal = Terminal::run(client, &format!("attach -it {name}")).await;
    terminal.send("hello\n").await;
    terminal.expect("got hello").await;
    // The end of input, as the terminal's own key; then the pod's process ends, and attach with it.
    terminal.send("\x04").await;
    assert_eq!(terminal.exit_code().await, Some(0));
}

/// `kubectl run -i --rm`: creates, watches, attaches and deletes in one command.
pub async fn run_and_remove(client: &Client<'_>) {
    let name = client.name("run");
    let mut command = client.kubectl();
    command.args([
        "run",
        &name,
        "-i",
        "--rm",
        "--restart=Never",
        "--image=none",
    ]);
    command.args(["--command", "--", "sh", "-c", "cat; echo end"]);
    let output = text(&succeed(&mut command, b"through\n").await);
    assert!(output.contains("through\nend\n"), "{output:?}");
    assert!(output.contains("deleted"), "{output:?}");
    eventually("the pod is gone", async || {
        let found = client
            .run(&["get", "pod", &name, "--ignore-not-found", "-o", "name"])
            .await;
        if found.is_empty() { Ok(()) } else { Err(found) }
    })
    .await;
}
