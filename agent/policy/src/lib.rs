//! The agent's own policy (security rule 17): a captured server cannot go beyond it. It denies everything but the API server,
//! unless a rule of its file allows it.
//!
//! [`Policy::from_yaml`] reads the file, and [`Policy::decide`] decides about a target. Names, services and paths lead somewhere:
//! once that is known, [`Policy::decide_address`] and [`Policy::decide_path`] decide about it. [`Policy::decide_operation`] gives the
//! [`Operation`] that a caller may run, and [`Policy::decide_shell`] the [`ShellRule`] of a shell that a caller may open. The crate
//! resolves, connects and runs nothing.

pub mod limits;

mod command;
mod decision;
mod file;
mod host;
mod impersonation;
mod operation;
mod ports;
mod rule;
mod shell;
mod special;
mod values;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use underpass_core::{AgentRole, ImpersonationPolicy, Target, TcpTarget, UnixTarget};
pub use underpass_core::{ShellKind, UnknownShellKind};

pub use self::decision::{Allowed, Denied, Remaining};
pub use self::file::PolicyError;
pub use self::host::{Host, Service};
pub use self::operation::{ArgumentError, Operation, OperationError, ValueError};
pub use self::shell::{Protection, ShellResources, ShellRule, ShellUids};
pub use self::special::SpecialAddress;

use self::impersonation::Impersonation;
use self::rule::{Covers, TcpRule, UnixRule};
use self::special::special;

/// A policy. The default allows the API server and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `None` where the file does not say.
    api_server: Option<bool>,
    tcp: Vec<TcpRule>,
    unix: Vec<UnixRule>,
    operations: Vec<Arc<Operation>>,
    shells: Vec<Arc<ShellRule>>,
    impersonation: Impersonation,
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `tcp`, `unix`, `operation`, `shell` or the field of `impersonation`.
    pub kind: &'static str,
    /// The rule's name; empty where it has none.
    pub name: String,
    /// The targets that it allows, or the names that it lists.
    pub content: String,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// The place in the file, and what is right there.
    pub fn from_yaml(yaml: &str) -> Result<Self, PolicyError> {
        file::read(yaml)
    }

    /// Does it allow this target?
    ///
    /// # Errors
    /// The reason that it does not, in a sentence for the caller.
    pub fn decide(&self, target: &Target) -> Result<Allowed, Denied> {
        match target {
            Target::KubeApi => match self.api_server {
                Some(false) => Err(Denied::ApiServer),
                Some(true) | None => Ok(Allowed {
                    rule: None,
                    remaining: Remaining::Nothing,
                }),
            },
            Target::Tcp(tcp) => self.decide_tcp(tcp),
            Target::Unix(unix) => self.decide_unix(unix),
            other => Err(Denied::NotServed(other.to_string())),
        }
    }

    /// May an agent of this role serve the API server? Unless the file says so, one that runs on a node may not: the administrator of
    /// the node could answer for the cluster.
    ///
    /// # Errors
    /// It may not.
    pub fn decide_api_server(&self, role: AgentRole) -> Result<(), Denied> {
        match (self.api_server, role) {
            (Some(true), _) | (None, AgentRole::Cluster) => Ok(()),
            (Some(false), _) | (None, AgentRole::Node) => Err(Denied::ApiServer),
        }
    }

    fn decide_tcp(&self, target: &TcpTarget) -> Result<Allowed, Denied> {
        let (host, port) = (Host::of(target), target.port());
        let remaining = match &host {
            Host::Address(_) => Remaining::Nothing,
            Host::Service(_) | Host::Name(_) => Remaining::Addresses,
        };
        let mut nearest = Denied::NoRule(Target::Tcp(target.clone()).to_string());
        for rule in &self.tcp {
            let name = || Arc::clone(&rule.name);
            match (rule.has(&host), &host) {
                (Covers::Yes, _) if rule.has_port(port) => {
                    let rule = Some(name());
                    return Ok(Allowed { rule, remaining });
                }
                (Covers::Yes, _) if !matches!(nearest, Denied::Port { .. }) => {
                    nearest = Denied::Port {
                        rule: name(),
                        host: host.to_string(),
                        port,
                    };
                }
                (Covers::OnlyInPassing(kind), Host::Address(address))
                    if matches!(nearest, Denied::NoRule(_)) =>
                {
                    nearest = Denied::SpecialInNetwork {
                        rule: name(),
                        address: *address,
                        kind,
                    };
                }
                _ => {}
            }
        }
        Err(nearest)
    }

    fn decide_unix(&self, target: &UnixTarget) -> Result<Allowed, Denied> {
        let rule = self.unix.iter().find(|rule| rule.has(target.path()));
        let rule = rule.ok_or_else(|| Denied::NoRule(Target::Unix(target.clone()).to_string()))?;
        Ok(Allowed {
            rule: Some(Arc::clone(&rule.name)),
            remaining: Remaining::Path,
        })
    }

    /// May a target that is [allowed](Self::decide) be reached at this address? A name must not lead to the agent's own machine, to
    /// its link or to a metadata service, unless a rule allows that very address by itself, at the port that is dialled: an endpoint's
    /// port may differ from its service's.
    ///
    /// # Errors
    /// The reason that it may not, in a sentence for the caller.
    pub fn decide_address(&self, target: &TcpTarget, address: SocketAddr) -> Result<(), Denied> {
        let (ip, port) = (address.ip(), address.port());
        let Some((kind, _)) = special(ip) else {
            return Ok(());
        };
        let allows = |rule: &TcpRule| rule.covers(ip) == Covers::Yes && rule.has_port(port);
        if self.tcp.iter().any(allows) {
            return Ok(());
        }
        Err(Denied::LeadsToSpecial {
            host: Host::of(target).to_string(),
            address,
            kind,
        })
    }

    /// May a target that is [allowed](Self::decide) be reached at `path`, which is its own without symbolic links? A program that may write
    /// to a socket's folder could put a link to another socket into its place.
    ///
    /// # Errors
    /// The reason that it may not, in a sentence for the caller.
    pub fn decide_path(&self, target: &UnixTarget, path: &Path) -> Result<(), Denied> {
        let allowed = path.to_str();
        let allowed = allowed.is_some_and(|path| self.unix.iter().any(|rule| rule.has(path)));
        if allowed {
            return Ok(());
        }
        Err(Denied::LeadsToPath {
            path: target.path().to_owned(),
            to: path.display().to_string(),
        })
    }

    /// The operation of this name, for a caller of this name and these groups.
    ///
    /// # Errors
    /// There is none, or it is for others.
    pub fn decide_operation(
        &self,
        name: &str,
        user: &str,
        groups: &[String],
    ) -> Result<Arc<Operation>, Denied> {
        let mut operations = self.operations.iter();
        let operation = operations.find(|operation| &**operation.name() == name);
        // A name of a caller's: it may have any length.
        let shown = || name.chars().take(limits::RULE_NAME_BYTES).collect();
        let operation = operation.ok_or_else(|| Denied::NoOperation(shown()))?;
        match operation.is_for(user, groups) {
            true => Ok(Arc::clone(operation)),
            false => Err(Denied::Caller(Arc::clone(operation.name()))),
        }
    }

    /// The words about shells of this kind, for a caller of this name and these groups.
    ///
    /// # Errors
    /// There are none, or they are for others.
    pub fn decide_shell(
        &self,
        kind: ShellKind,
        user: &str,
        groups: &[String],
    ) -> Result<Arc<ShellRule>, Denied> {
        let rule = self.shells.iter().find(|rule| rule.kind() == kind);
        let rule = rule.ok_or(Denied::NoShell(kind))?;
        match rule.is_for(user, groups) {
            true => Ok(Arc::clone(rule)),
            false => Err(Denied::ShellCaller(kind)),
        }
    }

    /// Its words about shells.
    pub fn shells(&self) -> &[Arc<ShellRule>] {
        &self.shells
    }

    /// Its operations, in the file's order.
    pub fn operations(&self) -> &[Arc<Operation>] {
        &self.operations
    }

    /// `policy`, and what this one adds to it: namespaces whose ServiceAccounts may be impersonated, and users and groups that may
    /// not.
    pub fn impersonation(&self, policy: ImpersonationPolicy) -> ImpersonationPolicy {
        self.impersonation.add_to(policy)
    }

    /// Its rules, in the file's order.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let tcp = self.tcp.iter().map(|rule| Line {
            kind: "tcp",
            name: rule.name.to_string(),
            content: rule.describe(),
        });
        let unix = self.unix.iter().map(|rule| Line {
            kind: "unix",
            name: rule.name.to_string(),
            content: rule.paths.join(", "),
        });
        let operations = self.operations.iter().map(|operation| Line {
            kind: "operation",
            name: operation.name().to_string(),
            content: operation.describe(),
        });
        let shells = self.shells.iter().map(|rule| Line {
            kind: "shell",
            name: rule.kind().to_string(),
            content: rule.describe(),
        });
        let api_server = self.api_server.map(|serves| Line {
            kind: "apiServer",
            name: String::new(),
            content: serves.to_string(),
        });
        let targets = api_server.into_iter().chain(tcp).chain(unix);
        let commands = operations.chain(shells);
        targets.chain(commands).chain(self.impersonation.lines())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
tcp:
  - name: databases
    services: [prod/postgres, monitoring/*]
    names: ["*.internal.example.org"]
    addresses: [10.0.0.0/8, "fd00::/8"]
    ports: [5432, 8000-8099]
  - name: everything-else
    addresses: [0.0.0.0/0]
    ports: [443]
  - name: own
    addresses: [127.0.0.0/8]
    ports: [9000]
unix:
  - name: containerd
    paths: [/run/containerd/containerd.sock]
"#;

    fn policy() -> Policy {
        Policy::from_yaml(POLICY).unwrap()
    }

    fn decide(target: &str) -> Result<Allowed, Denied> {
        policy().decide(&target.parse().unwrap())
    }

    /// The rule that allows it, or the sentence that denies it.
    fn said(target: &str) -> String {
        match decide(target) {
            Ok(allowed) => allowed.rule.as_deref().unwrap_or("-").to_owned(),
            Err(denied) => denied.to_string(),
        }
    }

    #[test]
    fn rule_17_a_nodes_agent_serves_no_api_server_unless_its_policy_says_so() {
        for (yaml, cluster, node) in [
            ("{}", true, false),
            ("apiServer: true", true, true),
            ("apiServer: false", false, false),
        ] {
            let policy = Policy::from_yaml(yaml).unwrap();
            let may = |role| policy.decide_api_server(role).is_ok();
            assert_eq!(may(AgentRole::Cluster), cluster, "{yaml}");
            assert_eq!(may(AgentRole::Node), node, "{yaml}");
            assert_eq!(policy.decide(&Target::KubeApi).is_ok(), cluster, "{yaml}");
        }
        for bad in ["apiServer:", "apiServer: standIn", "apiServer: 1"] {
            Policy::from_yaml(bad).unwrap_err();
        }
        let denied = Denied::ApiServer.to_string();
        assert!(denied.contains("`apiServer: true`"), "{denied}");
    }

    #[test]
    fn rule_17_nothing_but_the_api_server_is_allowed_by_default() {
        for policy in [Policy::default(), Policy::from_yaml("{}").unwrap()] {
            assert!(policy.decide(&Target::KubeApi).is_ok());
            for target in [
                "tcp:10.0.0.1:80",
                "tcp:db.prod:5432",
                "tcp:db.internal.example.org:5432",
                "unix:/run/containerd/containerd.sock",
            ] {
                let denied = policy.decide(&target.parse().unwrap()).unwrap_err();
                assert_eq!(denied, Denied::NoRule(target.to_owned()));
                assert!(denied.to_string().contains(target), "{denied}");
            }
            for target in ["shell", "operation", "state"] {
                let denied = policy.decide(&target.parse().unwrap());
                assert_eq!(denied, Err(Denied::NotServed(target.to_owned())));
            }
        }
    }

    #[test]
    fn rule_17_a_rule_allows_its_hosts_at_its_ports() {
        for (target, rule) in [
            ("tcp:postgres.prod:5432", "databases"),
            ("tcp:postgres.prod.svc:8000", "databases"),
            ("tcp:postgres.prod.svc.cluster.local:8099", "databases"),
            ("tcp:grafana.monitoring:5432", "databases"),
            ("tcp:db.internal.example.org:5432", "databases"),
            ("tcp:10.1.2.3:5432", "databases"),
            ("tcp:[::ffff:10.1.2.3]:5432", "databases"),
            ("tcp:[fd00::1]:5432", "databases"),
            ("tcp:192.0.2.1:443", "everything-else"),
            ("tcp:127.0.0.1:9000", "own"),
            ("unix:/run/containerd/containerd.sock", "containerd"),
            ("kube-api", "-"),
        ] {
            assert_eq!(said(target), rule, "{target}");
        }
        assert_eq!(
            decide("tcp:db.internal.example.org:5432")
                .unwrap()
                .remaining,
            Remaining::Addresses
        );
        assert_eq!(
            decide("tcp:10.0.0.1:5432").unwrap().remaining,
            Remaining::Nothing
        );
    }

    #[test]
    fn rule_17_a_refusal_names_the_nearest_rule() {
        for (target, sentence) in [
            (
                "tcp:postgres.prod:22",
                "rule `databases` of the agent's policy allows prod/postgres, but not its port 22",
            ),
            (
                "tcp:10.0.0.1:22",
                "rule `databases` of the agent's policy allows 10.0.0.1, but not its port 22",
            ),
            (
                "tcp:redis.prod:5432",
                "no rule of the agent's policy allows tcp:redis.prod:5432",
            ),
            (
                "tcp:a.b.internal.example.org:5432",
                "no rule of the agent's policy allows tcp:a.b.internal.example.org:5432",
            ),
            (
                "tcp:169.254.169.254:443",
                "rule `everything-else` of the agent's policy does not allow 169.254.169.254 though its network has \
                 it: it is a link-local address, which an `addresses` rule has to name as such",
            ),
            (
                "tcp:127.0.0.1:443",
                "rule `own` of the agent's policy allows 127.0.0.1, but not its port 443",
            ),
            (
                "tcp:[fd00:ec2::254]:5432",
                "rule `databases` of the agent's policy does not allow fd00:ec2::254 though its network has it: it \
                 is the address of a cloud's metadata service, which an `addresses` rule has to name as such",
            ),
            (
                "unix:/run/docker.sock",
                "no rule of the agent's policy allows unix:/run/docker.sock",
            ),
        ] {
            assert_eq!(said(target), sentence, "{target}");
        }
    }

    #[test]
    fn rule_17_a_name_leads_to_no_special_address() {
        let decide = |target: &str, address: &str| {
            let Target::Tcp(target) = target.parse().unwrap() else {
                panic!("no TCP")
            };
            let address = SocketAddr::new(address.parse().unwrap(), target.port());
            policy().decide_address(&target, address)
        };
        let name = "tcp:db.internal.example.org:5432";
        for address in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            let denied = decide(name, address).unwrap_err().to_string();
            assert!(denied.contains("db.internal.example.org"), "{denied}");
            decide("tcp:postgres.prod:5432", address).unwrap_err();
        }
        // Names need no rule for ordinary addresses.
        decide(name, "192.0.2.1").unwrap();
        // A rule has that very address, at its own port.
        decide("tcp:own.internal.example.org:9000", "127.0.0.1").unwrap();
        decide("tcp:own.internal.example.org:9000", "::ffff:127.0.0.1").unwrap();
        decide("tcp:own.internal.example.org:9001", "127.0.0.1").unwrap_err();
        // A network of everything does not have it.
        decide("tcp:x.internal.example.org:443", "169.254.169.254").unwrap_err();
    }

    #[test]
    fn rule_17_a_special_address_needs_a_rule_at_the_port_that_is_dialled() {
        let policy = Policy::from_yaml(
            "tcp:
  - {name: dns, addresses: [168.63.129.16], ports: [53]}
  - {name: own, addresses: [127.0.0.1], ports: [9000]}
  - {name: t, services: [tenant/*]}",
        );
        let policy = policy.unwrap();
        let decide = |target: &str, endpoint: &str| {
            let Target::Tcp(tcp) = target.parse().unwrap() else {
                panic!("no TCP")
            };
            policy.decide(&Target::Tcp(tcp.clone())).unwrap();
            policy.decide_address(&tcp, endpoint.parse().unwrap())
        };
        let denied = decide("tcp:x.tenant:53", "168.63.129.16:80").unwrap_err();
        assert_eq!(
            denied.to_string(),
            "the agent's policy allows tenant/x, but it leads to 168.63.129.16: the address of a cloud's metadata \
             service, which no `addresses` rule allows at port 80"
        );
        decide("tcp:x.tenant:53", "[::ffff:168.63.129.16]:80").unwrap_err();
        decide("tcp:x.tenant:9000", "127.0.0.1:9001").unwrap_err();
        // The service's own port is no question of the address's rule.
        decide("tcp:x.tenant:80", "127.0.0.1:9000").unwrap();
        decide("tcp:x.tenant:80", "168.63.129.16:53").unwrap();
    }

    #[test]
    fn rule_17_a_link_leads_to_no_other_socket() {
        let Target::Unix(target) = "unix:/run/containerd/containerd.sock".parse().unwrap() else {
            panic!("no socket")
        };
        let policy = policy();
        policy
            .decide_path(&target, Path::new(target.path()))
            .unwrap();
        let denied = policy.decide_path(&target, Path::new("/run/docker.sock"));
        let denied = denied.unwrap_err().to_string();
        assert!(denied.contains("leads to /run/docker.sock"), "{denied}");
    }

    #[test]
    fn rules_are_shown_as_they_were_read() {
        let lines: Vec<_> = policy().lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[0].content,
            "prod/postgres, monitoring/*, *.internal.example.org, 10.0.0.0/8, fd00::/8; port 5432, 8000-8099"
        );
        assert_eq!(
            (lines[3].kind, lines[3].name.as_str()),
            ("unix", "containerd")
        );
        let open = Policy::from_yaml("tcp: [{name: a, addresses: [10.0.0.0/8]}]").unwrap();
        let line = open.lines().next().unwrap();
        assert_eq!(line.content, "10.0.0.0/8; every port");
    }
}
