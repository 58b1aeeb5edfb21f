//! The comparison runs, and tells what it measured. Whether the figures are good is nobody's business here.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_underpass-bench"))
        .args(arguments)
        .arg("--output")
        .arg(folder)
        .output()
        .unwrap()
}

fn report(folder: &Path) -> Value {
    let text = std::fs::read(folder.join("report.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The systems that have figures above zero in every one of these cells.
fn measured(report: &Value, cells: &[&str]) -> HashSet<String> {
    let figures = report["figures"].as_array().unwrap();
    let systems = figures
        .iter()
        .map(|figure| figure["system"].as_str().unwrap());
    let systems: HashSet<_> = systems.map(str::to_owned).collect();
    let has = |system: &str, cell: &str| {
        figures.iter().any(|figure| {
            let samples = figure["samples"].as_array().unwrap();
            figure["system"] == system
                && figure["cell"] == cell
                && samples.iter().all(|sample| sample.as_f64().unwrap() > 0.0)
        })
    };
    systems
        .into_iter()
        .filter(|system| cells.iter().all(|cell| has(system, cell)))
        .collect()
}

#[test]
fn every_own_system_is_measured_in_turns() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["run", "--short", "--scenario", "bulk,requests,interactive"];
    let output = bench(&arguments, folder.path());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let report = report(folder.path());
    assert_eq!(report["failures"].as_array().unwrap().len(), 0, "{log}");
    let all = [
        "direct",
        "floor-tls",
        "floor-quic",
        "underpass-websocket",
        "underpass-quic",
    ];
    let all = all.map(str::to_owned);
    let cells = [
        "1 down",
        "8 up",
        "1 in flight",
        "64 in flight",
        "beside a copy",
    ];
    let found = measured(&report, &cells);
    assert_eq!(found, HashSet::from(all), "{log}");
    let told = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(
        told.contains("### bulk: 1 down") && told.contains("## Targets"),
        "{told}"
    );
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        told.trim()
    );
    for plot in ["bulk.svg", "requests-64.svg", "keystroke.svg"] {
        assert!(folder.path().join(plot).is_file(), "{plot}");
    }
}

#[test]
fn agents_come_in_crowds_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let only = "underpass-websocket,underpass-quic";
    let scenario = "idle,recovery";
    let arguments = [
        "run",
        "--short",
        "--agents",
        "5",
        "--only",
        only,
        "--scenario",
        scenario,
    ];
    let output = bench(&arguments, folder.path());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let report = report(folder.path());
    assert_eq!(report["failures"].as_array().unwrap().len(), 0, "{log}");
    let samples = |cell: &str, system: &str, metric: &str| {
        let figures = report["figures"].as_array().unwrap();
        let found = figures.iter().find(|figure| {
            figure["cell"] == cell && figure["system"] == system && figure["metric"] == metric
        });
        found.map(|figure| figure["samples"].clone())
    };
    for system in only.split(',') {
        let agents = samples("5 agents", system, "agents");
        assert_eq!(agents, Some(serde_json::json!([5.0])), "{log}");
    }
    // A stream of a session outlives the connection.
    let survived = samples("connection cut", "underpass-websocket", "survived");
    assert_eq!(survived, Some(serde_json::json!([100.0])), "{log}");
}

#[test]
fn what_does_not_exist_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(&["run", "--short", "--only", "direct,warp"], folder.path());
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("no system `warp`") && told.contains("underpass-quic"),
        "{told}"
    );
}

#[test]
fn a_link_takes_its_time_or_says_that_it_needs_root() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "run",
        "--short",
        "--only",
        "direct,underpass-quic",
        "--scenario",
        "link",
    ];
    let output = bench(&arguments, folder.path());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let report = report(folder.path());
    if !rustix::process::geteuid().is_root() {
        let reason = report["failures"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("root"), "{reason}");
        return;
    }
    let found = measured(&report, &["alone", "beside a copy"]);
    assert_eq!(found.len(), 2, "{log}");
    let figures = report["figures"].as_array().unwrap();
    let mut alone = figures
        .iter()
        .filter(|figure| figure["cell"] == "alone" && figure["metric"] == "median");
    assert!(
        alone.all(|figure| figure["samples"][0].as_f64().unwrap() >= 40_000.0),
        "{log}"
    );
}

#[test]
fn a_path_dies_without_a_word_and_bytes_flow_again() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "run",
        "--short",
        "--only",
        "underpass-two-links,underpass-websocket",
        "--scenario",
        "dead-path",
    ];
    let output = bench(&arguments, folder.path());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let report = report(folder.path());
    if !rustix::process::geteuid().is_root() {
        let reason = report["failures"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("root"), "{reason}");
        return;
    }
    assert_eq!(report["failures"].as_array().unwrap().len(), 0, "{log}");
    let two = measured(
        &report,
        &["new request, UDP dropped", "copy, UDP flows forgotten"],
    );
    assert_eq!(
        two.into_iter().collect::<Vec<_>>(),
        ["underpass-two-links"],
        "{log}"
    );
    let one = measured(&report, &["keystroke, TCP connections forgotten"]);
    assert_eq!(
        one.into_iter().collect::<Vec<_>>(),
        ["underpass-websocket"],
        "{log}"
    );
}
