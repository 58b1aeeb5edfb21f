//! Shells as their callers see them.

use underpass_agent_shell::{Cause, End, Exit, OpenError, ShellRecord, Size};
use underpass_api::{
    ProgramExit, ShellEnd, ShellProblem, ShellRecording, ShellRefusal, ShellView, TerminalSize,
};

pub(super) fn of_record(record: &ShellRecord) -> ShellView {
    ShellView {
        id: record.id.clone(),
        kind: record.kind,
        user: record.owner.user.clone(),
        created: record.created,
        columns: record.size.columns(),
        rows: record.size.rows(),
        output: record.output,
        viewers: u64::try_from(record.viewers).unwrap_or(u64::MAX),
        missing: record.lacks.iter().map(ToString::to_string).collect(),
        recording: record.recording.map(|recording| ShellRecording {
            required: recording.required,
            input: recording.input,
            wait_seconds: recording.wait.as_secs(),
        }),
        end: record.end.map(of_end),
    }
}

pub(super) fn of_end(end: End) -> ShellEnd {
    ShellEnd {
        exit: match end.exit {
            Exit::Status(status) => Some(ProgramExit::Status(status)),
            Exit::Signal(signal) => Some(ProgramExit::Signal(signal)),
            Exit::Unknown => None,
        },
        cause: end.cause.to_string(),
        by_itself: end.cause == Cause::Program,
    }
}

pub(super) fn of_size(size: Size) -> TerminalSize {
    TerminalSize {
        columns: size.columns(),
        rows: size.rows(),
    }
}

pub(super) fn not_opened(error: &OpenError) -> ShellProblem {
    let reason = match error {
        OpenError::TooManyOfUser { .. } | OpenError::TooManyOfNode { .. } => ShellRefusal::TooMany,
        OpenError::Unprotected { .. } => ShellRefusal::Unprotected,
        OpenError::Term => ShellRefusal::Malformed,
        OpenError::Stopping => ShellRefusal::Stopping,
        _ => ShellRefusal::Unusable,
    };
    ShellProblem {
        reason,
        detail: error.to_string(),
    }
}
