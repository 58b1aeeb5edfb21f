//! Folders that play a cgroup file system; the kernel's own is in the tests of shells.

use underpass_agent_policy::ShellResources;

use super::*;

const RESOURCES: ShellResources = ShellResources {
    memory: 64 * 1024 * 1024,
    processes: 16,
    cpu_millis: 250,
};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in files {
        fs::write(folder.path().join(file), text).unwrap();
    }
    folder
}

#[test]
fn rule_19_a_shell_is_bounded_as_its_rule_says() {
    let files = [
        "memory.max",
        "memory.swap.max",
        "memory.oom.group",
        "pids.max",
        "cpu.max",
    ];
    let folder = folder(&files.map(|file| (file, "")));
    let group = Group::new(folder.path().to_owned());
    group.bound(RESOURCES).unwrap();
    let text = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
    // Beside the program's processes there are those that keep it.
    assert_eq!(
        files.map(text),
        ["67108864", "0", "1", "18", "25000 100000"]
    );
    // A kernel without swap.
    fs::remove_file(folder.path().join("memory.swap.max")).unwrap();
    group.bound(RESOURCES).unwrap();
    for file in ["memory.max", "pids.max", "cpu.max", "memory.oom.group"] {
        fs::remove_file(folder.path().join(file)).unwrap();
        let error = group.bound(RESOURCES).unwrap_err();
        assert!(error.contains(file), "{error}");
        fs::write(folder.path().join(file), "").unwrap();
    }
    assert!(group.can_kill().unwrap_err().contains("5.14"));
}

#[test]
fn rule_17_a_controller_that_is_missing_is_named() {
    let own = folder(&[
        ("cgroup.controllers", "hugetlb cpu\n"),
        ("cgroup.subtree_control", ""),
    ]);
    let parent = Parent::new(own.path()).unwrap();
    let lacks = parent.lacks.clone().unwrap();
    assert!(
        lacks.contains("memory, pids") && !lacks.contains("cpu"),
        "{lacks}"
    );
    let path = parent.path.clone();
    drop(parent);
    assert!(!path.exists());
}

#[test]
fn controllers_are_passed_on_where_they_are_not_yet() {
    let own = folder(&[
        ("cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("cgroup.subtree_control", "memory pids\n"),
    ]);
    let shells = folder(&[("cgroup.subtree_control", "memory cpu\n")]);
    bounds(own.path(), shells.path()).unwrap();
    // The kernel's files take words; these take bytes.
    let text = |folder: &tempfile::TempDir| {
        fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap()
    };
    assert_eq!(text(&own), "+cpury pids\n");
    assert_eq!(text(&shells), "+pidsy cpu\n");
}

#[test]
fn groups_of_an_agent_that_was_killed_are_removed_and_those_of_another_one_are_not() {
    let own = folder(&[("cgroup.controllers", "")]);
    let theirs = Parent::new(own.path()).unwrap();
    let gone = own.path().join(format!("{SHELLS}gone"));
    fs::create_dir_all(gone.join("shell/inner")).unwrap();
    fs::create_dir(own.path().join("other")).unwrap();
    let mine = Parent::new(own.path()).unwrap();
    assert!(!gone.exists());
    assert!(theirs.path.exists() && mine.path.exists() && own.path().join("other").exists());
}

/// The kernel's own hierarchy, with any controller that it has: an agent in a group that is not the root.
#[test]
fn an_agent_steps_aside_where_its_group_may_not_have_processes() {
    const TEST: &str = "cgroup::tests::an_agent_steps_aside_where_its_group_may_not_have_processes";
    if let Some(own) = std::env::var_os("GROUP") {
        let controller = std::env::var("CONTROLLER").unwrap();
        let own = Path::new(&own);
        let shells = own.join("shells");
        fs::create_dir(&shells).unwrap();
        pass_down(own, &shells, &controller).unwrap();
        pass_down(own, &shells, &controller).unwrap();
        assert!(words(&shells.join("cgroup.subtree_control")).contains(&controller));
        assert_eq!(find::own().unwrap(), own);
        let now = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(
            now.lines()
                .any(|line| line.starts_with("0::") && line.ends_with(AGENT)),
            "{now}"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = folder
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .replace('.', "underpass-test-");
    let made = find::own().and_then(|own| {
        let controller = words(&own.join("cgroup.controllers")).into_iter().next();
        let controller = controller.ok_or("no controller at all")?;
        pass_on(&own, &controller).map_err(|error| error.to_string())?;
        fs::create_dir(own.join(&name)).map_err(|error| error.to_string())?;
        Ok((own.join(&name), controller))
    });
    let (own, controller) = match made {
        Ok(made) => made,
        // The same reason has a shell be without a group, or without bounds.
        Err(why) => {
            let created = Groups::default().create(&name, RESOURCES);
            assert!(
                created.is_err() || created.is_ok_and(|(_, lacks)| lacks.is_some()),
                "{why}"
            );
            return;
        }
    };
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", "echo $$ >$GROUP/cgroup.procs && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env("GROUP", &own)
        .env("CONTROLLER", controller)
        .output()
        .unwrap();
    Group::new(own).end().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
