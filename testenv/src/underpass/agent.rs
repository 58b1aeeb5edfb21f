//! The agents of a running Underpass.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{GRACE, Transport, Underpass, start};
use crate::ClusterError;
use crate::supervisor::Start;

/// The agent, where no other is named.
const AGENT: &str = "agent";

/// The time that a stopping agent gives to its requests in flight: little, since tests wait for it.
const DRAIN: &str = "1s";

impl Underpass {
    /// Starts the agent, which must not be running, and waits until it is connected.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_agent(&self, transport: Transport) -> Result<(), ClusterError> {
        self.spawn_agent(transport)?;
        self.wait_connected(transport)
    }

    /// Starts the agent, which must not be running.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn spawn_agent(&self, transport: Transport) -> Result<(), ClusterError> {
        self.supervisor.start(&self.agent(AGENT, transport, &[]))
    }

    /// Starts one more agent, which differs from the usual one by these flags or has them beside its own, and gives the
    /// file that it logs to. The name tells it from the others. A flag without a value has an empty one.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn spawn_another_agent(
        &self,
        name: &'static str,
        transport: Transport,
        flags: &[(&str, &str)],
    ) -> Result<PathBuf, ClusterError> {
        let agent = self.agent(name, transport, flags);
        self.supervisor.start(&agent)?;
        Ok(agent.log)
    }

    /// Waits until the server has a session of the agent.
    ///
    /// # Errors
    /// It takes too long, or the agent has ended.
    pub fn wait_connected(&self, transport: Transport) -> Result<(), ClusterError> {
        let agent = self.agent(AGENT, transport, &[]);
        self.wait_for(&agent, AGENT, || {
            let metrics = self.metrics()?;
            match sessions(&metrics, transport) {
                0 => Err(io::Error::other("no session yet")),
                _ => Ok(()),
            }
        })
    }

    /// Ends the agent as SIGTERM does, and waits for its end.
    ///
    /// # Errors
    /// There is no way to ask for it.
    pub fn stop_agent(&self) -> Result<(), ClusterError> {
        self.supervisor.stop(AGENT, GRACE)
    }

    /// Ends the agent as SIGKILL does: nobody is told.
    ///
    /// # Errors
    /// There is no way to ask for it.
    pub fn kill_agent(&self) -> Result<(), ClusterError> {
        self.supervisor.stop(AGENT, Duration::ZERO)
    }

    /// Ends an agent that [`Self::spawn_another_agent`] has started as SIGTERM does, and waits for its end.
    ///
    /// # Errors
    /// There is no way to ask for it.
    pub fn stop_another_agent(&self, name: &'static str) -> Result<(), ClusterError> {
        self.supervisor.stop(name, GRACE)
    }

    /// The same as SIGKILL does: nobody is told, and the agent ends nothing of its own.
    ///
    /// # Errors
    /// There is no way to ask for it.
    pub fn kill_another_agent(&self, name: &'static str) -> Result<(), ClusterError> {
        self.supervisor.stop(name, Duration::ZERO)
    }

    /// The agent's log, of all of its starts.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn agent_log(&self) -> io::Result<String> {
        fs::read_to_string(self.dir.join("agent.log"))
    }

    fn agent(&self, name: &'static str, transport: Transport, changed: &[(&str, &str)]) -> Start {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let usual = [
            ("--server", self.url.clone()),
            ("--transport", transport.as_str().to_owned()),
            ("--ca-file", path(self.ca_file())),
            ("--token-file", path(self.token_file())),
            ("--kubeconfig", path(self.agent_kubeconfig.clone())),
            ("--drain", DRAIN.to_owned()),
        ];
        let mut argv = vec![path(self.programs.agent().to_owned())];
        // An agent with a key of its own has no static token.
        let is_own_key = |flag: &str| matches!(flag, "--key-file" | "--key-secret");
        let has_own_key = changed.iter().any(|(flag, _)| is_own_key(flag));
        let usual = usual
            .into_iter()
            .filter(|(flag, _)| !(has_own_key && *flag == "--token-file"));
        for (flag, value) in usual {
            let change = changed.iter().find(|(changed, _)| *changed == flag);
            argv.push(flag.to_owned());
            argv.push(change.map_or(value, |(_, value)| (*value).to_owned()));
        }
        for (flag, value) in changed {
            if !argv.iter().any(|known| known == flag) {
                argv.push((*flag).to_owned());
                // A switch has none.
                argv.extend((!value.is_empty()).then(|| (*value).to_owned()));
            }
        }
        start(name, argv, &self.dir)
    }
}

/// The sessions that the server counts over the transport.
fn sessions(metrics: &str, transport: Transport) -> u32 {
    let counts = metrics.lines().filter_map(|line| {
        let of_kind = line.strip_prefix("underpass_agent_sessions{transport=\"")?;
        let (kind, count) = of_kind.split_once("\"} ")?;
        let wanted = transport == Transport::Auto || kind == transport.as_str();
        if wanted {
            count.parse::<u32>().ok()
        } else {
            None
        }
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_transport() {
        let metrics = "# TYPE x gauge\nunderpass_agent_sessions{transport=\"quic\"} 2\n\
                       underpass_agent_sessions{transport=\"websocket\"} 1\n";
        assert_eq!(sessions(metrics, Transport::Quic), 2);
        assert_eq!(sessions(metrics, Transport::WebSocket), 1);
        assert_eq!(sessions(metrics, Transport::Auto), 3);
        assert_eq!(sessions("", Transport::Auto), 0);
    }
}
