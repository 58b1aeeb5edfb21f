//! Whether shells are recorded, and for how long recordings are kept, by the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Whether shells are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Record {
    /// None are.
    #[default]
    Off,
    /// All are, as far as that can be done: missing bytes are named.
    On,
    /// There is no shell without a recording.
    Required,
}

/// How shells are recorded, and for how long recordings are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingsConfig {
    /// Whether they are.
    pub record: Record,
    /// Whether input is recorded as well.
    pub input: bool,
    /// How long a shell waits for its recording where that is required, before it ends.
    pub wait: Duration,
    /// The folder of recordings; `recordings` in the data directory without it.
    pub dir: Option<PathBuf>,
    /// How long a recording is kept behind its end.
    pub keep: Duration,
    /// Bytes of all recordings, in blocks of 4 KiB. To make room, the oldest go of the user with the most above an equal share; those of one
    /// user that are being written take half at the most of what those of others leave.
    pub most_bytes: u64,
    /// Bytes of one recording.
    pub most_bytes_of_one: u64,
}

impl Default for RecordingsConfig {
    fn default() -> Self {
        Self {
            record: Record::Off,
            input: false,
            wait: Duration::from_secs(60),
            dir: None,
            keep: Duration::from_secs(30 * 24 * 60 * 60),
            most_bytes: 10 * 1024 * MIB,
            most_bytes_of_one: 256 * MIB,
        }
    }
}

const MIB: u64 = 1024 * 1024;

/// Flags about recordings.
#[derive(Clone, Debug, Args)]
#[group(id = "recordings")]
pub(crate) struct Options {
    /// Record shells: `on` records as far as it can, and names what it could not; with `required` there is no shell without a
    /// recording, and one whose recording cannot be written ends at once
    #[arg(
        long,
        env = "UNDERPASS_RECORD",
        default_value = "off",
        value_name = "off|on|required"
    )]
    record: Record,
    /// Record what is typed as well, passwords among it
    #[arg(long, env = "UNDERPASS_RECORD_INPUT")]
    record_input: bool,
    /// With --record required, how long a shell waits for a server that is away before it ends, an hour at the most
    #[arg(long, env = "UNDERPASS_RECORD_WAIT", default_value = "60s", value_name = "TIME", value_parser = wait)]
    record_wait: Duration,
    /// Folder of the recordings [default: recordings in the data directory]
    #[arg(long, env = "UNDERPASS_RECORDINGS_DIR", value_name = "FOLDER")]
    recordings_dir: Option<PathBuf>,
    /// Time to keep a recording behind its end
    #[arg(long, env = "UNDERPASS_RECORDINGS_KEEP", default_value = "30d", value_name = "TIME", value_parser = humantime::parse_duration)]
    recordings_keep: Duration,
    /// Size of all recordings, in MiB, 4 at the least, in blocks of 4 KiB: to make room, the oldest of the user with the most are removed. There are
    /// 100,000 at the most
    #[arg(long, env = "UNDERPASS_RECORDINGS_SIZE", default_value = "10240", value_name = "MIB", value_parser = clap::value_parser!(u64).range(4..))]
    recordings_size: u64,
    /// Size of one recording, in MiB: it stops there, and with --record required its shell ends
    #[arg(long, env = "UNDERPASS_RECORDING_SIZE", default_value = "256", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    recording_size: u64,
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(60 * 60);
    match allowed.contains(&wait) {
        true => Ok(wait),
        false => Err("it is not from 1s to 1h".to_owned()),
    }
}

impl Options {
    pub(crate) fn config(&self) -> RecordingsConfig {
        RecordingsConfig {
            record: self.record,
            input: self.record_input,
            wait: self.record_wait,
            dir: self.recordings_dir.clone(),
            keep: self.recordings_keep,
            most_bytes: self.recordings_size.saturating_mul(MIB),
            most_bytes_of_one: self.recording_size.saturating_mul(MIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn config(args: &[&str]) -> Result<RecordingsConfig, String> {
        let line = Line::try_parse_from([&["x"], args].concat());
        line.map(|line| line.options.config())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        assert_eq!(config(&[]), Ok(RecordingsConfig::default()));
        let required = config(&["--record", "required", "--record-input"]).unwrap();
        assert_eq!((required.record, required.input), (Record::Required, true));
    }

    #[test]
    fn a_bound_that_keeps_nothing_is_refused() {
        for args in [
            ["--recordings-size", "3"],
            ["--recording-size", "0"],
            ["--record-wait", "0s"],
            ["--record-wait", "2h"],
            ["--record", "perhaps"],
        ] {
            config(&args).unwrap_err();
        }
    }
}
