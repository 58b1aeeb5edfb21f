use std::{fs, time::Duration};

use zeroize::Zeroizing;

use super::*;
use crate::clock::testing::sleep;
use crate::testing::{Script, answer, expiry, is_alive, pass, until};
use underpass_core::Exec;

/// A plugin of the directory.
fn plugin(script: &Script, args: &[&str], env: &[(&str, &str)]) -> Plugin {
    let text = |text: &str| Zeroizing::new(text.to_owned());
    let exec = Exec {
        command: script.path().to_str().unwrap().to_owned(),
        args: args.iter().map(|&arg| text(arg)).collect(),
        env: env
            .iter()
            .map(|&(name, value)| (name.to_owned(), text(value)))
            .collect(),
    };
    let config = kube::Config::new("https://h".parse().unwrap());
    Plugin::new(Program::of_directory(exec, &config))
}

fn operators(script: &Script) -> Plugin {
    Plugin::new(Program::of_kubeconfig(&script.of_kubeconfig()).unwrap())
}

async fn header(plugin: &Plugin) -> http::HeaderValue {
    plugin.issued().await.unwrap().header.unwrap()
}

async fn error(body: &str) -> ExecError {
    let script = Script::new(body);
    let error = plugin(&script, &[], &[]).issued().await.unwrap_err();
    Arc::into_inner(error).unwrap()
}

#[tokio::test]
async fn a_token_is_kept_until_it_is_refused() {
    let script = Script::new(&answer(r#"{"token":"t"}"#));
    let plugin = plugin(&script, &[], &[]);
    for _ in 0..3 {
        assert_eq!(header(&plugin).await, "Bearer t");
    }
    assert_eq!(script.runs().len(), 1);
    // Just made: another one would be refused as well.
    plugin.refused().await;
    header(&plugin).await;
    assert_eq!(script.runs().len(), 1);
    pass(limits::EXEC_PAUSE).await;
    plugin.refused().await;
    header(&plugin).await;
    assert_eq!(script.runs().len(), 2);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_expires_and_sent_meanwhile() {
    let hour = Duration::from_secs(3600);
    let body = |token: &str| {
        answer(&format!(
            r#"{{"token":"{token}","expirationTimestamp":"{}"}}"#,
            expiry(hour)
        ))
    };
    let script = Script::new(&body("old"));
    let plugin = plugin(&script, &[], &[]);
    header(&plugin).await;
    pass(hour - limits::EXEC_EARLY - Duration::from_secs(10)).await;
    assert_eq!(header(&plugin).await, "Bearer old");
    assert_eq!(script.runs().len(), 1);
    script.replace(&body("new"));
    pass(Duration::from_secs(10)).await;
    assert_eq!(header(&plugin).await, "Bearer old", "while it runs");
    let renewed = async {
        while header(&plugin).await != "Bearer new" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let renewed = tokio::time::timeout(Duration::from_secs(15), renewed).await;
    renewed.unwrap();
    assert_eq!(script.runs().len(), 2);
    let minute = Duration::from_secs(60);
    assert_eq!(answer::renew_after(minute), Duration::from_secs(45));
    assert_eq!(answer::renew_after(Duration::ZERO), Duration::ZERO);
}

/// client-go compares the wall clock with `expirationTimestamp`.
#[tokio::test]
async fn a_machine_that_slept_past_the_end_of_a_token_has_another_before_it_is_refused() {
    let hour = Duration::from_secs(3600);
    let body = |token: &str, left| {
        let expiry = expiry(left);
        answer(&format!(
            r#"{{"token":"{token}","expirationTimestamp":"{expiry}"}}"#
        ))
    };
    let script = Script::new(&body("old", hour));
    let plugin = operators(&script);
    assert_eq!(header(&plugin).await, "Bearer old");
    script.replace(&body("new", 3 * hour));
    sleep(hour);
    assert_eq!(header(&plugin).await, "Bearer new");
    assert_eq!(script.runs().len(), 2);
}

#[tokio::test]
async fn many_who_wait_run_it_once() {
    let script = Script::new(&answer(r#"{"token":"t"}"#));
    let plugin = plugin(&script, &[], &[]);
    let all = (0..20).map(|_| header(&plugin));
    for header in futures_util::future::join_all(all).await {
        assert_eq!(header, "Bearer t");
    }
    assert_eq!(script.runs().len(), 1);
}

#[tokio::test]
async fn no_shell_reads_its_input() {
    let script = Script::new(&answer(r#"{"token":"'"$1-$A"'"}"#));
    let plugin = plugin(&script, &["$(id);x"], &[("A", "`id`")]);
    assert_eq!(header(&plugin).await, "Bearer $(id);x-`id`");
}

#[tokio::test]
async fn one_of_the_directory_sees_nothing_of_the_environment() {
    // cargo sets this for every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let body = answer(r#"{"token":"'"$SECRET-${CARGO_MANIFEST_DIR:+seen}"'"}"#);
    let script = Script::new(&body);
    let directorys = plugin(&script, &[], &[("SECRET", "hunter2")]);
    assert_eq!(header(&directorys).await, "Bearer hunter2-");
    assert_eq!(header(&operators(&script)).await, "Bearer hunter2-seen");
}

#[tokio::test]
async fn an_answer_may_be_yaml() {
    let body = "printf 'apiVersion: client.authentication.k8s.io/v1\\nkind: ExecCredential\\nstatus:\\n  \
                token: y\\n  expirationTimestamp: 2100-01-01T00:00:00Z\\n'";
    let script = Script::new(body);
    assert_eq!(header(&operators(&script)).await, "Bearer y");
}

/// client-go's reader of YAML passes over a byte order mark, and its reader of JSON leaves such a text to it.
#[tokio::test]
async fn an_answer_may_begin_with_a_byte_order_mark() {
    let body = format!("printf '\\357\\273\\277'; {}", answer(r#"{"token":"b"}"#));
    let script = Script::new(&body);
    assert_eq!(header(&operators(&script)).await, "Bearer b");
}

/// client-go: "exec plugin is configured to use API version …, plugin returned version …".
#[tokio::test]
async fn an_answer_in_another_version_than_the_kubeconfigs_is_refused_by_name() {
    for version in ["v1beta1", "v1alpha1"] {
        let body =
            answer(r#"{"token":"hunter2"}"#).replace("k8s.io/v1", &format!("k8s.io/{version}"));
        let script = Script::new(&body);
        let error = operators(&script).issued().await.unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains(&format!("client.authentication.k8s.io/{version}, ")),
            "{told}"
        );
        assert!(
            told.contains("asked for client.authentication.k8s.io/v1:"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
    }
    // The directory asks for no version, and cannot be changed to ask for another.
    let body = answer(r#"{"token":"t"}"#).replace("k8s.io/v1", "k8s.io/v1beta1");
    let script = Script::new(&body);
    assert_eq!(header(&plugin(&script, &[], &[])).await, "Bearer t");
}

#[tokio::test]
async fn rule_23_a_plugin_that_fails_is_not_run_for_each_request() {
    let script = Script::new("echo hunter2; echo hunter2 >&2; exit 3");
    let plugin = operators(&script);
    for _ in 0..3 {
        let error = plugin.issued().await.unwrap_err();
        assert!(matches!(&*error, ExecError::Failed(_)));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    assert_eq!(script.runs().len(), 1);
    pass(limits::EXEC_PAUSE).await;
    plugin.issued().await.unwrap_err();
    assert_eq!(script.runs().len(), 2);
}

#[tokio::test]
async fn a_refused_token_is_the_last_where_there_is_no_other() {
    let script = Script::new(&answer(r#"{"token":"t"}"#));
    let plugin = operators(&script);
    header(&plugin).await;
    script.replace("exit 1");
    pass(limits::EXEC_PAUSE).await;
    plugin.refused().await;
    assert_eq!(header(&plugin).await, "Bearer t");
    assert_eq!(script.runs().len(), 2);
}

#[tokio::test]
async fn odd_answers_are_refused() {
    let endless = error("cat /dev/zero").await;
    assert!(matches!(endless, ExecError::TooMuch), "{endless:?}");
    for body in ["", "echo hunter2", "printf '{\"kind\":\"hunter2\"}'"] {
        let error = error(body).await;
        assert!(matches!(error, ExecError::Malformed), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    for status in [
        "null",
        "{}",
        r#"{"token":""}"#,
        r#"{"token":"a\nb"}"#,
        r#"{"token":"a","clientKeyData":"b"}"#,
    ] {
        let error = error(&answer(status)).await;
        assert!(matches!(error, ExecError::Nothing), "{status}: {error:?}");
    }
    let old = r#"{"token":"t","expirationTimestamp":"2020-01-01T00:00:00Z"}"#;
    let error = error(&answer(old)).await;
    assert!(matches!(error, ExecError::Expired), "{error:?}");
}

#[tokio::test]
async fn one_that_is_not_there_is_named_with_how_to_install_it() {
    let exec = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "no-such-plugin-anywhere",
        "installHint": "apt install it",
    });
    let program = Program::of_kubeconfig(&serde_json::from_value(exec).unwrap());
    let missing = Plugin::new(program.unwrap()).issued().await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "the exec plugin \"no-such-plugin-anywhere\" is not there: apt install it"
    );
}

#[tokio::test]
async fn rule_23_a_plugin_that_hangs_runs_once_however_many_requests_are_given_up() {
    let hour = Duration::from_secs(3600);
    let status = format!(
        r#"{{"token":"t","expirationTimestamp":"{}"}}"#,
        expiry(hour)
    );
    let script = Script::new(&answer(&status));
    let plugin = operators(&script);
    header(&plugin).await;
    script.replace("sleep 600");
    pass(hour).await;
    for _ in 0..10 {
        let given_up = tokio::time::timeout(Duration::from_millis(100), plugin.issued()).await;
        given_up.unwrap_err();
        assert!(script.alive() <= 1);
    }
    until(|| script.runs().len() == 2).await;
    assert_eq!(script.alive(), 1);
    let (waited, ()) = tokio::join!(plugin.issued(), pass(limits::EXEC_TIME));
    assert!(matches!(*waited.unwrap_err(), ExecError::TooSlow));
    until(|| script.alive() == 0).await;
    // Others do not wait as long again.
    plugin.issued().await.unwrap_err();
    assert_eq!(script.runs().len(), 2);
}

#[tokio::test]
async fn a_run_survives_the_request_that_began_it() {
    let script = Script::new(&format!(
        "while [ ! -e \"${{0%/*}}/go\" ]; do sleep 0.01; done\n{}",
        answer(r#"{"token":"t"}"#)
    ));
    let plugin = operators(&script);
    let given_up = tokio::time::timeout(Duration::from_millis(100), plugin.issued()).await;
    given_up.unwrap_err();
    fs::write(script.dir.path().join("go"), "").unwrap();
    assert_eq!(header(&plugin).await, "Bearer t");
    assert_eq!(script.runs().len(), 1);
}

#[tokio::test]
async fn whoever_drops_a_plugin_ends_its_run_and_what_it_started() {
    let script = Script::new("(sleep 600 & echo $! > \"$1\"; wait)");
    let pid = script.dir.path().join("pid");
    let plugin = plugin(&script, &[pid.to_str().unwrap()], &[]);
    let written = || fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'));
    tokio::select! {
        _ = plugin.issued() => panic!("it waits"),
        () = until(written) => {}
    }
    let child = fs::read_to_string(&pid).unwrap();
    assert!(is_alive(child.trim()));
    drop(plugin);
    until(|| !is_alive(child.trim()) && script.alive() == 0).await;
}
