//! The protections of shells, as attacks from within.
//!
//! Root's privileges, with `CAP_SYS_ADMIN`, are needed for most of them: where this process has none, the tests hold that each is said to be
//! missing, and that no shell is opened without it. The kernel's cgroup v2 hierarchy may lack controllers, of which the same is true.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use underpass_agent_policy::{Protection, ShellKind, ShellRule};
use underpass_agent_shell::{
    Cause, Exit, Given, HomeFile, Lack, OpenError, Settings, Shells, limits,
};

use crate::world::{
    World, alice, eventually, helper, kind, lives, parse, processes, rule, script, scripted,
    terminal,
};

/// Whether the system gives a protection, by its own words.
async fn gives(world: &World, protection: Protection) -> bool {
    let lacks = world.shells.probe(&rule("program: /bin/true")).await;
    let lacks = lacks.unwrap();
    let given = lacks.iter().all(|lack| lack.protection != protection);
    let is_root = rustix::process::geteuid().is_root();
    // Two need no privilege, and root has those for all others: only the cgroup is the system's own affair.
    match protection {
        Protection::Cgroup => {}
        Protection::NoNewPrivileges | Protection::ResourceLimits => assert!(given, "{lacks:?}"),
        _ => assert_eq!(given, is_root, "{lacks:?}"),
    }
    given
}

/// A rule whose shells may lack these alone.
fn strict(fields: &str, may_be_missing: &[Protection]) -> Arc<ShellRule> {
    let names: Vec<_> = may_be_missing.iter().map(|own| own.name()).collect();
    let missing = match names.is_empty() {
        true => String::new(),
        false => format!(", mayBeMissing: [{}]", names.join(", ")),
    };
    parse(
        ShellKind::Kubectl,
        &format!("kubectl: {{{fields}{missing}}}"),
    )
}

/// Runs a test of this program once more, as a process that setpriv(1) takes privileges from.
async fn again(test: &str, takes: &[&str]) {
    let own = std::env::current_exe().unwrap();
    let mut command = tokio::process::Command::new("/usr/bin/setpriv");
    command.args(takes).arg(own).args(["--exact", test]);
    let output = command.env("TAKEN", takes.join(" ")).output().await;
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{takes:?}: {text}"
    );
}

#[tokio::test]
async fn rule_17_a_shell_without_a_protection_that_the_policy_asks_for_is_not_opened() {
    let taken = std::env::var_os("TAKEN");
    let world = World::new();
    let lacks = world.shells.probe(&rule("program: /bin/true")).await;
    let lacks = lacks.unwrap();
    let missing: Vec<_> = lacks.iter().map(|lack| lack.protection).collect();
    if taken.is_some() || !rustix::process::geteuid().is_root() {
        // The kernel's own words, where it has any.
        for name in [
            Protection::Uid,
            Protection::PidNamespace,
            Protection::MountNamespace,
            Protection::IpcNamespace,
        ] {
            let lack = lacks.iter().find(|lack| lack.protection == name);
            let why = &lack.unwrap_or_else(|| panic!("{name}: {lacks:?}")).why;
            assert!(
                why.contains("not permitted") || why.contains("not run as root"),
                "{why}"
            );
        }
    } else {
        assert!(
            missing.iter().all(|own| *own == Protection::Cgroup),
            "{lacks:?}"
        );
    }
    let file = world.folder.path().join("touched");
    let set = format!(", environment: {{set: {{F: {file:?}}}}}");
    let touch = scripted("touch $F", &set);
    // One at a time is required, and all of them.
    for required in missing
        .iter()
        .map(|one| vec![*one])
        .chain([missing.clone()])
    {
        let others = Protection::ALL.into_iter();
        let others: Vec<_> = others.filter(|own| !required.contains(own)).collect();
        match world.try_open(&strict(&touch, &others)).await {
            Err(OpenError::Unprotected { missing, .. }) => {
                assert!(
                    missing.iter().map(|lack| lack.protection).eq(required),
                    "{missing:?}"
                );
                assert!(
                    missing.iter().all(|lack| lacks.contains(lack)),
                    "{missing:?}"
                );
            }
            Ok(_) if required.is_empty() => {}
            other => panic!("without {required:?}: {other:?}"),
        }
    }
    assert!(!file.exists());
    // Where it may be missing, the record says that it is.
    let record = world
        .try_open(&strict("program: /bin/true", &missing))
        .await;
    let record = record.unwrap();
    assert_eq!((record.missing, record.lacks), (missing, lacks));
    if taken.is_none() && rustix::process::geteuid().is_root() {
        const TEST: &str =
            "guard::rule_17_a_shell_without_a_protection_that_the_policy_asks_for_is_not_opened";
        // Root of a container, and an ordinary user.
        again(TEST, &["--bounding-set=-all", "--inh-caps=-all"]).await;
        again(TEST, &["--reuid=65534", "--regid=65534", "--clear-groups"]).await;
    }
}

#[tokio::test]
async fn a_shell_of_the_node_is_the_agents_own_user_with_all_of_its_files() {
    let world = World::new();
    let node = kind(
        ShellKind::Node,
        &scripted("id -u; echo $PPID; touch $F", ""),
    );
    let lacks = world.shells.probe(&node).await.unwrap();
    assert!(
        lacks
            .iter()
            .all(|lack| lack.protection == Protection::Cgroup),
        "{lacks:?}"
    );
    let mut seen = world.run(&node).await;
    assert_eq!(world.record(&seen.id()).uid, None);
    seen.end().await;
    let own = [rustix::process::getuid().as_raw(), std::process::id()];
    let own = own.map(|number| number.to_string());
    assert!(seen.text().lines().take(2).eq(own), "{}", seen.text());
}

#[tokio::test]
async fn rule_17_the_agents_files_and_its_environment_are_not_to_be_read() {
    let secrets = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Readable by all, so that the mount namespace alone keeps them.
    fs::create_dir(secrets.path().join("folder")).unwrap();
    for file in ["token", "folder/key"] {
        fs::write(secrets.path().join(file), "s3cret").unwrap();
    }
    let hidden = ["token", "folder", "missing"].map(|name| secrets.path().join(name));
    let world = World::with(helper(), |settings| settings.hide(hidden));
    if !gives(&world, Protection::MountNamespace).await {
        return;
    }
    // One that is for root alone, and not hidden.
    let private = secrets.path().join("private");
    fs::write(&private, "s3cret").unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    let attacks = "cat $D/token $D/folder/key $D/private; ls -la $D/folder; cat /proc/$AGENT/environ /proc/$AGENT/cmdline; \
                   cat /proc/1/environ /proc/1/root/etc/hostname; ls /proc/1/fd; echo x >$D/token; umount $D/token; \
                   unshare -Urm sh -c 'umount $D/token; umount $D/folder; cat $D/token $D/folder/key'; \
                   for p in /proc/[0-9]*; do cat $p/environ; done | tr '\\0' '\\n' | grep -a CARGO; \
                   kill -9 $AGENT && echo killed; kill -9 1 && echo init; echo over";
    let set = format!(
        ", environment: {{set: {{D: {:?}, AGENT: '{}'}}}}",
        secrets.path(),
        std::process::id()
    );
    let mut seen = world.run(&script(attacks, &set)).await;
    assert_eq!(seen.end().await.exit, Exit::Status(0));
    let text = seen.text();
    for word in ["s3cret", "CARGO", "killed", "init\r"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    assert!(
        text.contains("over") && text.contains("Permission denied"),
        "{text}"
    );
    assert_eq!(
        fs::read_to_string(secrets.path().join("token")).unwrap(),
        "s3cret"
    );
}

#[tokio::test]
async fn rule_17_a_shell_sees_no_other_shell() {
    let world = World::new();
    if !gives(&world, Protection::Uid).await {
        return;
    }
    let mut theirs = world
        .run(&script(
            "umask 0; chmod 755 $HOME; for f in $HOME/file /tmp/file /var/tmp/file /dev/shm/file; do echo s3cret >$f; done; \
             echo $HOME; exec sleep 1000",
            "",
        ))
        .await;
    let home = theirs.until("\n").await.trim().to_owned();
    let id = theirs.id();
    let pid = world.outside(&id, "2");
    let attacks = "ls -la $H/..; cat $H/file /tmp/file /var/tmp/file /dev/shm/file; ps -e -o pid=,args=; kill -9 $P; ls /dev/pts; for t in /dev/pts/[0-9]*; do [ $t = $(tty) ] || cat $t; done; ipcs -q; ls /dev/shm; echo over";
    let set = format!(", environment: {{set: {{H: {home:?}, P: '{pid}'}}}}");
    let mut seen = world.run(&script(attacks, &set)).await;
    assert_eq!(seen.end().await.exit, Exit::Status(0));
    let text = seen.text();
    assert!(
        !text.contains("s3cret") && !text.contains("sleep 1000"),
        "{text}"
    );
    assert!(text.contains("over"), "{text}");
    assert!(lives(&pid));
    let [one, other] = [&id, &seen.id()].map(|id| world.record(id).uid.unwrap());
    assert_ne!(one, other);
    // The same where all that there is against it is the uid: a process of the other one, on the node.
    let attack = std::process::Command::new("/usr/bin/setpriv")
        .args(["--reuid", &other.to_string(), "--regid", &other.to_string(), "--clear-groups", "sh", "-c"])
        .arg(format!("cat /proc/{pid}/environ; ls /proc/{pid}/root/; kill -9 {pid}; cat /proc/{pid}/mem; : >/dev/pts/0; ls {home}"))
        .output()
        .unwrap();
    let (out, errors) = (
        String::from_utf8_lossy(&attack.stdout),
        String::from_utf8_lossy(&attack.stderr),
    );
    assert_eq!(out, "", "{errors}");
    assert!(lives(&pid), "{errors}");
}

#[tokio::test]
async fn rule_17_a_shell_has_no_privilege_and_gets_none() {
    let world = World::new();
    if !gives(&world, Protection::Capabilities).await {
        return;
    }
    // The test's own set-uid program, in a place that the shell sees.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let shows = "$F -u; $F -G; grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status; umask; ulimit -c; ulimit -n; grep -o 'Max processes *[0-9]*' /proc/self/limits; \
                 cat /proc/self/oom_score_adj; touch /etc/x /usr/x /x /run/x; echo 1 >/proc/sys/kernel/hostname; mount -t tmpfs x /tmp; \
                 chown 0 $HOME; echo over";
    let set = format!(", processes: 99, environment: {{set: {{F: {program:?}}}}}");
    let mut seen = world.run(&script(shows, &set)).await;
    seen.end().await;
    let uid = world.record(&seen.id()).uid.unwrap();
    let text = seen.text().replace('\r', "");
    let none = "0000000000000000";
    let expected = format!(
        "{uid}\n{uid}\nGroups:\t \nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\n\
         NoNewPrivs:\t1\n0077\n0\n1024\nMax processes             99\n{}\n",
        limits::VICTIM
    );
    assert!(text.starts_with(&expected), "{text}\nis not\n{expected}");
    // Each of the six, and the last words.
    assert!(
        text.matches("Read-only").count() + text.matches("ermi").count() >= 6,
        "{text}"
    );
    assert!(text.ends_with("over\n"), "{text}");
}

#[tokio::test]
async fn a_shell_has_a_home_of_its_own_that_goes_with_it() {
    let world = World::new();
    let writes = "pwd; stat -c '%a %u %n' . kubeconfig; cat $KUBECONFIG; echo $A; echo more >file; mkdir -p a/b; ls; read -r _";
    let given = Given {
        environment: [("A".to_owned(), "its own".to_owned())].into(),
        files: vec![HomeFile {
            name: "kubeconfig".to_owned(),
            variable: Some("KUBECONFIG".to_owned()),
            content: b"of Alice's\n".to_vec(),
        }],
        ..Given::default()
    };
    let writes = script(writes, "");
    let opened = world
        .shells
        .open_with(&writes, alice(), terminal(), given.clone());
    let record = opened.await.unwrap();
    let mut seen = world.attach(&record.id, crate::world::FROM_THE_START).await;
    let text = seen.until("kubeconfig\r\n").await + &seen.until("kubeconfig\r\n").await;
    let uid = record
        .uid
        .unwrap_or_else(|| rustix::process::getuid().as_raw());
    let home = text.lines().next().unwrap().to_owned();
    assert!(home.ends_with(record.id.as_str()), "{text}");
    let shown = format!(
        "700 {uid} .\r\n600 {uid} kubeconfig\r\nof Alice's\r\nits own\r\na  file  kubeconfig"
    );
    assert!(text.contains(&shown), "{text}");
    // Other users of the node see nothing of it.
    let about = fs::metadata(&home).unwrap();
    assert_eq!(about.permissions().mode() & 0o7777, 0o700);
    seen.type_in("\n").await;
    seen.end().await;
    assert!(!std::path::Path::new(&home).exists());
    let node = kind(ShellKind::Node, "program: /bin/true");
    let refused = world
        .shells
        .open_with(&node, alice(), terminal(), given)
        .await;
    assert!(matches!(refused, Err(OpenError::Given(_))), "{refused:?}");
}

#[tokio::test]
async fn rule_19_shells_have_as_many_uids_as_the_policy_names_and_each_for_itself() {
    let world = World::new();
    if !gives(&world, Protection::Uid).await {
        return;
    }
    let missing = Protection::ALL.map(Protection::name).join(", ");
    let few = parse(
        ShellKind::Kubectl,
        &format!(
            "uids: 2000200000-2000200001, kubectl: {{program: /bin/cat, mayBeMissing: [{missing}]}}"
        ),
    );
    let [one, other] = [world.open(&few).await, world.open(&few).await];
    let uids = [&one, &other].map(|id| world.record(id).uid.unwrap());
    assert_ne!(uids[0], uids[1]);
    // A uid is no protection that may be missing because all are taken.
    let refused = world.try_open(&few).await.unwrap_err();
    assert!(matches!(refused, OpenError::NoUid { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("2000200000-2000200001"),
        "{refused}"
    );
    // Another agent's shells get none of them either.
    let second = Shells::with(Settings::new(helper()).homes(world.folder.path().join("homes")));
    let refused = second.open(&few, alice(), terminal()).await;
    assert!(
        matches!(refused, Err(OpenError::NoUid { .. })),
        "{refused:?}"
    );
    world.shells.end(&one, &alice()).unwrap();
    eventually("it has ended", || world.record(&one).end.is_some()).await;
    // A process that is left has it still.
    let mut left = std::process::Command::new("/usr/bin/setpriv")
        .args([
            "--reuid",
            &uids[0].to_string(),
            "--clear-groups",
            "--regid",
            "2000200009",
            "sleep",
            "1000",
        ])
        .spawn()
        .unwrap();
    let pid = left.id().to_string();
    let is_theirs = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("Uid:\t{}\t", uids[0]))
    };
    eventually("it is a process of the uid's", is_theirs).await;
    let refused = world.try_open(&few).await;
    left.kill().unwrap();
    left.wait().unwrap();
    assert!(
        matches!(refused, Err(OpenError::NoUid { .. })),
        "{refused:?}"
    );
    let third = world.open(&few).await;
    assert_eq!(world.record(&third).uid, Some(uids[0]));
}

#[tokio::test]
async fn rule_19_processes_and_memory_of_a_shell_are_bounded() {
    let world = World::new();
    if !gives(&world, Protection::Uid).await {
        return;
    }
    // Children that nothing reaps until their parent ends, and then the memory of a server.
    let forks =
        "perl -e 'for (1..200) { my $p = fork; sleep 1000 if defined $p && $p == 0 } <STDIN>'";
    let mut seen = world.run(&script(forks, ", processes: 24")).await;
    let uid = world.record(&seen.id()).uid.unwrap();
    let of_uid = || {
        let all = processes().into_iter();
        let own = all.filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&format!("Uid:\t{uid}\t"))
        });
        own.count()
    };
    eventually("it has what it may have", || of_uid() >= 23).await;
    assert!(of_uid() <= 24, "{}", of_uid());
    world.shells.revoke(|record| record.id == seen.id());
    assert_eq!(seen.end().await.cause, Cause::Revoked);
    assert_eq!(of_uid(), 0);
    let takes = "perl -e '$x = \"a\" x (10 * 1024 * 1024 * 1024); print length($x)' 2>&1; echo $?; \
                 head -c 100000000 /dev/zero >$HOME/file; stat -c %s file; dd if=/dev/zero of=/tmp/file bs=1M count=60; echo over";
    let mut seen = world.run(&script(takes, ", memory: 64Mi")).await;
    seen.end().await;
    let text = seen.text();
    assert!(
        text.contains("Out of memory") && !text.contains("10737418240"),
        "{text}"
    );
    assert!(
        text.contains("too large") || text.contains("No space left"),
        "{text}"
    );
    assert!(text.contains("over"), "{text}");
}

#[tokio::test]
async fn rule_12_a_program_that_hides_from_its_end_ends() {
    let world = World::new();
    // Two forks, another session, no environment, and no signal that it hears.
    let hides = "trap '' HUP TERM INT; (setsid sh -c '(env -i setsid sh -c \"trap \\\"\\\" HUP TERM; sleep 1234567 & wait\" </dev/null >/dev/null 2>&1 &)' &); \
                 sleep 0.2; echo ready; exit 7";
    for shell in ShellKind::ALL {
        let has_group = match shell {
            ShellKind::Node => {
                let lacks = world.shells.probe(&kind(shell, "program: /bin/true")).await;
                // Bounds may be missing: the group alone matters here.
                let lacks: Vec<Lack> = lacks.unwrap();
                !lacks
                    .iter()
                    .any(|lack| lack.why.contains("mounted") || lack.why.contains("below"))
            }
            _ => gives(&world, Protection::PidNamespace).await,
        };
        let mut seen = world.run(&kind(shell, &scripted(hides, ""))).await;
        seen.until("ready").await;
        assert_eq!(seen.end().await.exit, Exit::Status(7));
        let hidden = processes().into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.ends_with(b"sleep\x001234567\0") && lives(pid)
        });
        assert!(hidden.is_none() || !has_group, "{shell}: {hidden:?} lives");
    }
}

#[tokio::test]
async fn zombies_are_reaped_and_statuses_passed_on() {
    let world = World::new();
    // Children whose parents end before them, and one that is killed.
    let orphans = "i=0; while [ $i -lt 20 ]; do (sh -c 'sleep 0.05 & exit' &); i=$((i+1)); done; \
                   while ps -e -o comm= | grep -q sleep; do :; done; \
                   ps -e -o stat= | grep -c '^Z'; sh -c 'kill -USR1 $$'; echo $?; kill -SEGV $$";
    let mut seen = world.run(&script(orphans, "")).await;
    assert_eq!(seen.end().await.exit, Exit::Signal(11));
    let text = seen.text();
    assert!(
        text.starts_with("0\r\n") && text.ends_with("138\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn jobs_are_stopped_and_go_on() {
    let world = World::new();
    let bash = rule(
        "program: /bin/bash, arguments: [--norc, --noprofile, -i], environment: {set: {PS1: '> '}}",
    );
    let mut seen = world.run(&bash).await;
    seen.until("> ").await;
    seen.type_in("sleep 1000\n").await;
    let id = seen.id();
    let sleeps = || {
        let mut all = processes().into_iter();
        all.any(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            line == b"sleep\x001000\0"
                && String::from_utf8_lossy(&environment).contains(id.as_str())
        })
    };
    eventually("it sleeps", sleeps).await;
    seen.type_in("\x1a").await;
    seen.until("Stopped").await;
    seen.type_in("jobs; fg\n").await;
    seen.until("sleep 1000\r\nsleep 1000").await;
    seen.type_in("\x03").await;
    seen.type_in("echo $?; exit 3\n").await;
    seen.until("130\r\n").await;
    assert_eq!(seen.end().await.exit, Exit::Status(3));
}

/// As an agent that is started by nohup(1) ignores SIGHUP.
#[tokio::test]
async fn rule_17_signals_that_the_agent_ignores_have_their_usual_effect() {
    const TEST: &str = "guard::rule_17_signals_that_the_agent_ignores_have_their_usual_effect";
    if std::env::var_os("IGNORES").is_none() {
        let own = std::env::current_exe().unwrap();
        let mut command = tokio::process::Command::new("/bin/sh");
        command.args([
            "-c",
            "trap '' HUP INT QUIT USR1 TSTP PIPE; exec \"$@\"",
            "sh",
        ]);
        command.arg(own).args(["--exact", TEST]).env("IGNORES", "1");
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
        return;
    }
    let world = World::new();
    let ignored = fs::read_to_string("/proc/self/status").unwrap();
    assert!(!ignored.contains("SigIgn:\t0000000000000000"), "{ignored}");
    for shell in ShellKind::ALL {
        let shows = kind(
            shell,
            "program: /bin/grep, arguments: [-E, 'Sig(Ign|Blk)', /proc/self/status]",
        );
        let mut seen = world.run(&shows).await;
        seen.end().await;
        let text = seen.text();
        let masks = text.lines().filter_map(|line| line.split_once(':'));
        let masks = masks.map(|(_, mask)| u64::from_str_radix(mask.trim(), 16).unwrap());
        // The two that are the C library's own stay as they came.
        assert!(
            masks.map(|mask| mask & !0x1_8000_0000).eq([0, 0]),
            "{shell}: {text}"
        );
    }
}

/// The agent of [`rule_12_shells_of_an_agent_that_is_killed_end`]: it opens a shell of each kind, and waits to be killed.
async fn agent(folder: &Path) {
    let shells = Shells::with(Settings::new(helper()).homes(folder.join("homes")));
    for shell in ShellKind::ALL {
        let stubborn = "trap '' HUP; echo $HOME; while :; do sleep 1; done";
        let stubborn = kind(shell, &scripted(stubborn, ""));
        let id = shells
            .open(&stubborn, alice(), terminal())
            .await
            .unwrap()
            .id;
        fs::write(folder.join(shell.name()), id.as_str()).unwrap();
    }
    fs::rename(folder.join("node"), folder.join("both")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn rule_12_shells_of_an_agent_that_is_killed_end() {
    const TEST: &str = "guard::rule_12_shells_of_an_agent_that_is_killed_end";
    if let Some(folder) = std::env::var_os("FOLDER") {
        return agent(Path::new(&folder)).await;
    }
    let world = World::new();
    let has_pids = gives(&world, Protection::PidNamespace).await;
    let folder = world.folder.path();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env("FOLDER", folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("both shells are open", || folder.join("both").exists()).await;
    let [kubectl, node] =
        ["kubectl", "both"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    let runs = |id: &str| {
        let mut all = processes().into_iter();
        all.any(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(id) && lives(&pid)
        })
    };
    assert!(runs(&kubectl) && runs(&node));
    agent.kill().unwrap();
    agent.wait().unwrap();
    if has_pids {
        eventually("the namespace has ended", || !runs(&kubectl)).await;
    }
    let homes = || {
        let entries = fs::read_dir(folder.join("homes")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("agent-")).count()
    };
    assert_eq!(homes(), 2);
    // The next agent.
    let next = Shells::with(Settings::new(helper()).homes(folder.join("homes")));
    let lacks = next.probe(&rule("program: /bin/true")).await.unwrap();
    assert_eq!(homes(), 2, "this agent's own, and the next one's");
    let mut bounds = lacks
        .iter()
        .filter(|lack| lack.protection == Protection::Cgroup);
    // Without any group a program of root's that ignores the hangup lives on.
    match bounds.next() {
        Some(lack) if !lack.why.contains("controllers") => {
            for pid in processes() {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                if String::from_utf8_lossy(&environment).contains(&node) {
                    let _ = std::process::Command::new("kill")
                        .args(["-9", &pid])
                        .status();
                }
            }
        }
        _ => assert!(
            !runs(&node),
            "the group of an agent that was killed has not ended"
        ),
    }
}
