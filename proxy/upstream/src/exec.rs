//! Credential plugins: programs that print a token (`client.authentication.k8s.io`), for clusters of the directory.
//!
//! kube can run them too, but waits for ever, reads output without a bound, and gives them our whole environment.

use std::{
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderValue;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdout, Command},
};
use zeroize::Zeroizing;

use underpass_core::{Exec, limits};

/// The input of a plugin: no user can be prompted, and the answer has this form.
const INFO: &str = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{"interactive":false}}"#;

/// Forms of an answer that mean the same to us.
const FORMS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

/// Why a plugin gave no token. Nothing that it has printed is repeated: it may hold one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// It could not be run.
    #[error("the exec plugin cannot be run")]
    Start(#[source] std::io::Error),
    /// It said that it failed.
    #[error("the exec plugin failed ({0}); run it by hand to see why")]
    Failed(ExitStatus),
    /// It did not end.
    #[error("the exec plugin took longer than {:?}", limits::EXEC_TIME)]
    TooSlow,
    /// It prints without end.
    #[error(
        "the exec plugin printed more than {} bytes",
        limits::EXEC_OUTPUT_BYTES
    )]
    TooMuch,
    /// Not an `ExecCredential`.
    #[error("what the exec plugin printed is no ExecCredential of v1 or v1beta1")]
    Malformed,
    /// It gave something else, or a token that no header can hold.
    #[error("the exec plugin gave no token (client certificates of plugins are not supported)")]
    NoToken,
    /// It gave an expired token.
    #[error("the exec plugin's token has expired already")]
    Expired,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<Zeroizing<String>>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expiration_timestamp: Option<OffsetDateTime>,
}

/// A plugin, and its last result.
pub(super) struct Plugin {
    exec: Exec,
    /// Held while it runs: other requests wait for the same token.
    last: tokio::sync::Mutex<Last>,
}

#[derive(Default)]
enum Last {
    #[default]
    Nothing,
    Token(Issued),
    Failure(Instant, Arc<ExecError>),
}

struct Issued {
    header: HeaderValue,
    at: Instant,
    /// From when on another is to be had.
    renew: Option<Instant>,
}

impl Plugin {
    pub(super) fn new(exec: Exec) -> Self {
        Self {
            exec,
            last: tokio::sync::Mutex::default(),
        }
    }

    /// The header to send now.
    ///
    /// # Cancel safety
    /// Dropping the future ends a plugin that runs for it; the next waiting request runs it again.
    pub(super) async fn header(&self) -> Result<HeaderValue, Arc<ExecError>> {
        let mut last = self.last.lock().await;
        match &*last {
            Last::Token(issued) if issued.renew.is_none_or(|renew| Instant::now() < renew) => {
                return Ok(issued.header.clone());
            }
            Last::Failure(at, error) if at.elapsed() < limits::EXEC_PAUSE => {
                return Err(Arc::clone(error));
            }
            _ => {}
        }
        match run(&self.exec).await {
            Ok(issued) => {
                let header = issued.header.clone();
                *last = Last::Token(issued);
                Ok(header)
            }
            Err(error) => {
                let error = Arc::new(error);
                *last = Last::Failure(Instant::now(), Arc::clone(&error));
                Err(error)
            }
        }
    }

    /// The API server has refused a token: the next request has another.
    pub(super) async fn refused(&self) {
        let mut last = self.last.lock().await;
        if matches!(&*last, Last::Token(issued) if issued.at.elapsed() >= limits::EXEC_PAUSE) {
            *last = Last::Nothing;
        }
    }
}

/// Runs it once. No shell reads any of it.
async fn run(exec: &Exec) -> Result<Issued, ExecError> {
    let inherited = ["PATH", "HOME"]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut child = Command::new(&exec.command)
        .args(exec.args.iter().map(|arg| arg.as_str()))
        // Plugins do not get this process's environment.
        .env_clear()
        .envs(inherited)
        .env("KUBERNETES_EXEC_INFO", INFO)
        .envs(exec.env.iter().map(|(name, value)| (name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It may hold anything, a token included.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .map_err(ExecError::Start)?;
    let group = Group::of(&child);
    let output = child.stdout.take();
    let ended = async {
        let printed = read(output).await?;
        let status = child.wait().await.map_err(ExecError::Start)?;
        if status.success() {
            Ok(printed)
        } else {
            Err(ExecError::Failed(status))
        }
    };
    let printed = tokio::time::timeout(limits::EXEC_TIME, ended)
        .await
        .map_err(|_| ExecError::TooSlow)
        .and_then(|ended| ended)?;
    group.ended();
    understand(&printed)
}

async fn read(output: Option<ChildStdout>) -> Result<Zeroizing<Vec<u8>>, ExecError> {
    let mut printed = Zeroizing::new(Vec::new());
    if let Some(output) = output {
        let most = limits::EXEC_OUTPUT_BYTES + 1;
        let mut output = output.take(most);
        output
            .read_to_end(&mut printed)
            .await
            .map_err(ExecError::Start)?;
    }
    if printed.len() as u64 > limits::EXEC_OUTPUT_BYTES {
        return Err(ExecError::TooMuch);
    }
    Ok(printed)
}

/// The plugin's processes: dropping it ends all of them, those that it has started included.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(rustix::process::Pid::from_raw))
    }

    /// The plugin has ended by itself, and the number may be another's.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

fn understand(printed: &[u8]) -> Result<Issued, ExecError> {
    // serde's errors quote the text.
    let answer: ExecCredential =
        serde_json::from_slice(printed).map_err(|_| ExecError::Malformed)?;
    if answer.kind != "ExecCredential" || !FORMS.contains(&answer.api_version.as_str()) {
        return Err(ExecError::Malformed);
    }
    let status = answer.status.ok_or(ExecError::NoToken)?;
    let token = status.token.filter(|token| !token.is_empty());
    let token = token.ok_or(ExecError::NoToken)?;
    let line = Zeroizing::new(["Bearer ", &token].concat());
    let mut header = HeaderValue::from_str(&line).map_err(|_| ExecError::NoToken)?;
    header.set_sensitive(true);
    let at = Instant::now();
    let renew = match status.expiration_timestamp {
        None => None,
        Some(end) => {
            let left = SystemTime::from(end)
                .duration_since(SystemTime::now())
                .map_err(|_| ExecError::Expired)?;
            at.checked_add(renew_after(left))
        }
    };
    Ok(Issued { header, at, renew })
}

fn renew_after(left: Duration) -> Duration {
    left.saturating_sub(limits::EXEC_EARLY.min(left / 4))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use underpass_testenv::testing::install_script;

    use super::*;

    /// Writes a script, and counts how often it runs.
    struct Script {
        dir: tempfile::TempDir,
    }

    impl Script {
        fn new(body: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("plugin");
            let runs = dir.path().join("runs");
            let text = format!("#!/bin/sh\necho run >> '{}'\n{body}\n", runs.display());
            install_script(&path, &text);
            Self { dir }
        }

        fn runs(&self) -> usize {
            let runs = fs::read_to_string(self.dir.path().join("runs"));
            runs.map_or(0, |runs| runs.lines().count())
        }

        fn plugin(&self, args: &[&str], env: &[(&str, &str)]) -> Plugin {
            let text = |text: &str| Zeroizing::new(text.to_owned());
            Plugin::new(Exec {
                command: self.dir.path().join("plugin").to_str().unwrap().to_owned(),
                args: args.iter().map(|&arg| text(arg)).collect(),
                env: env
                    .iter()
                    .map(|&(name, value)| (name.to_owned(), text(value)))
                    .collect(),
            })
        }

        async fn error(&self) -> ExecError {
            let error = self.plugin(&[], &[]).header().await.unwrap_err();
            Arc::into_inner(error).unwrap()
        }
    }

    fn answer(status: &str) -> String {
        let head = r#""apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential""#;
        format!("printf '%s' '{{{head},\"status\":{status}}}'")
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_refused() {
        let script = Script::new(&answer(r#"{"token":"t"}"#));
        let plugin = script.plugin(&[], &[]);
        for _ in 0..3 {
            assert_eq!(plugin.header().await.unwrap(), "Bearer t");
        }
        assert_eq!(script.runs(), 1);
        // Just made: another one would be refused as well.
        plugin.refused().await;
        plugin.header().await.unwrap();
        assert_eq!(script.runs(), 1);
        if let Last::Token(issued) = &mut *plugin.last.lock().await {
            issued.at = issued.at.checked_sub(limits::EXEC_PAUSE).unwrap();
        }
        plugin.refused().await;
        plugin.header().await.unwrap();
        assert_eq!(script.runs(), 2);
    }

    #[tokio::test]
    async fn a_token_is_replaced_before_it_expires() {
        let end = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        let end = end
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap();
        let script = Script::new(&answer(&format!(
            r#"{{"token":"t","expirationTimestamp":"{end}"}}"#
        )));
        let plugin = script.plugin(&[], &[]);
        plugin.header().await.unwrap();
        plugin.header().await.unwrap();
        assert_eq!(script.runs(), 1);
        if let Last::Token(issued) = &mut *plugin.last.lock().await {
            let left = issued.renew.unwrap().duration_since(issued.at);
            assert!(left < Duration::from_secs(3600) - limits::EXEC_EARLY / 2);
            issued.renew = Some(Instant::now());
        }
        plugin.header().await.unwrap();
        assert_eq!(script.runs(), 2);
        let minute = Duration::from_secs(60);
        assert_eq!(renew_after(minute), Duration::from_secs(45));
        assert_eq!(renew_after(Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test]
    async fn many_who_wait_run_it_once() {
        let script = Script::new(&answer(r#"{"token":"t"}"#));
        let plugin = script.plugin(&[], &[]);
        let all = (0..20).map(|_| plugin.header());
        for header in futures_util::future::join_all(all).await {
            assert_eq!(header.unwrap(), "Bearer t");
        }
        assert_eq!(script.runs(), 1);
    }

    #[tokio::test]
    async fn no_shell_reads_its_input() {
        let script = Script::new(&answer(r#"{"token":"'"$1-$A"'"}"#));
        let plugin = script.plugin(&["$(id);x"], &[("A", "`id`")]);
        assert_eq!(plugin.header().await.unwrap(), "Bearer $(id);x-`id`");
    }

    #[tokio::test]
    async fn it_sees_nothing_of_the_servers_environment() {
        // cargo sets this for every test.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let body = answer(r#"{"token":"x'"${CARGO_MANIFEST_DIR:-none}"'"}"#);
        let plugin = Script::new(&body);
        let header = plugin.plugin(&[], &[]).header().await.unwrap();
        assert_eq!(header, "Bearer xnone");
    }

    #[tokio::test]
    async fn what_fails_is_said_and_not_repeated_at_once() {
        let script = Script::new("echo hunter2; echo hunter2 >&2; exit 3");
        let plugin = script.plugin(&[], &[]);
        for _ in 0..3 {
            let error = plugin.header().await.unwrap_err();
            assert!(matches!(&*error, ExecError::Failed(_)));
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert_eq!(script.runs(), 1);
    }

    #[tokio::test]
    async fn odd_answers_are_refused() {
        let error = Script::new("cat /dev/zero").error().await;
        assert!(matches!(error, ExecError::TooMuch), "{error:?}");
        for body in ["", "echo hunter2", "printf '{\"kind\":\"hunter2\"}'"] {
            let error = Script::new(body).error().await;
            assert!(matches!(error, ExecError::Malformed), "{error:?}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        for status in ["null", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#] {
            let error = Script::new(&answer(status)).error().await;
            assert!(matches!(error, ExecError::NoToken), "{error:?}");
        }
        let old = r#"{"token":"t","expirationTimestamp":"2020-01-01T00:00:00Z"}"#;
        let error = Script::new(&answer(old)).error().await;
        assert!(matches!(error, ExecError::Expired), "{error:?}");
        let gone = Plugin::new(Exec {
            command: "/nonexistent/plugin".to_owned(),
            args: vec![],
            env: Default::default(),
        });
        let error = gone.header().await.unwrap_err();
        assert!(matches!(&*error, ExecError::Start(_)), "{error:?}");
    }

    #[tokio::test]
    async fn whoever_stops_waiting_ends_it_and_what_it_started() {
        let script = Script::new("(sleep 600 & echo $! > \"$1\"; wait)");
        let pid = script.dir.path().join("pid");
        let plugin = script.plugin(&[pid.to_str().unwrap()], &[]);
        let written = async {
            loop {
                match fs::read_to_string(&pid) {
                    Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let child = tokio::select! {
            _ = plugin.header() => panic!("it waits"),
            child = written => child,
        };
        let stat = format!("/proc/{child}/stat");
        let gone = async {
            // A zombie has ended too; another process reaps it.
            while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .unwrap();
        assert!(Path::new("/proc/self/stat").exists());
    }
}
