//! Schemathesis, which makes requests of an OpenAPI description: good, bad and at the edges.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{installed::installed, program::find};
use crate::testing::{run_within, text};

/// Some two thousand requests, on a machine that does other things as well.
const DEADLINE: Duration = Duration::from_secs(300);

/// The rights of one kind of caller, and the objects that exist.
#[derive(Debug)]
pub struct Roles<'a> {
    /// Operations such as `GET /v1/users/{name}`: every other one must not be done.
    pub may: &'a [&'a str],
    /// Names and ids to ask for.
    pub names: &'a [&'a str],
}

/// Requests for each operation of the description `openapi`, in a run that a seed repeats. Panics where an answer breaks
/// the role table, is a server's error, or does not look as described.
///
/// `leave_out` is a regular expression of paths that are not asked for.
pub async fn schemathesis(
    url: &str,
    ca_file: &Path,
    token: Option<&str>,
    openapi: &Value,
    roles: &Roles<'_>,
    leave_out: Option<&str>,
) -> String {
    let folder = tokio::task::spawn_blocking(|| {
        let mut pip = std::process::Command::new(find("python3"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--target", "packages"])
            .args(["--requirement", "requirements.txt"]);
        installed(
            "schemathesis",
            &["requirements.txt", "role_table.py"],
            &mut pip,
        )
    });
    let folder = folder.await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (description, table) = (
        dir.path().join("openapi.json"),
        dir.path().join("roles.json"),
    );
    std::fs::write(&description, openapi.to_string()).unwrap();
    let roles = json!({ "may": roles.may, "names": roles.names });
    std::fs::write(&table, roles.to_string()).unwrap();
    let packages = folder.join("packages");
    let modules = std::env::join_paths([&packages, &folder]).unwrap();
    let mut command = Command::new(find("python3"));
    command
        .arg(packages.join("bin/schemathesis"))
        .arg("run")
        .arg(&description)
        .args(["--url", url, "--seed", "1", "--workers", "1"])
        .args(["--max-examples", "15", "--phases", "coverage,fuzzing"])
        .args(["--generation-database", "none", "--continue-on-failure"])
        // An answer may come before the body was read, and the connection end before the client has the answer.
        .args(["--request-timeout", "20", "--request-retries", "3"])
        .args(["--no-color", "--warnings", "off"])
        .args(["--suppress-health-check", "all", "--tls-verify"])
        .arg(ca_file)
        .args(["--checks", CHECKS])
        .current_dir(dir.path())
        .env("PYTHONPATH", modules)
        .env("SCHEMATHESIS_HOOKS", "role_table")
        .env("UNDERPASS_ROLES", &table);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    if let Some(paths) = leave_out {
        command.args(["--exclude-path-regex", paths]);
    }
    let output = run_within(DEADLINE, &mut command, b"").await;
    let said = text(&output.stdout);
    assert!(
        output.status.success() && said.contains("Test cases:"),
        "{said}\n{}",
        text(&output.stderr)
    );
    said
}

const CHECKS: &str =
    "role_table,no_fault_of_the_server,content_type_conformance,response_schema_conformance";
