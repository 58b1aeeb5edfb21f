//! The words between the agent and a helper, and between the stages of a helper: a plan down, messages up. Each is a line of JSON.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use underpass_agent_policy::Protection;

/// The process of a helper that reads a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The agent's own child.
    Outer,
    /// The first process of a PID namespace.
    Init,
    /// The process that becomes the program.
    Program,
}

/// A shell to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) stage: Stage,
    /// `None` is a trial: the helper does all the rest.
    pub(crate) program: Option<Program>,
    pub(crate) wants: Vec<Want>,
    /// A protection that is required is missing: the helper goes on to find the others, and starts nothing.
    pub(crate) is_refused: bool,
    /// Its uid, and gid.
    pub(crate) uid: Option<u32>,
    pub(crate) home: Option<HomePlan>,
    /// Files and folders that it must not see.
    pub(crate) hide: Vec<PathBuf>,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) processes: u32,
}

/// The program that a helper becomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Not the helper's own: a variable such as `LD_PRELOAD` is none of the helper's business.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: PathBuf,
}

/// A shell's home, which is an empty folder of the agent's making.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct HomePlan {
    pub(crate) path: PathBuf,
    /// The folder of all homes of the node.
    pub(crate) base: PathBuf,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl fmt::Debug for HomePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HomePlan").field(&self.path).finish()
    }
}

/// A protection that a shell should have.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Want {
    pub(crate) protection: Named,
    pub(crate) is_required: bool,
}

/// A protection by its name in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Named(pub(crate) Protection);

impl From<Named> for String {
    fn from(own: Named) -> Self {
        own.0.name().to_owned()
    }
}

impl TryFrom<String> for Named {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse().map(Self)
    }
}

/// A message of a helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// The system refuses a protection.
    Lacks { protection: Named, why: String },
    /// There will be no program.
    Failed {
        step: Step,
        /// errno(3).
        error: Option<i32>,
    },
    /// The very next call is execve(2): where no failure follows, it has succeeded.
    Ready,
    /// The program runs, as a child of the first process of its PID namespace.
    Started,
    /// That child has ended.
    Ended { exit: Outcome },
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Status(i32),
    Signal(i32),
}

/// A step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Plan,
    Descriptors,
    Init,
    Files,
    Session,
    Terminal,
    Signals,
    Directory,
    Program,
}
