//! A user whose network is taken away, and given back with another address: in namespaces, with real interfaces.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use underpass_testenv::testing::{Client, Wire, eventually, run, text};
use underpass_testenv::{CLUSTER_NAME, Transport};

use crate::deployment::{AGENT_KUBECONFIG, CLUSTER, Deployment, changed, token_of};
use crate::operations::{CLUSTER_OF_NODES, NODE, Site};
use crate::over_both_transports;
use crate::terminal::Terminal;

over_both_transports![a_command_and_a_shell_survive_another_address];

/// Set where a test runs in its namespace.
const INSIDE: &str = "UNDERPASS_TEST_IN_NAMESPACE";

/// Seconds without a network, where they are to be others than [`OUTAGE`].
const SECONDS: &str = "UNDERPASS_TEST_OUTAGE_SECONDS";

const OUTAGE: Duration = Duration::from_secs(12);

/// The server's address for the user.
const SERVER: &str = "10.99.0.1";

const POLICY: &str = "
shells:
  node:
    program: /bin/sh
    environment: {set: {PS1: '$ ', PATH: /usr/bin:/bin}}
    mayBeMissing: [cgroup]
";

/// Runs the test that is under way again, as the only one of a process that has a network of its own. Gives whether this is that
/// process.
async fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        ip(&["link", "set", "lo", "up"]).await;
        return true;
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = unshare.output().await.unwrap();
    let said = text(&output.stdout);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("1 passed"), "no such test: {said}");
    print(&said);
    false
}

/// The figures, for people who run it by hand.
#[expect(clippy::print_stdout, reason = "figures of a test that is run by hand")]
fn print(words: &str) {
    println!("{words}");
}

async fn ip(words: &[&str]) {
    succeed(Command::new("ip").args(words)).await;
}

async fn succeed(command: &mut Command) {
    let output = run(command, b"").await;
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The user's own network, with one interface that leads to the server.
struct UserNetwork {
    holder: Child,
}

impl UserNetwork {
    /// Beside this process's network, whose port at loopback is the server's.
    async fn new(port: &str) -> Self {
        let mut holder = Command::new("unshare");
        holder
            .args(["--net", "sleep", "infinity"])
            .kill_on_drop(true);
        let network = Self {
            holder: holder.spawn().unwrap(),
        };
        let id = network.id();
        eventually("a network of the user's", async || {
            let link = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
            match link(&id) {
                other if other.is_some() && other != link("self") => Ok(()),
                same => Err(same),
            }
        })
        .await;
        ip(&[
            "link", "add", "here", "type", "veth", "peer", "name", "there",
        ])
        .await;
        ip(&["link", "set", "there", "netns", &id]).await;
        ip(&["addr", "add", &format!("{SERVER}/24"), "dev", "here"]).await;
        ip(&["link", "set", "here", "up"]).await;
        // The server listens at loopback.
        std::fs::write("/proc/sys/net/ipv4/conf/here/route_localnet", "1").unwrap();
        let rules = format!(
            "add table ip way; add chain ip way in {{ type nat hook prerouting priority -100; }}; \
             add rule ip way in iifname here meta l4proto {{ tcp, udp }} th dport {port} dnat to 127.0.0.1"
        );
        succeed(Command::new("nft").arg(rules)).await;
        network.give("10.99.0.2").await;
        network
    }

    fn id(&self) -> String {
        self.holder.id().unwrap().to_string()
    }

    async fn inside(&self, words: &[&str]) {
        let mut enter = Command::new("nsenter");
        let id = self.id();
        enter.args(["--target", &id, "--net", "ip"]).args(words);
        succeed(&mut enter).await;
    }

    async fn give(&self, address: &str) {
        let address = format!("{address}/24");
        self.inside(&["addr", "add", &address, "dev", "there"])
            .await;
        self.inside(&["link", "set", "there", "up"]).await;
    }

    async fn take_away(&self) {
        self.inside(&["link", "set", "there", "down"]).await;
        self.inside(&["addr", "flush", "dev", "there"]).await;
    }

    /// The same command in the user's network.
    fn enter(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut enter = Command::new("nsenter");
        let id = self.id();
        enter.args(["--target", &id, "--net", "--"]);
        enter.arg(command.get_program()).args(command.get_args());
        enter.env_clear().kill_on_drop(true);
        for (name, value) in command.get_envs() {
            enter.env(name, value.unwrap_or_default());
        }
        enter.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        enter
    }
}

/// The lines of a command, and when the last one came.
async fn lines_of(mut child: Child) -> (Vec<String>, Option<i32>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut all = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        all.push(line);
    }
    (all, child.wait().await.unwrap().code())
}

async fn a_command_and_a_shell_survive_another_address(transport: Transport) {
    let module = match transport {
        Transport::WebSocket => "websocket",
        _ => "quic",
    };
    if !inside(&format!(
        "roaming::{module}::a_command_and_a_shell_survive_another_address"
    ))
    .await
    {
        return;
    }
    let outage = std::env::var(SECONDS).ok();
    let outage = outage.map_or(OUTAGE, |text| Duration::from_secs(text.parse().unwrap()));
    let flags = ["--name", "localhost", "--name", SERVER];
    let deployment = Deployment::start_as_with(transport, AGENT_KUBECONFIG.clone(), &flags).await;
    let site = Site::at(deployment, POLICY);
    site.start_agent();
    site.connected().await;
    let alice = site.user("alice", "admin");
    let port = site.port().to_string();
    let user = UserNetwork::new(&port).await;
    let url = format!("https://{SERVER}:{port}");

    let admin = site.deployment.dir().join("admin.token");
    std::fs::write(&admin, token_of(site.deployment.admin_kubeconfig())).unwrap();
    let led = changed(
        site.deployment.admin_kubeconfig(),
        "roaming",
        &format!("localhost:{port}"),
        &format!("{SERVER}:{port}"),
    );
    let pod = Client::direct(&CLUSTER, Wire::WebSocket)
        .target("roaming")
        .await;
    let count = (outage.as_secs() + 8) * 10;
    let script = format!("i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); sleep 0.1; done");
    let words = ["sh", "-c", script.as_str()];
    let begin = Instant::now();
    let exec = [
        "exec",
        "--transport",
        transport.as_str(),
        CLUSTER_NAME,
        &pod,
        "--",
    ];
    let exec = site.command_at(&url, &admin, &[&exec[..], &words].concat());
    let ours = user.enter(&exec).stdout(Stdio::piped()).spawn().unwrap();
    let theirs = Client::new(&CLUSTER, &led, "roaming", Wire::WebSocket).exec(&pod, &[], &words);
    let mut theirs = user.enter(&theirs).stdout(Stdio::piped()).spawn().unwrap();
    let mut their_lines = BufReader::new(theirs.stdout.take().unwrap()).lines();
    let ours = tokio::spawn(async move { (lines_of(ours).await, begin.elapsed()) });

    let open = ["shell", CLUSTER_OF_NODES, "--node", NODE, "--kind", "node"];
    let open = [&open[..], &["--transport", transport.as_str()]].concat();
    let mut shell = Terminal::start(&user.enter(&site.command_at(&url, &alice, &open)), (80, 24));
    shell.shows("$ ").await;
    let typed = site.deployment.dir().join("typed");
    shell.press(&format!("cat > {}; echo do\"\"ne\r", typed.display()));
    for number in 0..5 {
        let line = their_lines.next_line().await.unwrap();
        assert_eq!(line, Some(number.to_string()));
    }

    let lost = Instant::now();
    user.take_away().await;
    for number in 0..20 {
        shell.press(&format!("line {number}\r"));
        tokio::time::sleep(outage / 20).await;
    }
    user.give("10.99.0.3").await;
    shell.shows("connected again").await;
    let back = lost.elapsed();
    shell.press("\u{4}");
    shell.shows("done").await;
    let expected: String = (0..20).map(|number| format!("line {number}\n")).collect();
    assert_eq!(std::fs::read_to_string(&typed).unwrap(), expected);
    shell.press("exit 3\r");
    let (status, said) = shell.ended().await;
    assert_eq!(status, Some(3), "{said}");

    let ((printed, status), took) = ours.await.unwrap();
    let wanted: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(printed, wanted);
    assert_eq!(status, Some(0));
    // kubectl, beside it, has heard of nothing more: its address is gone.
    theirs.start_kill().unwrap();
    let mut more = 5;
    while let Ok(Some(line)) = their_lines.next_line().await {
        assert_eq!(line, more.to_string());
        more += 1;
    }
    assert!(more < count, "kubectl went on");
    print(&format!(
        "{}: away for {outage:?}; the shell was back {:?} after that; {count} numbers in {took:?}; kubectl stopped at {more}",
        transport.as_str(),
        back.saturating_sub(outage)
    ));
}
