//! Connections and requests that come and go leave nothing behind, in the server, the agent and the command line.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use underpass_testenv::Transport;
use underpass_testenv::testing::{DEADLINE, eventually};

use super::forward::Forward;
use super::site::Site;
use crate::over_both_transports;

over_both_transports!(a_thousand_connections_that_come_and_go_leave_nothing);

/// How many there are, and how many of them at once.
const CONNECTIONS: usize = 1000;
const AT_ONCE: usize = 50;

/// Says everything again.
fn serve_echo(listener: TcpListener) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    }))
}

/// One of them, which ends in one of the ways in which connections end.
async fn come_and_go(address: SocketAddr, number: usize) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let sent = format!("connection {number}").into_bytes();
    tcp.write_all(&sent).await.unwrap();
    let mut heard = vec![0; sent.len()];
    tcp.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, sent);
    match number % 3 {
        // A clean end in both directions.
        0 => {
            tcp.shutdown().await.unwrap();
            assert_eq!(tcp.read_to_end(&mut heard).await.unwrap(), 0);
        }
        // A reset.
        1 => tcp.set_zero_linger().unwrap(),
        // An end that nobody waits for.
        _ => {}
    }
}

/// Files and sockets of the processes, by process, and the streams that the server counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    files: BTreeMap<u32, usize>,
    in_flight: Vec<String>,
}

impl Held {
    fn of(site: &Site, processes: &[u32]) -> Self {
        let files = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let metrics = site.deployment.metrics().unwrap();
        // Each is left out, or 0, where there is none.
        let is_held = |line: &&str| {
            let names = ["underpass_proxy_in_flight{", "underpass_tunnel_streams{"];
            names.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
        };
        Self {
            files: processes.iter().map(|pid| (*pid, files(pid))).collect(),
            in_flight: metrics.lines().filter(is_held).map(str::to_owned).collect(),
        }
    }

    /// No more than before.
    fn is_within(&self, before: &Self) -> bool {
        let files =
            |(pid, now): (&u32, &usize)| before.files.get(pid).is_some_and(|then| now <= then);
        self.in_flight == before.in_flight && self.files.iter().all(files)
    }
}

/// The processes of a deployment whose command line has its folder.
fn processes(site: &Site) -> Vec<u32> {
    let dir = site.dir().to_str().unwrap().to_owned();
    let entries = fs::read_dir("/proc").unwrap();
    let processes = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        let program = command.split('\0').next()?.rsplit('/').next()?.to_owned();
        let ours = program.starts_with("underpass") && command.contains(&dir);
        ours.then_some(pid)
    });
    processes.collect()
}

async fn a_thousand_connections_that_come_and_go_leave_nothing(transport: Transport) {
    let site = Site::start(transport).await;
    let _serving = serve_echo(site.listen("echo", 7).await);
    let rule = format!("0:{}:7", site.host("echo"));
    let mut forward = Forward::start(&site.deployment, &site.token, &[&rule]);
    let (address, _) = forward.port().await;
    // The first ones open what stays open: connections to the server.
    all(address, AT_ONCE).await;
    let processes = processes(&site);
    assert!(
        processes.len() >= 3,
        "server, agent and forward: {processes:?}"
    );
    assert!(processes.contains(&forward.pid()));
    let before = eventually("the first ones are gone", async || {
        let held = Held::of(&site, &processes);
        match held.in_flight.is_empty() {
            true => Ok(held),
            false => Err(held),
        }
    })
    .await;
    all(address, CONNECTIONS).await;
    eventually("nothing is left", async || {
        let held = Held::of(&site, &processes);
        match held.is_within(&before) {
            true => Ok(()),
            false => Err((held, before.clone())),
        }
    })
    .await;
    forward.interrupt().await;
}

async fn all(address: SocketAddr, count: usize) {
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let one = tokio::time::timeout(DEADLINE, come_and_go(address, number));
        running.spawn(async move { one.await.expect("it comes and goes in time") });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}
