//! `ssh -R`, with an sshd of our own on loopback.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Agents, Server, System, SystemKind, chisel};
use crate::load::Door;
use crate::ports;
use crate::process::{self, Process};
use crate::site::Site;

pub(crate) struct Ssh;

const SSHD: &str = "/usr/sbin/sshd";

/// Where sshd drops its privileges into; Debian's unit makes it at start.
const EMPTY: &str = "/run/sshd";

/// How long sshd may take until it listens.
const DEADLINE: Duration = Duration::from_secs(10);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(10);

impl System for Ssh {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn settings(&self) -> &'static str {
        "Debian's OpenSSH, ssh -R, cipher aes128-gcm@openssh.com, no compression"
    }

    fn kind(&self) -> SystemKind {
        SystemKind::Peer
    }

    fn prepare(&self) -> Result<()> {
        ensure!(
            Path::new(SSHD).is_file(),
            "there is no {SSHD}: install Debian's openssh-server"
        );
        fs::create_dir_all(EMPTY)
            .with_context(|| format!("sshd needs {EMPTY}, which root may make"))
    }

    fn server(&self, site: &Site) -> Result<Server> {
        let (users, agents) = (ports::free()?, site.for_agents()?);
        for key in ["ssh-host", "ssh-agent"] {
            make_key(&site.file(key))?;
        }
        let config = format!(
            "ListenAddress {agents}\nHostKey {host}\nPidFile none\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {agent}.pub\nPasswordAuthentication no\nPermitRootLogin \
             prohibit-password\nAllowTcpForwarding remote\nX11Forwarding no\nMaxSessions 100\n\
             MaxStartups 1000\n",
            host = site.file("ssh-host"),
            agent = site.file("ssh-agent"),
        );
        let config = site.write("sshd_config", &config)?;
        let arguments = ["-D", "-e", "-f", &config];
        let mut process = site.start("ssh-server", Path::new(SSHD), arguments)?;
        // ssh does not try again for a second.
        let begun = Instant::now();
        while TcpStream::connect(agents).is_err() {
            process.check()?;
            ensure!(begun.elapsed() < DEADLINE, "sshd does not listen");
            std::thread::sleep(POLL);
        }
        Ok(Server {
            process: Some(process),
            agents,
            door: Door::Tcp(users),
            keys: Door::Tcp(users),
        })
    }

    fn agent(
        &self,
        site: &Site,
        server: &Server,
        dial: SocketAddr,
        agents: Agents,
    ) -> Result<Option<Process>> {
        let users = chisel::users(server, agents)?;
        let arguments = [
            "-N",
            "-F",
            "none",
            "-c",
            "aes128-gcm@openssh.com",
            "-i",
            &site.file("ssh-agent"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ExitOnForwardFailure=yes",
            "-o",
            "Compression=no",
            "-p",
            &dial.port().to_string(),
            "-R",
            &format!("{users}:{}", site.target),
            &dial.ip().to_string(),
        ];
        let name = format!("ssh-agent-{}", agents.first);
        Ok(Some(site.start_there(
            &name,
            Path::new("ssh"),
            arguments,
        )?))
    }

    fn relays(&self) -> bool {
        true
    }
}

fn make_key(file: &str) -> Result<()> {
    if Path::new(file).exists() {
        return Ok(());
    }
    process::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", file]))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
