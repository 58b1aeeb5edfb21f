//! `kubectl logs`

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::testing::{Client, DEADLINE, eventually, pod, run, spawn};

/// Flags pick lines and bytes.
pub async fn select_and_stamp(client: &Client<'_>) {
    let name = client.name("logs");
    let script = "echo first; echo second >&2; printf 'no end'; exec sleep 100000";
    client.start_pod(&pod(&name, script)).await;
    let logs = async |flags: &[&str]| client.run(&[&["logs", &name], flags].concat()).await;
    let all = eventually("both lines", async || {
        let all = logs(&[]).await;
        if all.lines().count() == 2 {
            Ok(all)
        } else {
            Err(all)
        }
    })
    .await;
    // Two pipes: their order is the scheduler's.
    let mut lines: Vec<_> = all.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["first", "second"]);
    assert_eq!(logs(&["--tail=1"]).await.lines().count(), 1);
    assert_eq!(logs(&["--tail=0"]).await, "");
    assert_eq!(logs(&["--limit-bytes=3"]).await.len(), 3);
    assert_eq!(logs(&["--since=1h"]).await, all);
    assert_eq!(logs(&["--since-time=2100-01-01T00:00:00Z"]).await, "");
    for line in logs(&["--timestamps"]).await.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(
            time.starts_with("20") && time.contains('T') && time.ends_with('Z'),
            "{line}"
        );
        assert!(["first", "second"].contains(&rest), "{line}");
    }
}

/// Each line is there when it is written, and the end of the container is the end of its log.
pub async fn are_followed_line_by_line(client: &Client<'_>) {
    // It writes a line for each that it is told to, so that a line seen is one that was written just now.
    let script = "mkfifo go; while :; do read line < go || continue; echo \"line $line\"; \
                  if [ $line = last ]; then exit 0; fi; done";
    let name = client.name("follow");
    let mut manifest = pod(&name, script);
    manifest["spec"]["restartPolicy"] = json!("Never");
    client.start_pod(&manifest).await;
    let mut child = spawn(client.kubectl().args(["logs", "-f", &name]));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for word in ["1", "2", "last"] {
        let tell = format!("until [ -p go ]; do sleep 0.1; done; echo {word} > go");
        // Whether the last one succeeds is open: it ends with the container, which it has just told to end.
        run(&mut client.exec(&name, &[], &["sh", "-c", &tell]), b"").await;
        let line = tokio::time::timeout(DEADLINE, lines.next_line())
            .await
            .expect("a line")
            .unwrap();
        assert_eq!(line, Some(format!("line {word}")));
    }
    let end = tokio::time::timeout(DEADLINE, lines.next_line())
        .await
        .expect("the end")
        .unwrap();
    assert_eq!(end, None);
    assert!(child.wait().await.unwrap().success());
}

/// `--previous`.
pub async fn of_the_previous_run_are_kept(client: &Client<'_>) {
    let name = client.name("previous");
    let script =
        "if [ -e ran ]; then echo second; exec sleep 100000; fi; touch ran; echo first; exit 1";
    client.create(&pod(&name, script)).await;
    let object = format!("pod/{name}");
    eventually("a restart", async || {
        let path = ".status.containerStatuses[0].restartCount";
        let count = client.field(&object, path).await;
        if count == "1" { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(client.run(&["logs", "--previous", &name]).await, "first\n");
    eventually("the second run's log", async || {
        match client.run(&["logs", &name]).await {
            log if log == "second\n" => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
