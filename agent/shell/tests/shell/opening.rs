//! Which shells are opened, and what their programs have.

use underpass_agent_policy::ShellKind;
use underpass_agent_shell::{Attach, AttachError, Exit, Helper, OpenError, ShellId, UnknownShell};

use crate::world::{World, alice, eventually, kind, owner, rule, scripted, terminal};

#[tokio::test]
async fn rule_17_a_shell_has_nothing_of_the_agents() {
    let world = World::new();
    // Of this process, and let through by it as by one that starts the agent so.
    let held = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    let shows = scripted(
        "ls -C -w 0 /proc/self/fd; env | sort; pwd",
        ", directory: /usr, environment: {pass: [CARGO_PKG_NAME], set: {B: '2', TERM: no}}",
    );
    for shell in ShellKind::ALL {
        let mut seen = world.run(&kind(shell, &shows)).await;
        let id = seen.id();
        assert_eq!(seen.end().await.exit, Exit::Status(0));
        let text = seen.text();
        let mut lines = text.lines();
        // `ls` has the folder open.
        let open = lines.next().unwrap_or_default().split_whitespace();
        assert!(open.eq(["0", "1", "2", "3"]), "{text}");
        let mut rest: Vec<_> = lines.map(str::to_owned).collect();
        let home = rest.remove(2);
        match shell {
            ShellKind::Node => assert_eq!(home, "HOME=/usr"),
            _ => {
                let base = world.folder.path().join("homes");
                assert!(
                    home.starts_with(&format!("HOME={}/", base.display())),
                    "{home}"
                );
                assert!(home.ends_with(&format!("/{id}")), "{home}");
            }
        }
        let expected = [
            "B=2".to_owned(),
            "CARGO_PKG_NAME=underpass-agent-shell".to_owned(),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "PWD=/usr".to_owned(),
            "SHELL=/bin/sh".to_owned(),
            "TERM=xterm-256color".to_owned(),
            format!("UNDERPASS_SHELL_ID={id}"),
            "/usr".to_owned(),
        ];
        assert_eq!(rest, expected, "{text}");
    }
}

#[tokio::test]
async fn a_shell_that_cannot_start_says_why_and_takes_no_place() {
    let world = World::new();
    let one = |fields: &str| rule(&format!("{fields}, perUser: 1"));
    for (fields, says) in [
        (
            "program: /no/program",
            "the program /no/program of the shell cannot be run on this node: No such file",
        ),
        (
            "program: /etc/passwd",
            "/etc/passwd of the shell cannot be run on this node: Permission denied",
        ),
        (
            "program: /bin/sh, directory: /no/folder",
            "the directory /no/folder of the shell cannot be entered",
        ),
    ] {
        let error = world.try_open(&one(fields)).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for term in ["", "a b", "x\ny", &"x".repeat(65)] {
        let terminal = underpass_agent_shell::Terminal {
            term: term.to_owned(),
            ..terminal()
        };
        let refused = world
            .shells
            .open(&one("program: /bin/true"), alice(), terminal)
            .await;
        assert!(matches!(refused, Err(OpenError::Term)), "{term:?}");
    }
    assert_eq!(world.shells.list(|_| true), []);
    world.open(&one("program: /bin/cat")).await;
}

#[tokio::test]
async fn a_helper_that_is_none_is_an_error() {
    for (program, arguments) in [
        ("/bin/sh", &["-c", "echo usage >&2; exit 2"][..]),
        ("/no/helper", &[]),
    ] {
        let World {
            shells,
            folder: _folder,
        } = World::with(Helper::new(program, arguments), |settings| settings);
        let opened = shells
            .open(&rule("program: /bin/true"), alice(), terminal())
            .await;
        assert!(matches!(opened, Err(OpenError::Helper(_))), "{opened:?}");
        assert_eq!(shells.list(|_| true), []);
    }
}

#[tokio::test]
async fn rule_19_a_user_and_a_node_have_as_many_shells_as_the_policy_says() {
    let world = World::new();
    let cat = rule("program: /bin/cat, perUser: 2, perNode: 3");
    let open = async |user: &str| world.shells.open(&cat, owner(user), terminal()).await;
    let first = open("alice").await.unwrap();
    open("alice").await.unwrap();
    let refused = open("alice").await;
    assert!(
        matches!(refused, Err(OpenError::TooManyOfUser { most: 2, .. })),
        "{refused:?}"
    );
    open("bob").await.unwrap();
    let refused = open("bob").await;
    assert!(
        matches!(refused, Err(OpenError::TooManyOfNode { most: 3, .. })),
        "{refused:?}"
    );
    world.shells.end(&first.id, &alice()).unwrap();
    eventually("it has ended", || world.record(&first.id).end.is_some()).await;
    open("bob").await.unwrap();
    assert_eq!(
        world
            .shells
            .list(|record| record.owner == owner("bob"))
            .len(),
        2
    );
}

#[tokio::test]
async fn rule_8_another_users_shell_is_one_that_there_is_not() {
    let world = World::new();
    let theirs = world.open(&rule("program: /bin/cat")).await;
    let unknown: ShellId = "0".repeat(32).parse().unwrap();
    let mallory = owner("mallory");
    let namesake = underpass_agent_shell::Owner {
        uid: Some("7".to_owned()),
        ..alice()
    };
    for (id, owner) in [
        (&theirs, &mallory),
        (&theirs, &namesake),
        (&unknown, &alice()),
    ] {
        assert_eq!(world.shells.read(id, owner), Err(UnknownShell));
        assert_eq!(world.shells.end(id, owner), Err(UnknownShell));
        let attached = world.shells.attach(id, owner, Attach::default()).await;
        assert_eq!(attached.unwrap_err(), AttachError::Unknown(UnknownShell));
    }
    assert_eq!(world.record(&theirs).end, None);
    for garbage in ["", "..", &"0".repeat(31), &"A".repeat(32), &"0/".repeat(16)] {
        garbage.parse::<ShellId>().unwrap_err();
    }
}
