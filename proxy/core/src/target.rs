//! The targets that an agent connects streams to.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{BadShellId, ShellId, ShellKind};

/// A stream's target at an agent. Its text is the `target` of the tunnel's OPEN frame (docs/PROTOCOL.md): so it has at most
/// [`Target::BYTES`] bytes. Each target has roles that allow it, and the agent's own policy is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// `kube-api`: the cluster's API server. The stream's open header is [`Identity::encode`](crate::Identity::encode), and its
    /// payload one HTTP/1.1 exchange.
    KubeApi,
    /// `tcp:HOST:PORT`: a TCP address in the cluster's network. HOST is an address (IPv6 in brackets) or a DNS name, and
    /// `SERVICE.NAMESPACE` among these.
    Tcp(TcpTarget),
    /// `unix:PATH`: a socket of the agent's file system, by an absolute path.
    Unix(UnixTarget),
    /// `shell`, or `node-shell` of [`ShellKind::Node`]: a question about the agent's shells of this kind, and its answer.
    Shells(ShellKind),
    /// `shell:ID`, or `node-shell:ID`: one shell at the agent, for a viewer.
    Shell(ShellKind, ShellId),
    /// `operation`: an operation on the agent's node.
    Operation,
    /// `state`: the state that the server wants of the cluster, and the agent's reports.
    State,
}

/// The address of [`Target::Tcp`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpTarget {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Address(IpAddr),
    /// Lower case, without a dot at the end.
    Name(String),
}

/// The socket of [`Target::Unix`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnixTarget(String);

/// Not the text of a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// No kind of target begins like this.
    #[error(
        "{0:?} is no target: kube-api, tcp:HOST:PORT, unix:PATH, shell, shell:ID, node-shell, node-shell:ID, operation or state"
    )]
    Unknown(String),
    /// Not `HOST:PORT`.
    #[error("{0:?} is not HOST:PORT, with an IPv6 address in brackets and a port of 1 to 65535")]
    Tcp(String),
    /// Not an absolute path, or one with `..`, `.` or control characters in it.
    #[error("{0:?} is not an absolute path without . and ..")]
    Unix(String),
    /// Not the id of a shell.
    #[error(transparent)]
    Shell(#[from] BadShellId),
    /// The text has more than [`Target::BYTES`] bytes.
    #[error("a target has at most {most} bytes, and this one {0}", most = Target::BYTES)]
    TooLong(usize),
}

impl Target {
    /// The largest text, in bytes, of an OPEN frame.
    pub const BYTES: usize = 300;
}

fn shell_text(kind: ShellKind) -> &'static str {
    match kind {
        ShellKind::Kubectl => "shell",
        ShellKind::Node => "node-shell",
    }
}

impl TcpTarget {
    /// The address, where it is one and not a name.
    pub fn address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Address(address) => Some(*address),
            Host::Name(_) => None,
        }
    }

    /// The DNS name in lower case, where it is one and not an address.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Address(_) => None,
            Host::Name(name) => Some(name),
        }
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl UnixTarget {
    /// The absolute path.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KubeApi => f.write_str("kube-api"),
            Self::Tcp(tcp) => write!(f, "tcp:{tcp}"),
            Self::Unix(unix) => write!(f, "unix:{}", unix.0),
            Self::Shells(kind) => f.write_str(shell_text(*kind)),
            Self::Shell(kind, id) => write!(f, "{}:{id}", shell_text(*kind)),
            Self::Operation => f.write_str("operation"),
            Self::State => f.write_str("state"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::BYTES {
            return Err(TargetError::TooLong(text.len()));
        }
        match text.split_once(':') {
            Some(("tcp", address)) => Ok(Self::Tcp(address.parse()?)),
            Some(("unix", path)) => Ok(Self::Unix(path.parse()?)),
            Some(("shell", id)) => Ok(Self::Shell(ShellKind::Kubectl, id.parse()?)),
            Some(("node-shell", id)) => Ok(Self::Shell(ShellKind::Node, id.parse()?)),
            _ => match text {
                "kube-api" => Ok(Self::KubeApi),
                "shell" => Ok(Self::Shells(ShellKind::Kubectl)),
                "node-shell" => Ok(Self::Shells(ShellKind::Node)),
                "operation" => Ok(Self::Operation),
                "state" => Ok(Self::State),
                _ => Err(TargetError::Unknown(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for TcpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl FromStr for TcpTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TargetError::Tcp(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let host = match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
            Some(v6) => v6.parse().ok().map(|v6| Host::Address(IpAddr::V6(v6))),
            None => match host.parse() {
                Ok(v4) => Some(Host::Address(IpAddr::V4(v4))),
                Err(_) => dns_name(host).map(Host::Name),
            },
        };
        Ok(Self {
            host: host.ok_or_else(wrong)?,
            port: port.ok_or_else(wrong)?,
        })
    }
}

/// RFC 1123, section 2.1, and underscores, which names of services in DNS have (RFC 2782). A name whose last label is of digits
/// would be an address to some resolvers (`0x7f.1`, `127.1`).
fn dns_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with(|first: char| first.is_ascii_digit());
    (name.len() <= 253 && name.split('.').all(is_label) && !is_number).then_some(name)
}

impl FromStr for UnixTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut segments = text.split('/').skip(1);
        let plain = |segment: &str| {
            !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control)
        };
        if text.starts_with('/') && segments.all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(TargetError::Unix(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_text_is_read_as_it_is_written() {
        for text in [
            "kube-api",
            "shell",
            "operation",
            "state",
            "tcp:10.0.0.1:80",
            "tcp:[2001:db8::1]:65535",
            "tcp:db.prod:5432",
            "tcp:_metrics._tcp.db.prod.svc.cluster.local:9090",
            "unix:/run/containerd/containerd.sock",
            "shell:0123456789abcdef0123456789abcdef",
            "node-shell",
            "node-shell:0123456789abcdef0123456789abcdef",
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        let Target::Tcp(tcp) = "tcp:DB.Prod.:5432".parse().unwrap() else {
            panic!("no TCP");
        };
        assert_eq!(
            (tcp.name(), tcp.address(), tcp.port()),
            (Some("db.prod"), None, 5432)
        );
    }

    #[test]
    fn rule_17_what_has_two_meanings_is_no_target() {
        let long = format!("unix:/{}", "x".repeat(Target::BYTES));
        for text in [
            "",
            "kube-api ",
            "Shell",
            "tcp",
            "tcp:",
            "tcp:host",
            "tcp:host:0",
            "tcp:host:65536",
            "tcp:host:+80",
            "tcp:host:",
            "tcp::80",
            "tcp:2001:db8::1:80",
            "tcp:[::1]80",
            "tcp:[10.0.0.1]:80",
            "tcp:127.1:80",
            "tcp:0x7f.1:80",
            "tcp:2130706433:80",
            "tcp:010.0.0.1:80",
            "tcp:a..b:80",
            "tcp:-a:80",
            "tcp:a/b:80",
            "tcp:user@host:80",
            "tcp:h\u{f6}st:80",
            "unix:",
            "unix:run/x.sock",
            "unix:/run/../etc/x.sock",
            "unix:/run//x.sock",
            "unix:/run/./x.sock",
            "unix:/run/",
            "unix:/run/a\nb",
            "shell:",
            "shell:0123456789ABCDEF0123456789abcdef",
            "shell:0123456789abcdef0123456789abcde",
            "shell:../3456789abcdef0123456789abcdef",
            &long,
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
