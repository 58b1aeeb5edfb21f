//! The end of a command in a pod, as its status has it.

use serde::Deserialize;

/// The end of a command.
pub(super) enum Ended {
    /// By itself, with this exit status.
    Status(i32),
    /// It did not run, or its end is not known: why, in the cluster's words.
    Failed(String),
    /// Nothing reads its output any more.
    OutputClosed,
}

/// The end, as Kubernetes has it: a `Status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    reason: String,
    message: String,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

impl Ended {
    /// Reads the status. Kubernetes's is a `Status` of its API.
    pub(super) fn read(status: &[u8]) -> Self {
        if status.is_empty() {
            return Ended::Failed(NO_STATUS.to_owned());
        }
        let Ok(status) = serde_json::from_slice::<Status>(status) else {
            let text = String::from_utf8_lossy(status);
            return Ended::Failed(format!("the command's status is not understood: {text}"));
        };
        if status.status == "Success" {
            return Ended::Status(0);
        }
        let mut causes = status.details.causes.iter();
        let code = causes.find(|cause| cause.reason == "ExitCode");
        let code = code.and_then(|cause| cause.message.parse().ok());
        match code {
            // A command that failed with 0 did not succeed.
            Some(code) if status.reason == "NonZeroExitCode" && code != 0 => Ended::Status(code),
            _ => Ended::Failed(status.words()),
        }
    }
}

impl Status {
    /// Why the command failed, or did not run.
    fn words(self) -> String {
        let Self {
            status,
            reason,
            message,
            ..
        } = self;
        if !message.is_empty() {
            return message;
        }
        if !reason.is_empty() {
            return format!("the command failed, and its status says no more than {reason:?}");
        }
        match status.as_str() {
            "" => NO_STATUS.to_owned(),
            status => format!("the command's status is {status:?}, without a reason"),
        }
    }
}

/// kubectl takes it for a success.
const NO_STATUS: &str = "the command's status is empty: whether it ran to its end is not known";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_commands_end() {
        for (status, expected) in [
            (r#"{"status":"Success"}"#, "0"),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","message":"x",
                    "details":{"causes":[{"reason":"ExitCode","message":"126"}]}}"#,
                "126",
            ),
            (
                r#"{"status":"Failure","reason":"InternalError","message":"executable file not found"}"#,
                "executable file not found",
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","message":"odd",
                    "details":{"causes":[{"reason":"ExitCode","message":"0"}]}}"#,
                "odd",
            ),
            ("}", "the command's status is not understood: }"),
            ("", NO_STATUS),
            ("{}", NO_STATUS),
            (
                r#"{"status":"Failure"}"#,
                r#"the command's status is "Failure", without a reason"#,
            ),
            (
                r#"{"status":"Failure","reason":"InternalError"}"#,
                r#"the command failed, and its status says no more than "InternalError""#,
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode"}"#,
                r#"the command failed, and its status says no more than "NonZeroExitCode""#,
            ),
        ] {
            let shown = match Ended::read(status.as_bytes()) {
                Ended::Status(status) => status.to_string(),
                Ended::Failed(why) => why,
                Ended::OutputClosed => panic!("{status}"),
            };
            assert_eq!(shown, expected);
        }
    }
}
