//! The shells of a node: which there are, and how many there may be.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::task::TaskTracker;
use underpass_agent_policy::{Protection, ShellRule};

use crate::audience::{RecordedPlace, Recording};
use crate::base::Base;
use crate::error::{AttachError, OpenError, UnknownShell};
use crate::given::Given;
use crate::hold::{SharedStores, Stores};
use crate::protection::Lack;
use crate::record::{Cause, Owner, ShellId, ShellRecord};
use crate::recorder::Recorder;
use crate::shell::{Guarded, Shell, lock};
use crate::start::Order;
use crate::viewer::Viewer;
use crate::{Attach, Settings, Size, Terminal, life, limits, pty, start};

#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    stores: SharedStores,
    table: Mutex<Table>,
    redrawing: Arc<Mutex<()>>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<ShellId, Arc<Shell>>,
    /// In the order of their ends.
    ended: VecDeque<ShellId>,
    is_stopping: bool,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let stores = Stores {
            base: Base::new(settings.homes.clone()),
            groups: Default::default(),
        };
        Arc::new(Self {
            settings,
            stores: Arc::new(stores),
            table: Mutex::default(),
            redrawing: Arc::default(),
            tasks: TaskTracker::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    pub(crate) fn find(&self, id: &ShellId, owner: &Owner) -> Result<Arc<Shell>, UnknownShell> {
        let found = self.table().by_id.get(id).cloned();
        found
            .filter(|shell| shell.owner == *owner && !shell.is_hidden())
            .ok_or(UnknownShell)
    }

    /// A recorder of a shell, also of one that has ended with the permission for it: its last output is to be recorded as well.
    pub(crate) fn record(
        &self,
        id: &ShellId,
        owner: &Owner,
        had: RecordedPlace,
    ) -> Result<Recorder, UnknownShell> {
        let found = self.table().by_id.get(id).cloned();
        let shell = found.filter(|shell| shell.owner == *owner);
        Ok(Recorder::new(shell.ok_or(UnknownShell)?, had))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Shell>> {
        let table = self.table();
        let all = table.by_id.values().filter(|shell| !shell.is_hidden());
        all.cloned().collect()
    }

    pub(crate) async fn open(
        self: &Arc<Self>,
        rule: &Arc<ShellRule>,
        owner: Owner,
        terminal: Terminal,
        given: Given,
        recording: Option<Recording>,
    ) -> Result<ShellRecord, OpenError> {
        check_term(&terminal.term)?;
        given.check(rule.wants(Protection::Uid))?;
        let (master, slave) = pty::open(terminal.size).map_err(OpenError::NoTerminal)?;
        let shell = Shell::new(rule, owner, terminal.size, recording, master);
        self.enter(&shell)?;
        let shared = Arc::clone(self);
        let starting = self.tasks.spawn(async move {
            let order = Order {
                settings: &shared.settings,
                rule: &shell.rule,
                id: &shell.id,
                term: &terminal.term,
                given: &given,
                is_trial: false,
            };
            let started = start::start(order, &shared.stores, slave).await;
            match (started, shell.terminal()) {
                (Ok(mut process), Some(master)) => {
                    shell.note_guarded(Guarded {
                        uid: process.uid(),
                        lacks: std::mem::take(&mut process.lacks).into_all(),
                    });
                    if !given.notices.is_empty() {
                        shell.push(given.shown().as_bytes());
                    }
                    let record = shell.record();
                    let missing: Vec<_> = record.lacks.iter().map(Lack::to_string).collect();
                    tracing::info!(
                        target: "underpass::audit", id = %shell.id, kind = %shell.rule.kind(), user = shell.owner.user,
                        uid = record.uid, missing = missing.join(", "), "a shell begins"
                    );
                    let attending = Arc::clone(&shared);
                    shared.tasks.spawn(async move {
                        attending.attend(&shell, process, &master).await;
                    });
                    Ok(record)
                }
                (Ok(_), None) => Err(OpenError::Stopping),
                (Err(error), _) => {
                    shared.table().by_id.remove(&shell.id);
                    Err(error)
                }
            }
        });
        let started = starting.await;
        started.unwrap_or_else(|gone| Err(OpenError::Helper(io::Error::other(gone))))
    }

    /// Tries the protections of a rule's shells with a shell that has no program.
    pub(crate) async fn probe(
        self: &Arc<Self>,
        rule: &Arc<ShellRule>,
    ) -> Result<Vec<Lack>, OpenError> {
        // Its agent's side lives until the trial has ended.
        let (_master, slave) = pty::open(Size::fit(0, 0)).map_err(OpenError::NoTerminal)?;
        let (shared, rule) = (Arc::clone(self), Arc::clone(rule));
        let trying = self.tasks.spawn(async move {
            let order = Order {
                settings: &shared.settings,
                rule: &rule,
                id: &ShellId::random(),
                term: "dumb",
                given: &Given::default(),
                is_trial: true,
            };
            let mut process = start::start(order, &shared.stores, slave).await?;
            let lacks = std::mem::take(&mut process.lacks).into_all();
            process.finish().await;
            Ok(lacks)
        });
        let tried = trying.await;
        tried.unwrap_or_else(|gone| Err(OpenError::Helper(io::Error::other(gone))))
    }

    /// Takes a place for a new shell, where there is one.
    fn enter(&self, shell: &Arc<Shell>) -> Result<(), OpenError> {
        let mut table = self.table();
        if table.is_stopping {
            return Err(OpenError::Stopping);
        }
        let kind = shell.rule.kind();
        let (mut of_user, mut of_node) = (0_usize, 0_usize);
        for other in table.by_id.values() {
            if other.rule.kind() == kind && !other.has_ended() {
                of_node = of_node.saturating_add(1);
                of_user = of_user.saturating_add(usize::from(other.owner == shell.owner));
            }
        }
        if of_user >= shell.rule.per_user() {
            let most = shell.rule.per_user();
            return Err(OpenError::TooManyOfUser { kind, most });
        }
        if of_node >= shell.rule.per_node() {
            let most = shell.rule.per_node();
            return Err(OpenError::TooManyOfNode { kind, most });
        }
        table.by_id.insert(shell.id.clone(), Arc::clone(shell));
        Ok(())
    }

    async fn attend(
        self: &Arc<Self>,
        shell: &Arc<Shell>,
        process: start::Process,
        master: &pty::Master,
    ) {
        let end = life::attend(shell, process, master).await;
        shell.finish(end);
        let ShellRecord { id, output, .. } = shell.record();
        tracing::info!(
            target: "underpass::audit", %id, kind = %shell.rule.kind(), user = shell.owner.user, output,
            exit = ?end.exit, cause = %end.cause, "a shell ended"
        );
        if end.cause == Cause::Revoked && !shell.audience().is_unrecorded() {
            self.table().forget(&id);
            return;
        }
        self.table().note_end(shell);
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(limits::ENDED_AGE).await;
            if let Some(shared) = shared.upgrade() {
                shared.table().forget(&id);
            }
        });
    }

    pub(crate) async fn attach(
        self: &Arc<Self>,
        id: &ShellId,
        owner: &Owner,
        attach: Attach,
    ) -> Result<Viewer, AttachError> {
        let shell = self.find(id, owner)?;
        // One thread of each shell, however many viewers wait: a program can have its screen take seconds.
        let _turn = shell.turn.lock().await;
        let (admitting, redrawing) = (Arc::clone(&shell), Arc::clone(&self.redrawing));
        let admitted = tokio::task::spawn_blocking(move || {
            let admitted = admitting.admit(attach, &redrawing)?;
            // Here, so that a caller that has gone away leaves no viewer behind.
            Ok(Viewer::new(admitting, admitted))
        });
        admitted.await.unwrap_or(Err(AttachError::Stopping))
    }

    pub(crate) async fn stop(&self) {
        let all = {
            let mut table = self.table();
            table.is_stopping = true;
            table.by_id.values().cloned().collect::<Vec<_>>()
        };
        all.iter().for_each(|shell| shell.ask_end(Cause::Stopping));
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Table {
    /// A shell has ended: the oldest of those that have make room for it.
    fn note_end(&mut self, shell: &Shell) {
        self.ended.push_back(shell.id.clone());
        let of_user = |table: &Self, id: &ShellId| {
            let found = table.by_id.get(id);
            found.is_some_and(|other| other.owner == shell.owner)
        };
        let own: Vec<_> = self
            .ended
            .iter()
            .filter(|id| of_user(self, id))
            .cloned()
            .collect();
        let surplus = own.len().saturating_sub(limits::ENDED_OF_USER);
        own.iter().take(surplus).for_each(|id| self.forget(id));
        while self.ended.len() > limits::ENDED {
            if let Some(oldest) = self.ended.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, id: &ShellId) {
        self.ended.retain(|other| other != id);
        self.by_id.remove(id);
    }
}

fn check_term(term: &str) -> Result<(), OpenError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'_' | b'.');
    let short = (1..=limits::TERM_BYTES).contains(&term.len());
    match short && term.bytes().all(legal) {
        true => Ok(()),
        false => Err(OpenError::Term),
    }
}
