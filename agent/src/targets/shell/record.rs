//! The recorder of a shell, which is at the server: its events, and its word on the bytes that it has written down.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use underpass_agent_shell::{Acks, Fault, RecordedPlace, Recorder, RecorderEvent, Recording};
use underpass_api::{
    RecorderWord, RecordingEvent, RecordingFault, RecordingPlace, ShellProblem, ShellRecording,
};
use underpass_tunnel::{ReadHalf, WriteHalf};

use super::super::lines::{Unanswered, write};
use super::view;
use crate::limits;

pub(super) fn of_recording(recording: ShellRecording) -> Recording {
    Recording {
        required: recording.required,
        input: recording.input,
        wait: Duration::from_secs(recording.wait_seconds),
    }
}

pub(super) fn of_place(place: RecordingPlace) -> RecordedPlace {
    RecordedPlace {
        output: place.output,
        input: place.input,
    }
}

fn of_fault(fault: RecordingFault) -> Fault {
    match fault {
        RecordingFault::Full => Fault::Full,
        RecordingFault::TooLarge => Fault::TooLarge,
        RecordingFault::NotRequired => Fault::NotRequired,
        _ => Fault::Unwritable,
    }
}

/// Tells the recorder of a shell until the shell's end, or until one of them has enough. The shell goes on.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub(super) async fn serve(
    recorder: Result<Recorder, ShellProblem>,
    from: ReadHalf,
    mut to: WriteHalf,
) -> Result<(), Unanswered> {
    let recorder = match recorder {
        Ok(recorder) => recorder,
        Err(problem) => {
            write(&mut to, &RecordingEvent::Refused(problem)).await?;
            to.shutdown().await?;
            return Ok(());
        }
    };
    let acks = recorder.acks();
    tokio::select! {
        told = tell(recorder, &mut to) => told?,
        // Its last words are heard: by them, nothing of the shell is kept any longer.
        heard = hear(from, &acks) => return heard,
    }
    to.shutdown().await?;
    Ok(())
}

/// Tells the recorder everything, and waits then until it has given the stream up.
async fn tell(mut recorder: Recorder, to: &mut WriteHalf) -> Result<(), Unanswered> {
    let at = recorder.at();
    let begun = RecordingEvent::Begun {
        at: RecordingPlace {
            output: at.output,
            input: at.input,
        },
        ms: milliseconds(recorder.age()),
    };
    write(to, &begun).await?;
    while let Some(event) = recorder.next().await {
        let line = match event {
            RecorderEvent::Output(at, data) => RecordingEvent::Output {
                ms: milliseconds(at),
                data,
            },
            RecorderEvent::Input(at, data) => RecordingEvent::Input {
                ms: milliseconds(at),
                data,
            },
            RecorderEvent::Resized(at, size) => RecordingEvent::Resized {
                ms: milliseconds(at),
                size: view::of_size(size),
            },
            RecorderEvent::Ended(at, end) => RecordingEvent::Ended {
                ms: milliseconds(at),
                end: view::of_end(end),
            },
            // Another one is told.
            _ => return Ok(()),
        };
        write(to, &line).await?;
    }
    to.shutdown().await?;
    std::future::pending().await
}

/// Hears what the recorder has written down, until it gives the stream up.
async fn hear(from: ReadHalf, acks: &Acks) -> Result<(), Unanswered> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut from).take(limits::RECORDER_LINE);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let RecorderWord { had, end } =
            serde_json::from_slice(&line).map_err(std::io::Error::from)?;
        acks.ack(of_place(had));
        if let Some(fault) = end {
            acks.end(of_fault(fault));
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
