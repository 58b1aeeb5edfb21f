//! Questions about a run that are asked again, while the server or the node may soon be back.

use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use tokio::time::{Instant, sleep};
use underpass_api::OperationId;
use underpass_api::client::ClientError;
use underpass_terminal::say;

/// How long a server or a node may be away in the midst of an operation, whose output is kept meanwhile.
const AWAY: Duration = Duration::from_secs(300);

/// The wait after an answer that did not come, doubled by each further one.
const AGAIN: Duration = Duration::from_millis(250);

/// The longest.
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// How long to ask again, and about which run.
pub(super) struct Again<'a> {
    id: &'a OperationId,
    until: Instant,
    wait: Duration,
    run: Run,
}

/// The run, as far as answers have told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// The node has not been asked.
    Unasked,
    /// The node may have been asked.
    Possible,
    /// The node has it.
    Known,
}

impl<'a> Again<'a> {
    /// For a question that starts the run.
    pub(super) fn for_start(id: &'a OperationId) -> Self {
        Self::new(id, Run::Unasked)
    }

    /// For questions about the output of a run that the node has.
    pub(super) fn for_output(id: &'a OperationId) -> Self {
        Self::new(id, Run::Known)
    }

    fn new(id: &'a OperationId, run: Run) -> Self {
        Self {
            id,
            until: Instant::now() + AWAY,
            wait: AGAIN,
            run,
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The error of the last attempt, where another one would not help or the time is over.
    pub(super) async fn wait(&mut self, error: ClientError) -> Result<()> {
        let is_first = self.wait == AGAIN;
        // A node that is not there at the first attempt is a mistake; later it may be connecting again.
        let is_away = is_away(&error) && (self.run == Run::Known || !is_first);
        if self.run == Run::Unasked && may_have_arrived(&error) {
            self.run = Run::Possible;
        }
        if !(may_pass(&error) || is_away) || Instant::now() >= self.until {
            return Err(self.end(error));
        }
        if is_first {
            let error = anyhow::Error::from(error);
            say!(
                "underpass: {error:#}; asking for operation {} again",
                self.id
            );
        }
        sleep(self.wait).await;
        self.wait = (self.wait * 2).min(AGAIN_MOST);
        Ok(())
    }

    /// The error, and what is not known for it.
    fn end(&self, error: ClientError) -> anyhow::Error {
        let (id, error) = (self.id, anyhow::Error::from(error));
        match self.run {
            Run::Unasked => error,
            Run::Possible => error.context(format!(
                "it is not known whether operation {id} runs: `underpass node operations` shows it, and the same command with \
                 --id {id} asks again"
            )),
            Run::Known => error.context(format!(
                "operation {id} was not seen to its end: `underpass node operations` with --output shows the rest"
            )),
        }
    }
}

/// Is the node unknown to the server, as it is while its agent connects again?
fn is_away(error: &ClientError) -> bool {
    let about = error.problem().and_then(|problem| problem.about.as_ref());
    about.is_some_and(|about| about.kind == "node")
}

/// Is another attempt worth it? An agent's own refusal does not go away by itself.
fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(problem) => {
            let later = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ];
            problem.operation.is_none() && later.into_iter().any(|status| problem.is(status))
        }
        ClientError::Status(status) => status.is_server_error(),
        ClientError::NoServer(_)
        | ClientError::Socket(..)
        | ClientError::Connect(..)
        | ClientError::Exchange(_)
        | ClientError::Cut(_)
        | ClientError::TooSlow(_) => true,
        _ => false,
    }
}

/// May the node have taken the question, though it is not its own words that came back?
fn may_have_arrived(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(problem) => {
            let unclear = [
                StatusCode::INTERNAL_SERVER_ERROR,
                StatusCode::BAD_GATEWAY,
                StatusCode::GATEWAY_TIMEOUT,
            ];
            problem.operation.is_none() && unclear.into_iter().any(|status| problem.is(status))
        }
        ClientError::Status(status) => status.is_server_error(),
        ClientError::Exchange(_)
        | ClientError::Cut(_)
        | ClientError::Answer(_)
        | ClientError::TooSlow(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::net::UnixListener;
    use underpass_api::Client;

    use super::super::start;
    use crate::args::NodeRun;
    use crate::status::CommandStatus;

    /// Runs an operation at a server that gives these answers, one a request. Gives the end, and the ids that were asked for.
    async fn run(answers: &[(u16, Value)]) -> (anyhow::Result<()>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = Mutex::new(VecDeque::from(answers.to_vec()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            loop {
                let answer = service_fn(|request: Request<Incoming>| {
                    let next = answers.lock().unwrap().pop_front();
                    let (status, body) = next.unwrap_or((401, Value::Null));
                    let keep = Arc::clone(&keep);
                    async move {
                        let question = request.into_body().collect().await.unwrap().to_bytes();
                        if let Ok(question) = serde_json::from_slice::<Value>(&question) {
                            let id = question["id"].as_str().unwrap().to_owned();
                            keep.lock().unwrap().push(id);
                        }
                        let body = Full::new(Bytes::from(body.to_string()));
                        let answer = Response::builder().status(status).body(body).unwrap();
                        Ok::<_, Infallible>(answer)
                    }
                });
                let (stream, _) = listener.accept().await.unwrap();
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            }
        });
        let options = NodeRun {
            cluster: "edge".parse().unwrap(),
            node: "worker-1".to_owned(),
            operation: "a".to_owned(),
            arguments: vec![],
            id: None,
            detach: false,
        };
        let ended = start(&Client::at_socket(path), options).await;
        serving.abort();
        let asked = asked.lock().unwrap().clone();
        (ended, asked)
    }

    fn problem(status: u16, about: Value) -> (u16, Value) {
        let problem = json!({"type": "about:blank", "title": "t", "status": status, "detail": "d", "about": about});
        (status, problem)
    }

    fn page() -> Value {
        let record = json!({"id": "1", "operation": "a", "user": "u", "created": "2026-01-01T00:00:00Z",
            "state": "failed", "exit": {"status": 3}});
        json!({"record": record, "pieces": [], "next": 0, "isLast": true})
    }

    #[tokio::test]
    async fn a_run_whose_answer_was_lost_is_asked_for_until_the_node_is_back() {
        let away = json!({"kind": "node", "name": "worker-1"});
        for lost in [503, 504] {
            let (ended, asked) = run(&[
                problem(lost, Value::Null),
                problem(404, away.clone()),
                (200, page()["record"].clone()),
                (200, page()),
            ])
            .await;
            let status = ended.unwrap_err().downcast::<CommandStatus>().unwrap();
            assert_eq!(status, CommandStatus(3));
            assert_eq!(asked.len(), 3);
            assert!(asked.iter().all(|id| *id == asked[0]), "{asked:?}");
        }
        let (ended, asked) = run(&[problem(404, away)]).await;
        let error = format!("{:#}", ended.unwrap_err());
        assert!(!error.contains("not known"), "{error}");
        assert_eq!(asked.len(), 1);
    }

    #[tokio::test]
    async fn a_run_that_may_have_begun_is_not_said_to_have_not() {
        for answers in [
            &[problem(504, Value::Null), problem(403, Value::Null)][..],
            &[problem(500, Value::Null)],
            &[(200, json!({"a": "newer answer"}))],
        ] {
            let (ended, asked) = run(answers).await;
            let error = format!("{:#}", ended.unwrap_err());
            let id = &asked[0];
            assert!(
                error.contains(&format!("not known whether operation {id}")),
                "{error}"
            );
        }
        let (ended, asked) =
            run(&[(200, page()["record"].clone()), problem(401, Value::Null)]).await;
        let error = format!("{:#}", ended.unwrap_err());
        assert!(
            error.contains(&format!("{} was not seen to its end", asked[0])),
            "{error}"
        );
    }
}
