//! Credential plugins: programs that print a token or a client certificate (`client.authentication.k8s.io`), of kubeconfigs and of
//! clusters of the directory.
//!
//! kube can run them too, but waits for ever, keeps a thread for each request that waits, runs one that fails for every request,
//! reads output without a bound, and quotes it in its errors.

mod answer;
mod program;
mod run;

use std::{process::ExitStatus, sync::Arc};

use tokio_util::task::AbortOnDropHandle;

pub use self::program::ExecConfigError;
pub(super) use self::{
    answer::Issued,
    program::{ChosenBy, Program},
};
use super::{clock::Moment, tls::TlsError};
use underpass_core::limits;

/// Why a plugin gave no credential. Nothing that it has printed is repeated: it may hold one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// There is no such program.
    #[error("the exec plugin {command:?} is not there{}", hinted(hint.as_deref()))]
    Missing {
        /// Which.
        command: String,
        /// The kubeconfig's `installHint`.
        hint: Option<String>,
    },
    /// It could not be run.
    #[error("the exec plugin cannot be run")]
    Start(#[source] std::io::Error),
    /// Its output or its end could not be waited for.
    #[error("the exec plugin was lost while it ran")]
    Lost(#[source] std::io::Error),
    /// The task that waited for it has ended.
    #[error("the run of the exec plugin was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
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
    #[error(
        "the exec plugin printed no ExecCredential of v1 or v1beta1; run it by hand to see why"
    )]
    Malformed,
    /// An `ExecCredential` of another version than the kubeconfig asks for. client-go refuses it as well.
    #[error(
        "the exec plugin answered in {given}, and was asked for {asked}: change the apiVersion of the kubeconfig's exec, or the \
         plugin's configuration"
    )]
    Version {
        /// The kubeconfig's.
        asked: String,
        /// The plugin's.
        given: &'static str,
    },
    /// It gave something else, or a token that no header can hold.
    #[error("the exec plugin gave neither a token nor a client certificate with its key")]
    Nothing,
    /// It gave a client certificate that TLS cannot use.
    #[error("the exec plugin's client certificate cannot be used")]
    Certificate(#[source] TlsError),
    /// It gave an expired credential.
    #[error("the exec plugin's token or certificate has expired already")]
    Expired,
}

fn hinted(hint: Option<&str>) -> String {
    hint.map(|hint| format!(": {hint}")).unwrap_or_default()
}

/// A plugin, its last result and its run.
///
/// It runs for all requests together, once at a time, and longer than the request that needed it first: requests that are given
/// up one after the other would else start it again and again, and never get a credential. Dropping the plugin ends the run.
pub(super) struct Plugin {
    program: Arc<Program>,
    /// Held while requests without a credential wait for the run.
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    issued: Option<Issued>,
    /// The API server does not accept what was issued.
    refused: bool,
    failed: Option<(Moment, Arc<ExecError>)>,
    run: Option<AbortOnDropHandle<Result<Issued, ExecError>>>,
}

impl Plugin {
    pub(super) fn new(program: Program) -> Self {
        Self {
            program: Arc::new(program),
            state: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// The credential to send now. Waits for a run, for [`limits::EXEC_TIME`] at the most, where there is none; one that is
    /// still good is sent while the next is made.
    ///
    /// # Cancel safety
    /// May be dropped: the run goes on, and another request gets its result.
    pub(super) async fn issued(&self) -> Result<Issued, Arc<ExecError>> {
        let mut state = self.state.lock().await;
        if state.run.is_none() && state.needs_run() {
            let program = Arc::clone(&self.program);
            let run = tokio::spawn(async move { run::run(&program).await });
            state.run = Some(AbortOnDropHandle::new(run));
        }
        let waits = state.refused || state.good().is_none();
        if let Some(run) = &mut state.run
            && (waits || run.is_finished())
        {
            let ended = run.await;
            state.run = None;
            state.end(ended.unwrap_or_else(|error| Err(ExecError::BrokenOff(error))));
        }
        match (state.good(), &state.failed) {
            (Some(issued), _) => Ok(issued.clone()),
            (None, Some((_, error))) => Err(Arc::clone(error)),
            // It lived for less than a moment.
            (None, None) => Err(Arc::new(ExecError::Expired)),
        }
    }

    /// The API server has refused a credential: the next request has another.
    pub(super) async fn refused(&self) {
        let mut state = self.state.lock().await;
        let issued = state.issued.as_ref();
        // One that was just made: another one would be refused as well.
        if issued.is_some_and(|issued| issued.at.elapsed() >= limits::EXEC_PAUSE) {
            state.refused = true;
        }
    }
}

impl State {
    fn needs_run(&self) -> bool {
        let failed = self.failed.as_ref();
        if failed.is_some_and(|(at, _)| at.elapsed() < limits::EXEC_PAUSE) {
            return false;
        }
        let due = |issued: &Issued| issued.life.is_some_and(|life| life.renew.has_come());
        self.refused || self.issued.as_ref().is_none_or(due)
    }

    /// A credential that has not expired. A refused one is among them: where the plugin fails it is the last there is, and the API
    /// server may have been wrong.
    fn good(&self) -> Option<&Issued> {
        let lives = |issued: &&Issued| issued.life.is_none_or(|life| !life.end.has_come());
        self.issued.as_ref().filter(lives)
    }

    fn end(&mut self, ended: Result<Issued, ExecError>) {
        match ended {
            Ok(issued) => {
                self.issued = Some(issued);
                (self.refused, self.failed) = (false, None);
            }
            Err(error) => {
                let error = Arc::new(error);
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "the exec plugin gave no credential"
                );
                self.failed = Some((Moment::now(), error));
            }
        }
    }
}

#[cfg(test)]
mod tests;
