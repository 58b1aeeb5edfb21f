//! Recordings of shells, by the programs that people run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Blocking;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use underpass_api::{CastData, CastEvent, CastHeader, CastNote, CastReader};
use underpass_testenv::Transport;
use underpass_testenv::testing::{eventually, run, text};

use crate::cutter::{Cuts, Forgetful};
use crate::metrics::values;
use crate::operations::{CLUSTER_OF_NODES, NODE, Site};
use crate::over_both_transports;
use crate::raw;
use crate::shells::{self, first_listed, shell};
use crate::terminal::Terminal;

over_both_transports!(
    a_recording_replays_the_bytes_and_is_found_when_it_is_changed,
    a_recording_goes_on_when_the_server_is_killed_and_connections_are_cut,
);

/// The contents of a recording.
struct Recorded {
    header: CastHeader,
    output: Vec<u8>,
    input: Vec<u8>,
    sizes: Vec<(u16, u16)>,
    missing: u64,
}

impl Recorded {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let mut all = Self {
            header: lines.next().unwrap().parse().unwrap(),
            output: Vec::new(),
            input: Vec::new(),
            sizes: Vec::new(),
            missing: 0,
        };
        let (mut reader, mut last) = (CastReader::default(), 0);
        for line in lines {
            let event: CastEvent = line.parse().unwrap();
            assert!(event.at >= last, "{line}");
            last = event.at;
            let Some((event, bytes)) = reader.read(event) else {
                continue;
            };
            match event.what {
                CastData::Output(_) => all.output.extend(bytes),
                CastData::Input(_) => all.input.extend(bytes),
                CastData::Resized(size) => all.sizes.push((size.columns, size.rows)),
                CastData::Note(CastNote::Missing { output, input }) => {
                    all.missing += output + input;
                }
                _ => {}
            }
        }
        all
    }
}

fn recordings(site: &Site) -> PathBuf {
    site.deployment.dir().join("data/recordings")
}

fn cast(site: &Site, id: &str) -> PathBuf {
    let file = format!("{CLUSTER_OF_NODES}/{id}.cast");
    recordings(site).join(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for an audit event with this annotation about a shell or its recording.
async fn told(site: &Site, id: &str, annotation: &str) -> Value {
    let audit = site.deployment.dir().join("data/audit.log");
    eventually(&format!("{annotation} of {id}"), async || {
        let log = fs::read_to_string(&audit).unwrap();
        let events = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut told = events
            .map(|event| event["annotations"].clone())
            .filter(|told| {
                let object = told["underpass.dev/object"].as_str().unwrap_or_default();
                object.ends_with(id) && !told[annotation].is_null()
            });
        told.next().ok_or(log)
    })
    .await
}

async fn underpass(site: &Site, token: &Path, arguments: &[&str]) -> (bool, String) {
    let done = run(&mut site.command(token, arguments), b"").await;
    let said = text(&done.stdout) + &text(&done.stderr);
    (done.status.success(), said)
}

async fn a_recording_replays_the_bytes_and_is_found_when_it_is_changed(transport: Transport) {
    let flags = ["--record", "on", "--record-input"];
    let site = Site::with(transport, shells::POLICY, &flags).await;
    let alice = site.user("alice", "admin");
    // Every byte that there is, characters that pieces cut, and bytes that are no characters.
    let all: Vec<u8> = (0..=255)
        .chain("é€😀".bytes())
        .cycle()
        .take(40_000)
        .collect();
    let file = site.deployment.dir().join("bytes");
    fs::write(&file, &all).unwrap();
    let mut viewer = shell(&site, &alice, &["--kind", "node"]);
    viewer.shows("$ ").await;
    let id = first_listed(&site, &alice).await;
    viewer.resize(100, 30);
    viewer.press(&format!(
        "stty -opost -echo; cat {}; stty sane; echo be\"\"hind\r",
        file.display()
    ));
    viewer.shows("behind").await;
    viewer.press("exit 3\r");
    let (status, said) = viewer.ended().await;
    assert_eq!(status, Some(3), "{said}");

    // Rule 15: the event of the shell's end has the hash of the file.
    let end = told(&site, &id, "underpass.dev/recording-sha256").await;
    let path = cast(&site, &id);
    let bytes = fs::read(&path).unwrap();
    let hash = hex(digest(&SHA256, &bytes).as_ref());
    assert_eq!(end["underpass.dev/object"], format!("shell/{id}"));
    assert_eq!(
        end["underpass.dev/outcome"],
        "its program ended, exit status 3"
    );
    assert_eq!(end["underpass.dev/recording-sha256"], hash);
    assert_eq!(
        end["underpass.dev/recording-bytes"],
        bytes.len().to_string()
    );
    let recorded = Recorded::read(&path);
    let size = recorded.header.size();
    assert_eq!((size.columns, size.rows), shells::SIZE);
    let has_all = recorded.output.windows(all.len()).any(|part| part == all);
    assert!(has_all, "{}", String::from_utf8_lossy(&recorded.output));
    assert!(recorded.sizes.contains(&(100, 30)), "{:?}", recorded.sizes);
    assert!(recorded.input.ends_with(b"exit 3\r"));
    assert_eq!(
        end["underpass.dev/bytes-down"],
        recorded.output.len().to_string()
    );
    assert_eq!(recorded.missing, 0);

    // It plays, and is written to a file as it is.
    let list = ["shell", "recordings", CLUSTER_OF_NODES];
    let (_, listed) = underpass(&site, &alice, &list).await;
    let row = listed.lines().find(|row| row.starts_with(&id)).unwrap();
    assert!(row.contains("alice") && row.ends_with("intact"), "{listed}");
    let play = ["shell", "play", CLUSTER_OF_NODES, &id];
    let fast = [&play[..], &["--max-wait", "10ms", "--speed", "10"]].concat();
    let player = Terminal::start(&site.command(&alice, &fast), (120, 40));
    let (status, said) = player.ended().await;
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("behind") && !said.contains("CHANGED"),
        "{said}"
    );
    let copy = site.deployment.dir().join("copy.cast");
    let output = [&play[..], &["--output", copy.to_str().unwrap()]].concat();
    let (done, said) = underpass(&site, &alice, &output).await;
    assert!(done, "{said}");
    let (done, said) = underpass(&site, &alice, &output).await;
    assert!(!done && said.contains("is not overwritten"), "{said}");
    let output = [&output[..], &["--force"]].concat();
    assert_eq!(fs::read(&copy).unwrap(), bytes);

    // Another user reads it as an administrator alone, and the log says whose it is.
    let carol = site.user("carol", "shell");
    let (_, listed) = underpass(&site, &carol, &list).await;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let (done, said) = underpass(&site, &carol, &output).await;
    assert!(!done && said.contains("no recording"), "{said}");
    let remove = [&list[..], &["--remove", &id]].concat();
    let (done, said) = underpass(&site, &carol, &remove).await;
    assert!(!done && said.contains("role admin"), "{said}");
    let bob = site.user("bob", "admin");
    let (done, said) = underpass(&site, &bob, &output).await;
    assert!(done, "{said}");
    let read = told(&site, &id, "underpass.dev/recorded-user").await;
    assert_eq!(read["underpass.dev/recorded-user"], "alice");

    // A file that was changed is found.
    let mut changed = bytes.clone();
    let at = changed.len() / 2;
    changed[at] ^= 1;
    fs::write(&path, &changed).unwrap();
    let (_, listed) = underpass(&site, &alice, &list).await;
    let row = listed.lines().find(|row| row.starts_with(&id)).unwrap();
    assert!(row.ends_with("CHANGED"), "{listed}");
    let (_, said) = underpass(&site, &alice, &output).await;
    assert!(said.contains("WAS CHANGED"), "{said}");
    let (done, said) = underpass(&site, &bob, &remove).await;
    assert!(done && !path.exists(), "{said}");
}

async fn a_recording_goes_on_when_the_server_is_killed_and_connections_are_cut(
    transport: Transport,
) {
    let mut site =
        Site::without_agent_with(transport, shells::POLICY, &["--record", "required"]).await;
    let path = Forgetful::start(site.port()).await;
    site.through = Some(path.port);
    site.start_agent();
    site.connected().await;
    let alice = site.user("alice", "admin");
    let mut viewer = shell(&site, &alice, &["--kind", "node"]);
    viewer.shows("$ ").await;
    let id = first_listed(&site, &alice).await;
    let stop = site.deployment.dir().join("stop");
    let file = cast(&site, &id);
    let count = format!(
        "stty -echo; i=0; until [ -e {} ]; do echo $i; i=$((i+1)); sleep 0.01; done; stty echo\r",
        stop.display()
    );
    viewer.press(&count);
    let cuts = Cuts::default();
    let counting = async {
        viewer.shows("\n50\r").await;
        cuts.wait_for(3).await;
        let before = fs::metadata(&file).unwrap().len();
        site.deployment
            .blocking(|underpass| {
                underpass.kill_server().unwrap();
                underpass.restart_server().unwrap();
            })
            .await;
        eventually("the recording goes on", async || {
            let now = fs::metadata(&file).unwrap().len();
            (now > before).then_some(()).ok_or(now)
        })
        .await;
        cuts.wait_for(2).await;
    };
    tokio::select! {
        () = counting => {}
        never = path.forget_each(Duration::from_secs(1), &cuts) => match never {},
    }
    fs::write(&stop, "").unwrap();
    eventually("the viewer is back", async || {
        viewer.press("exit 4\r");
        let list = ["shell", "list", CLUSTER_OF_NODES, "--node", NODE];
        let (_, listed) = underpass(&site, &alice, &list).await;
        listed.contains("exit status 4").then_some(()).ok_or(listed)
    })
    .await;
    let end = told(&site, &id, "underpass.dev/recording-sha256").await;
    let bytes = fs::read(&file).unwrap();
    let hash = hex(digest(&SHA256, &bytes).as_ref());
    assert_eq!(end["underpass.dev/recording-sha256"], hash);
    let recorded = Recorded::read(&file);
    assert_eq!(recorded.missing, 0);
    let output = String::from_utf8(recorded.output).unwrap();
    let numbers = output.lines().filter_map(|line| line.parse::<u32>().ok());
    let numbers: Vec<_> = numbers.collect();
    let all: Vec<_> = (0..).take(numbers.len()).collect();
    assert!(numbers.len() > 50 && numbers == all, "{output}");
}

/// A file system in memory that is soon full, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs"];
        as_root(&[&mount[..], &[at.to_str().unwrap()]].concat());
        Self(at)
    }

    fn fill(&self) {
        let filled = fs::write(self.0.join("filler"), vec![0; 2 << 20]);
        filled.unwrap_err();
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        as_root(&["umount", "--lazy", self.0.to_str().unwrap()]);
    }
}

/// Mounting is root's.
fn as_root(command: &[&str]) {
    let sudo: &[&str] = match rustix::process::geteuid().is_root() {
        true => &[],
        false => &["sudo", "-n"],
    };
    let all = [sudo, command].concat();
    let done = Blocking::new(all[0]).args(&all[1..]).status();
    assert!(done.unwrap().success(), "{all:?}");
}

#[tokio::test]
async fn rule_15_no_shell_goes_on_without_a_required_recording() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path().join("recordings"));
    let flags = [
        "--record",
        "required",
        // Not that long: the shell ends at once.
        "--record-wait",
        "1h",
        "--recordings-dir",
        disk.0.to_str().unwrap(),
    ];
    let site = Site::with(Transport::Quic, shells::POLICY, &flags).await;
    let alice = site.user("alice", "admin");
    let mut viewer = shell(&site, &alice, &["--kind", "node"]);
    viewer.shows("$ ").await;
    let id = first_listed(&site, &alice).await;
    disk.fill();
    // More than the file has room for in its last page.
    viewer.press("head -c 20000 /dev/zero | tr '\\0' x; sleep 1000\r");
    let (status, said) = viewer.ended().await;
    // By a hangup.
    assert_eq!(status, Some(129), "{said}");
    assert!(
        said.contains("its recording, which is required") && said.contains("no room"),
        "{said}"
    );
    let stopped = told(&site, &id, "underpass.dev/outcome").await;
    assert_eq!(stopped["underpass.dev/object"], format!("recording/{id}"));
    let (status, said) = shell(&site, &alice, &["--kind", "node"]).ended().await;
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("the disk of the recordings is full"),
        "{said}"
    );
    let ready = raw::get(&site.deployment, "/readyz", None).await.code;
    assert_eq!(ready, 503);

    disk.make_room();
    // By itself: the rest of the recording, and then new shells.
    let end = told(&site, &id, "underpass.dev/recording-sha256").await;
    assert_eq!(end["underpass.dev/recording-missing"], Value::Null);
    let recorded = Recorded::read(&disk.0.join(format!("{CLUSTER_OF_NODES}/{id}.cast")));
    let shown = recorded.output.iter().filter(|byte| **byte == b'x').count();
    assert!(shown >= 20_000, "{shown}");
    eventually("the server is ready", async || {
        let ready = raw::get(&site.deployment, "/readyz", None).await.code;
        (ready == 200).then_some(()).ok_or(ready)
    })
    .await;
    let mut again = shell(&site, &alice, &["--kind", "node"]);
    again.shows("$ ").await;
    again.press("exit\r");
    assert_eq!(again.ended().await.0, Some(0));
}

/// Prints twice as much as a recording may have, and gives the events that the recording stopped and that the shell ended, what the viewer
/// saw, and the recording.
async fn prints_too_much(record: &str, rest: &str) -> (Value, Value, String, Recorded) {
    let flags = ["--record", record, "--recording-size", "1"];
    let flags = [&flags[..], &["--record-wait", "1h"]].concat();
    let site = Site::with(Transport::Quic, shells::POLICY, &flags).await;
    let alice = site.user("alice", "admin");
    let mut viewer = shell(&site, &alice, &["--kind", "node"]);
    viewer.shows("$ ").await;
    let id = first_listed(&site, &alice).await;
    viewer.press(&format!("head -c 2000000 /dev/zero | tr '\\0' x; {rest}\r"));
    let (_, said) = viewer.ended().await;
    let stopped = told(&site, &id, "underpass.dev/outcome").await;
    let end = told(&site, &id, "underpass.dev/recording-sha256").await;
    let path = cast(&site, &id);
    let bytes = fs::read(&path).unwrap();
    let hash = hex(digest(&SHA256, &bytes).as_ref());
    assert_eq!(end["underpass.dev/recording-sha256"], hash);
    let metrics = site.deployment.metrics().unwrap();
    let counted = values(&metrics, "underpass_recording_missing_bytes_total", &[]);
    let recorded = Recorded::read(&path);
    let missing = recorded.missing.to_string();
    assert_eq!(end["underpass.dev/recording-missing"], missing);
    assert_eq!(counted.iter().sum::<f64>().to_string(), missing);
    // Every byte is recorded, or counted.
    let shown = u64::try_from(recorded.output.len()).unwrap() + recorded.missing;
    assert_eq!(end["underpass.dev/bytes-down"], shown.to_string());
    (stopped, end, said, recorded)
}

#[tokio::test]
async fn rule_15_a_required_recording_that_is_full_ends_its_shell_at_once() {
    let (stopped, end, said, _) = prints_too_much("required", "sleep 1000").await;
    assert!(said.contains("the size that one may have"), "{said}");
    let outcome = stopped["underpass.dev/outcome"].as_str().unwrap();
    assert!(
        outcome.starts_with("not recorded from here on: the recording has the 1048576 bytes"),
        "{outcome}"
    );
    let outcome = end["underpass.dev/outcome"].as_str().unwrap();
    assert!(outcome.contains("the size that one may have"), "{outcome}");
}

#[tokio::test]
async fn rule_15_a_recording_that_is_full_says_where_it_ends_and_its_shell_goes_on() {
    let (stopped, end, _, recorded) = prints_too_much("on", "exit 3").await;
    assert!(!stopped["underpass.dev/outcome"].is_null());
    assert_eq!(
        end["underpass.dev/outcome"],
        "its program ended, exit status 3"
    );
    assert!(recorded.missing > 900_000, "{}", recorded.missing);
}

async fn restart(site: &Site, record: &'static str) {
    site.deployment
        .blocking(move |underpass| {
            underpass.kill_server().unwrap();
            underpass
                .restart_server_with(&["--record", record])
                .unwrap();
        })
        .await;
    site.connected().await;
}

#[tokio::test]
async fn rule_15_a_shell_that_was_opened_before_recordings_were_required_ends_and_says_so() {
    let site = Site::new(Transport::Quic, shells::POLICY).await;
    let alice = site.user("alice", "admin");
    let unrecorded = shell(&site, &alice, &["--kind", "node"]);
    unrecorded.shows("$ ").await;
    restart(&site, "on").await;
    let mut recorded = shell(&site, &alice, &["--kind", "node"]);
    recorded.shows("$ ").await;
    let id = first_listed(&site, &alice).await;
    recorded.press("echo fir\"\"st\r");
    recorded.shows("first").await;
    restart(&site, "required").await;
    for viewer in [unrecorded, recorded] {
        let (status, said) = viewer.ended().await;
        assert_eq!(status, Some(129), "{said}");
        assert!(said.contains("it was opened before"), "{said}");
    }
    // The recording of the one that had one is whole.
    let end = told(&site, &id, "underpass.dev/recording-sha256").await;
    assert_eq!(end["underpass.dev/recording-missing"], Value::Null);
    let output = String::from_utf8(Recorded::read(&cast(&site, &id)).output).unwrap();
    assert!(output.contains("first"), "{output}");
    let mut third = shell(&site, &alice, &["--kind", "node"]);
    third.shows("$ ").await;
    third.press("exit\r");
    assert_eq!(third.ended().await.0, Some(0));
}
