//! The owner of the connections: gives places on them, and dials.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::State;
use crate::{
    connection::{Connection, End, Place, jittered},
    error::{DialError, OpenError},
    limits,
    server::Server,
};

pub(super) enum Ask {
    Place(oneshot::Sender<Result<Place, OpenError>>),
    /// The connection takes no more streams.
    Retire(u64),
}

type Dialled = Result<(Connection, oneshot::Receiver<End>), DialError>;

/// One of the connections.
struct Kept {
    number: u64,
    connection: Connection,
    since: Instant,
}

struct Waiting {
    since: Instant,
    reply: oneshot::Sender<Result<Place, OpenError>>,
}

pub(super) struct Owner {
    server: Server,
    states: Box<dyn Fn(State) + Send>,
    connections: Vec<Kept>,
    ends: FuturesUnordered<BoxFuture<'static, (u64, End)>>,
    waiting: VecDeque<Waiting>,
    dialling: Option<BoxFuture<'static, Dialled>>,
    dialled: u64,
    /// Attempts that failed, or whose connection did not last, since the last that did.
    failures: u32,
    last: Option<Arc<DialError>>,
    /// A connection was lost, and there is to be one again.
    is_lost: bool,
    /// `states` has heard why there is none.
    is_away: bool,
}

impl Owner {
    pub(super) fn new(server: Server, states: Box<dyn Fn(State) + Send>) -> Self {
        Self {
            server,
            states,
            connections: Vec::new(),
            ends: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            dialling: None,
            dialled: 0,
            failures: 0,
            last: None,
            is_lost: false,
            is_away: false,
        }
    }

    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        loop {
            self.serve();
            let dialled = match &mut self.dialling {
                Some(dialling) => Either::Left(dialling),
                None => Either::Right(pending()),
            };
            let impatient = self
                .waiting
                .front()
                .map(|first| first.since + limits::PATIENCE);
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.asked(ask),
                    None => return,
                },
                dialled = dialled => self.dialled(dialled),
                Some((number, why)) = self.ends.next() => self.ended(number, why),
                () = at(impatient) => self.give_up(),
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Retire(number) => self.connections.retain(|kept| kept.number != number),
            Ask::Place(reply) if self.waiting.len() < limits::WAITING => {
                let since = Instant::now();
                self.waiting.push_back(Waiting { since, reply });
            }
            Ask::Place(reply) => {
                let _ = reply.send(Err(OpenError::NoRoom));
            }
        }
    }

    /// Gives places to those who wait, and dials where there are not enough.
    fn serve(&mut self) {
        self.waiting.retain(|waiting| !waiting.reply.is_closed());
        while !self.waiting.is_empty() {
            let mut places = self.connections.iter();
            let place = places.find_map(|kept| kept.connection.place(kept.number));
            let Some(place) = place else { break };
            if let Some(first) = self.waiting.pop_front() {
                // Its asker may be gone, and the place is free again.
                let _ = first.reply.send(Ok(place));
            }
        }
        let wanted = !self.waiting.is_empty() || (self.is_lost && self.connections.is_empty());
        if wanted && self.dialling.is_none() && self.connections.len() < limits::CONNECTIONS {
            let (server, wait) = (self.server.clone(), self.backoff());
            let dialling = async move {
                tokio::time::sleep(wait).await;
                Connection::dial(&server).await
            };
            self.dialling = Some(dialling.boxed());
        }
    }

    fn backoff(&self) -> Duration {
        let (first, most) = limits::BACKOFF;
        match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(before) => {
                let wait = first.saturating_mul(2_u32.saturating_pow(before));
                jittered(wait.min(most))
            }
        }
    }

    fn dialled(&mut self, dialled: Dialled) {
        self.dialling = None;
        match dialled {
            Ok((connection, end)) => {
                self.dialled += 1;
                let number = self.dialled;
                self.connections.push(Kept {
                    number,
                    connection,
                    since: Instant::now(),
                });
                // Its task was dropped with the runtime.
                let ended = end.map(move |end| (number, end.unwrap_or(End::Closed)));
                self.ends.push(ended.boxed());
                self.last = None;
                let was_away =
                    std::mem::take(&mut self.is_lost) | std::mem::take(&mut self.is_away);
                if was_away {
                    (self.states)(State::Connected);
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                self.failures = self.failures.saturating_add(1);
                self.last = Some(Arc::clone(&error));
                if !std::mem::replace(&mut self.is_away, true) {
                    (self.states)(State::Away(error));
                }
            }
        }
    }

    fn ended(&mut self, number: u64, end: End) {
        tracing::debug!(number, ?end, "a connection to the server ended");
        let at = self
            .connections
            .iter()
            .position(|kept| kept.number == number);
        let Some(kept) = at.map(|at| self.connections.swap_remove(at)) else {
            // It took no more streams, and its last one has ended.
            return;
        };
        // A server that takes connections and ends them at once is not asked in a loop.
        self.failures = match kept.since.elapsed() < limits::LASTING {
            true => self.failures.saturating_add(1),
            false => 0,
        };
        let idle = matches!(end, End::Closed) && !kept.connection.is_used();
        if self.connections.is_empty() && !idle {
            self.is_lost = true;
            (self.states)(State::Lost);
        }
    }

    /// Those who have waited for too long learn why.
    fn give_up(&mut self) {
        let Some(first) = self.waiting.pop_front() else {
            return;
        };
        let why = match &self.last {
            Some(error) => OpenError::Away(Arc::clone(error)),
            None => OpenError::NoRoom,
        };
        let _ = first.reply.send(Err(why));
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}
