//! The errors on a machine that lacks something, and the use of a user's own programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use underpass_testenv::testing::{Reading, run, text};
use underpass_testenv::{Assets, progress_to_stderr};

/// The command line, with the given changes to its environment.
fn testenv(environment: &[(&str, &Path)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass-testenv"));
    // The environment may name a user's own programs.
    command
        .env_remove("UNDERPASS_TESTENV_ASSETS")
        .env_remove("KUBEBUILDER_ASSETS");
    command.envs(environment.iter().copied()).kill_on_drop(true);
    command
}

async fn refusal(environment: &[(&str, &Path)]) -> String {
    let output = run(&mut testenv(environment), b"").await;
    assert!(!output.status.success());
    text(&output.stderr)
}

#[tokio::test]
async fn without_go() {
    let empty = tempfile::tempdir().unwrap();
    let said = refusal(&[("PATH", empty.path()), ("UNDERPASS_CACHE", empty.path())]).await;
    assert!(
        said.contains("there is no `go` in PATH: install Go 1.26.0 or newer"),
        "{said}"
    );
}

#[tokio::test]
async fn with_an_old_go() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    // The behaviour of a Go that is older than a module's go line and must not fetch another.
    let script = "#!/bin/sh\nif [ \"$GOTOOLCHAIN\" = local ]; then echo go1.21.3; exit 0; fi\n\
                  echo 'go: go.mod requires go >= 1.26.0 (running go 1.21.3)' >&2; exit 1\n";
    std::fs::write(&go, script).unwrap();
    std::fs::set_permissions(&go, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = refusal(&[("PATH", dir.path()), ("UNDERPASS_CACHE", dir.path())]).await;
    assert!(
        said.contains("Go 1.26.0 or newer is needed and go1.21.3 was found"),
        "{said}"
    );
}

#[tokio::test]
async fn without_the_module_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("modules");
    let said = refusal(&[
        ("UNDERPASS_CACHE", dir.path()),
        ("GOMODCACHE", &modules),
        ("GOPROXY", Path::new("http://127.0.0.1:1")),
    ])
    .await;
    assert!(
        said.contains("the Go module proxy could not be reached"),
        "{said}"
    );
}

#[tokio::test]
async fn with_a_folder_that_lacks_a_program() {
    let dir = tempfile::tempdir().unwrap();
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        std::fs::write(dir.path().join(program), "").unwrap();
    }
    let said = refusal(&[("KUBEBUILDER_ASSETS", dir.path())]).await;
    let expected = format!(
        "KUBEBUILDER_ASSETS names {}, which has no kube-controller-manager",
        dir.path().display()
    );
    assert!(said.contains(&expected), "{said}");
}

#[tokio::test]
async fn with_programs_of_ones_own() {
    let assets = Assets::ensure(progress_to_stderr).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (program, name) in [
        (assets.etcd(), "etcd"),
        (assets.kube_apiserver(), "kube-apiserver"),
        (assets.kube_controller_manager(), "kube-controller-manager"),
        (assets.kubectl(), "kubectl"),
    ] {
        symlink(program, dir.path().join(name)).unwrap();
    }
    let mut command = testenv(&[("UNDERPASS_TESTENV_ASSETS", dir.path())]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = Reading::new(child.stdout.as_mut().unwrap());
    let said = stdout.until("# logs").await;
    let kubectl = format!("{}/kubectl\n", dir.path().display());
    assert!(said.contains(&kubectl), "{said}");
    child.kill().await.unwrap();
}
