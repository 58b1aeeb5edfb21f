//! A node's shells, and viewers that collect what they see.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use underpass_agent_policy::{Policy, Protection, ShellKind, ShellRule};
use underpass_agent_shell::{
    Attach, End, Event, Helper, Input, OpenError, Owner, Settings, ShellId, ShellRecord, Shells,
    Size, Terminal, Viewer, Writes,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A viewer that has had nothing, of a shell that has not written more than is kept.
pub(crate) const FROM_THE_START: Attach = Attach {
    writes: Writes::WhereNoneDoes,
    size: None,
    had: Some(0),
};

pub(crate) struct World {
    pub(crate) shells: Shells,
    /// The homes of its shells.
    pub(crate) folder: TempDir,
}

pub(crate) fn helper() -> Helper {
    Helper::new(env!("CARGO_BIN_EXE_underpass-shell-helper"), [""; 0])
}

pub(crate) fn owner(user: &str) -> Owner {
    Owner {
        user: user.to_owned(),
        uid: None,
    }
}

pub(crate) fn alice() -> Owner {
    owner("alice")
}

/// A rule with these fields, under which every protection may be missing.
pub(crate) fn rule(fields: &str) -> Arc<ShellRule> {
    kind(ShellKind::Kubectl, fields)
}

/// The same, of either kind. A shell of the kind `node` has the files of the node.
pub(crate) fn kind(kind: ShellKind, fields: &str) -> Arc<ShellRule> {
    let missing = Protection::ALL.map(Protection::name).join(", ");
    parse(
        kind,
        &format!("{kind}: {{{fields}, mayBeMissing: [{missing}]}}"),
    )
}

/// A rule of a policy's section.
pub(crate) fn parse(kind: ShellKind, section: &str) -> Arc<ShellRule> {
    let yaml = format!("shells: {{{section}}}");
    let policy = Policy::from_yaml(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    policy.decide_shell(kind, "alice", &[]).unwrap()
}

/// A rule whose program is a script, with these fields beside.
pub(crate) fn script(script: &str, fields: &str) -> Arc<ShellRule> {
    rule(&scripted(script, fields))
}

/// The fields of such a rule.
pub(crate) fn scripted(script: &str, fields: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!("program: /bin/sh, arguments: [-c, {script}]{fields}")
}

pub(crate) fn terminal() -> Terminal {
    Terminal {
        size: Size::fit(80, 24),
        term: "xterm-256color".to_owned(),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(helper(), |settings| settings)
    }

    pub(crate) fn with(helper: Helper, set: impl FnOnce(Settings) -> Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Shells' users pass through it.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o711)).unwrap();
        let settings = Settings::new(helper).homes(folder.path().join("homes"));
        Self {
            shells: Shells::with(set(settings)),
            folder,
        }
    }

    pub(crate) async fn try_open(&self, rule: &Arc<ShellRule>) -> Result<ShellRecord, OpenError> {
        self.shells.open(rule, alice(), terminal()).await
    }

    /// Opens a shell of Alice's.
    pub(crate) async fn open(&self, rule: &Arc<ShellRule>) -> ShellId {
        self.try_open(rule).await.unwrap().id
    }

    pub(crate) async fn attach(&self, id: &ShellId, attach: Attach) -> Seen {
        let attached = self.shells.attach(id, &alice(), attach).await;
        Seen::new(attached.unwrap())
    }

    /// Opens one with a viewer that sees its output from the first byte on.
    pub(crate) async fn run(&self, rule: &Arc<ShellRule>) -> Seen {
        let id = self.open(rule).await;
        self.attach(&id, FROM_THE_START).await
    }

    pub(crate) fn record(&self, id: &ShellId) -> ShellRecord {
        self.shells.read(id, &alice()).unwrap()
    }
}

/// A viewer, and its output so far. The place of each byte is checked.
pub(crate) struct Seen {
    pub(crate) viewer: Viewer,
    pub(crate) redraw: Option<Vec<u8>>,
    pub(crate) output: Vec<u8>,
    next: u64,
}

impl Seen {
    fn new(viewer: Viewer) -> Self {
        Self {
            viewer,
            redraw: None,
            output: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn id(&self) -> ShellId {
        self.viewer.shell().clone()
    }

    pub(crate) fn input(&self) -> Input {
        self.viewer.input()
    }

    pub(crate) async fn type_in(&self, text: &str) {
        let written = timeout(DEADLINE, self.input().write_all(text.as_bytes())).await;
        written.expect("no room for input").unwrap();
    }

    /// The next event, which is noted where it is output. Without a deadline, for clocks that jump.
    pub(crate) async fn hear(&mut self) -> Option<Event> {
        let event = self.viewer.next().await;
        match &event {
            Some(Event::Attached { at, redraw, .. }) => {
                self.next = *at;
                self.redraw = redraw.clone();
            }
            Some(Event::Output { at, data }) => {
                assert_eq!(*at, self.next, "output is lost, or comes twice");
                self.next += u64::try_from(data.len()).unwrap();
                self.output.extend(data);
            }
            _ => {}
        }
        event
    }

    pub(crate) async fn event(&mut self) -> Option<Event> {
        let heard = timeout(DEADLINE, self.hear()).await;
        heard.unwrap_or_else(|_| panic!("nothing behind {:?}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Waits for some text of the output, and gives all of the output, which it forgets.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        while !self.text().contains(text) {
            match self.event().await {
                Some(Event::Ended(end)) => panic!("{end:?} behind {:?}", self.text()),
                Some(_) => {}
                None => panic!("no {text:?} in {:?}", self.text()),
            }
        }
        let all = self.text();
        self.output.clear();
        all
    }

    /// The number of the next byte.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) async fn end(&mut self) -> End {
        loop {
            if let Some(Event::Ended(end)) = self.event().await {
                assert_eq!(self.event().await, None);
                return end;
            }
        }
    }
}

/// Whether a process lives: a zombie does not.
pub(crate) fn lives(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
}

/// Waits for something that no event tells of.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("not yet: {what}"));
}

impl World {
    /// The number of a shell's process on the node, from the one that it has for itself.
    pub(crate) fn outside(&self, id: &ShellId, inside: &str) -> String {
        let mark = format!("UNDERPASS_SHELL_ID={id}");
        let fits = |pid: &String| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let number = numbers.and_then(|numbers| numbers.split_whitespace().next_back());
            variables.any(|own| own == mark.as_bytes()) && number == Some(inside)
        };
        let all = processes().into_iter().find(fits);
        all.unwrap_or_else(|| panic!("no process {inside} of the shell {id}"))
    }
}

/// The numbers of all processes.
pub(crate) fn processes() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let names = entries.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    names.filter(|name| name.parse::<u32>().is_ok()).collect()
}
