//! Underpass's goals, as ratios within one run.

use super::{Metric, Report};
use crate::systems::SystemKind;

/// How a target stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) target: String,
    pub(super) wanted: String,
    pub(super) is: String,
    pub(super) reached: bool,
}

/// The figure of comparison.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// Of one system.
    One(&'static str),
    /// Of the best peer, and the best of those with such a part in their names.
    BestPeer(&'static str),
    /// Of the same system in another cell.
    Cell(&'static str),
    /// Nothing: the figure itself, divided by this.
    Unit(f64, &'static str),
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

struct Target {
    title: &'static str,
    scenario: &'static str,
    cells: &'static [&'static str],
    system: &'static str,
    metric: Metric,
    against: Against,
    wanted: Wanted,
}

const WEBSOCKET: &str = "underpass-websocket";
const QUIC: &str = "underpass-quic";
const TWO_LINKS: &str = "underpass-two-links";
const UDP_DIES: &[&str] = &[
    "keystroke, UDP flows forgotten",
    "new request, UDP flows forgotten",
    "watch event, UDP flows forgotten",
    "copy, UDP flows forgotten",
    "keystroke, UDP dropped",
    "new request, UDP dropped",
    "watch event, UDP dropped",
    "copy, UDP dropped",
];
const TCP_DIES: &[&str] = &[
    "keystroke, TCP connections forgotten",
    "new request, TCP connections forgotten",
    "watch event, TCP connections forgotten",
    "copy, TCP connections forgotten",
];
const BULK: &[&str] = &["1 down", "1 up", "8 down", "8 up"];

use Against::{BestPeer, Cell, One, Unit};
use Metric::{CpuPerGbit, FlowsSinceDial, IdleCpu, Late, Median, PerAgent, Rate, Throughput};
use Wanted::{AtLeast, AtMost};

#[rustfmt::skip]
const TARGETS: &[Target] = &[
    Target { title: "over WebSocket: the floor's throughput", scenario: "bulk", cells: BULK, system: WEBSOCKET, metric: Throughput, against: One("floor-tls"), wanted: AtLeast(0.9) },
    Target { title: "over WebSocket: the floor's CPU per byte", scenario: "bulk", cells: BULK, system: WEBSOCKET, metric: CpuPerGbit, against: One("floor-tls"), wanted: AtMost(1.15) },
    Target { title: "over WebSocket: remotedialer's throughput", scenario: "bulk", cells: BULK, system: WEBSOCKET, metric: Throughput, against: One("remotedialer"), wanted: AtLeast(4.0) },
    Target { title: "over WebSocket: konnectivity's throughput", scenario: "bulk", cells: BULK, system: WEBSOCKET, metric: Throughput, against: One("konnectivity"), wanted: AtLeast(4.0) },
    Target { title: "over WebSocket: the best peer's throughput", scenario: "bulk", cells: BULK, system: WEBSOCKET, metric: Throughput, against: BestPeer(""), wanted: AtLeast(1.3) },
    Target { title: "over QUIC: the floor's throughput", scenario: "bulk", cells: BULK, system: QUIC, metric: Throughput, against: One("floor-quic"), wanted: AtLeast(0.9) },
    Target { title: "over QUIC: the floor's CPU per byte", scenario: "bulk", cells: BULK, system: QUIC, metric: CpuPerGbit, against: One("floor-quic"), wanted: AtMost(1.15) },
    Target { title: "over QUIC: the best QUIC peer's throughput", scenario: "bulk", cells: BULK, system: QUIC, metric: Throughput, against: BestPeer("quic"), wanted: AtLeast(1.5) },
    Target { title: "over WebSocket: round trip, against the floor that keeps connections", scenario: "requests", cells: &["1 in flight"], system: WEBSOCKET, metric: Median, against: One("floor-tls-kept"), wanted: AtMost(1.3) },
    Target { title: "over QUIC: round trip, against the floor that keeps connections", scenario: "requests", cells: &["1 in flight"], system: QUIC, metric: Median, against: One("floor-tls-kept"), wanted: AtMost(1.3) },
    Target { title: "over WebSocket: the best peer's rate", scenario: "requests", cells: &["64 in flight"], system: WEBSOCKET, metric: Rate, against: BestPeer(""), wanted: AtLeast(2.0) },
    Target { title: "over QUIC: the best peer's rate", scenario: "requests", cells: &["64 in flight"], system: QUIC, metric: Rate, against: BestPeer(""), wanted: AtLeast(2.0) },
    Target { title: "over WebSocket: keystroke p50 in ms", scenario: "interactive", cells: &["beside a copy"], system: WEBSOCKET, metric: Median, against: Unit(1e3, " ms"), wanted: AtMost(0.5) },
    Target { title: "over QUIC: keystroke p50 in ms", scenario: "interactive", cells: &["beside a copy"], system: QUIC, metric: Median, against: Unit(1e3, " ms"), wanted: AtMost(0.5) },
    Target { title: "over WebSocket: keystroke p99, against the floor's", scenario: "interactive", cells: &["beside a copy"], system: WEBSOCKET, metric: Late, against: One("floor-tls"), wanted: AtMost(1.5) },
    Target { title: "over QUIC: keystroke p99, against the floor's", scenario: "interactive", cells: &["beside a copy"], system: QUIC, metric: Late, against: One("floor-quic"), wanted: AtMost(1.5) },
    Target { title: "over WebSocket: keystroke p99, against the best peer's", scenario: "interactive", cells: &["beside a copy"], system: WEBSOCKET, metric: Late, against: BestPeer(""), wanted: AtMost(1.0) },
    Target { title: "over QUIC: keystroke p99, against the best peer's", scenario: "interactive", cells: &["beside a copy"], system: QUIC, metric: Late, against: BestPeer(""), wanted: AtMost(1.0) },
    Target { title: "over WebSocket: keystroke p99 in ms beside 1 Gbit/s", scenario: "interactive", cells: &["beside 1 Gbit/s"], system: WEBSOCKET, metric: Late, against: Unit(1e3, " ms"), wanted: AtMost(1.5) },
    Target { title: "over QUIC: keystroke p99 in ms beside 1 Gbit/s", scenario: "interactive", cells: &["beside 1 Gbit/s"], system: QUIC, metric: Late, against: Unit(1e3, " ms"), wanted: AtMost(1.5) },
    Target { title: "over WebSocket: keystroke p50, against the best peer's", scenario: "link", cells: &["beside a copy"], system: WEBSOCKET, metric: Median, against: BestPeer(""), wanted: AtMost(1.0) },
    Target { title: "over WebSocket: keystroke p99, against the best peer's", scenario: "link", cells: &["beside a copy"], system: WEBSOCKET, metric: Late, against: BestPeer(""), wanted: AtMost(1.0) },
    Target { title: "over QUIC: keystroke p50, against the best peer's", scenario: "link", cells: &["beside a copy"], system: QUIC, metric: Median, against: BestPeer(""), wanted: AtMost(1.0) },
    Target { title: "over QUIC: keystroke p99, against the best peer's", scenario: "link", cells: &["beside a copy"], system: QUIC, metric: Late, against: BestPeer(""), wanted: AtMost(1.0) },
    Target { title: "over QUIC: keystroke p99, against alone", scenario: "loss", cells: &["beside a copy"], system: QUIC, metric: Late, against: Cell("alone"), wanted: AtMost(1.2) },
    Target { title: "over WebSocket: server memory in KiB of an idle agent", scenario: "idle", cells: &["1000 agents", "4000 agents"], system: WEBSOCKET, metric: PerAgent, against: Unit(1.0, " KiB"), wanted: AtMost(24.0) },
    Target { title: "over QUIC: server memory in KiB of an idle agent", scenario: "idle", cells: &["1000 agents", "4000 agents"], system: QUIC, metric: PerAgent, against: Unit(1.0, " KiB"), wanted: AtMost(48.0) },
    Target { title: "over WebSocket: an idle server in % of a core", scenario: "idle", cells: &["4000 agents"], system: WEBSOCKET, metric: IdleCpu, against: Unit(1.0, "%"), wanted: AtMost(5.0) },
    Target { title: "over QUIC: an idle server in % of a core", scenario: "idle", cells: &["4000 agents"], system: QUIC, metric: IdleCpu, against: Unit(1.0, "%"), wanted: AtMost(5.0) },
    Target { title: "over WebSocket: seconds until all are back after a restart", scenario: "idle", cells: &["4000 agents"], system: WEBSOCKET, metric: Metric::Back, against: Unit(1.0, " s"), wanted: AtMost(60.0) },
    Target { title: "over QUIC: seconds until all are back after a restart", scenario: "idle", cells: &["4000 agents"], system: QUIC, metric: Metric::Back, against: Unit(1.0, " s"), wanted: AtMost(60.0) },
    Target { title: "over WebSocket: opening a stream, against 10 agents", scenario: "idle", cells: &["4000 agents"], system: WEBSOCKET, metric: Metric::Opened, against: Cell("10 agents"), wanted: AtMost(1.2) },
    Target { title: "over QUIC: opening a stream, against 10 agents", scenario: "idle", cells: &["4000 agents"], system: QUIC, metric: Metric::Opened, against: Cell("10 agents"), wanted: AtMost(1.2) },
    Target { title: "over WebSocket: p50 above direct, in ms", scenario: "kube", cells: &["GET"], system: WEBSOCKET, metric: Metric::Added, against: Unit(1e3, " ms"), wanted: AtMost(0.35) },
    Target { title: "over QUIC: p50 above direct, in ms", scenario: "kube", cells: &["GET"], system: QUIC, metric: Metric::Added, against: Unit(1e3, " ms"), wanted: AtMost(0.35) },
    Target { title: "over WebSocket: a write is seen later than direct, in ms", scenario: "kube", cells: &["1000 watches"], system: WEBSOCKET, metric: Metric::Added, against: Unit(1e3, " ms"), wanted: AtMost(2.0) },
    Target { title: "over QUIC: a write is seen later than direct, in ms", scenario: "kube", cells: &["1000 watches"], system: QUIC, metric: Metric::Added, against: Unit(1e3, " ms"), wanted: AtMost(2.0) },
    Target { title: "over WebSocket: an idle agent process in MiB", scenario: "kube", cells: &["idle agent"], system: WEBSOCKET, metric: Metric::AgentResident, against: Unit(1.0, " MiB"), wanted: AtMost(8.0) },
    Target { title: "over QUIC: an idle agent process in MiB", scenario: "kube", cells: &["idle agent"], system: QUIC, metric: Metric::AgentResident, against: Unit(1.0, " MiB"), wanted: AtMost(8.0) },
    Target { title: "over WebSocket: another user's GET, p99 over alone", scenario: "neighbour", cells: &["beside 1000 watches"], system: WEBSOCKET, metric: Metric::LateOverAlone, against: Unit(1.0, " times"), wanted: AtMost(1.2) },
    Target { title: "over QUIC: another user's GET, p99 over alone", scenario: "neighbour", cells: &["beside 1000 watches"], system: QUIC, metric: Metric::LateOverAlone, against: Unit(1.0, " times"), wanted: AtMost(1.2) },
    Target { title: "over WebSocket: bytes flow after the reconnect's start, in ms", scenario: "recovery", cells: &["connection cut"], system: WEBSOCKET, metric: FlowsSinceDial, against: Unit(1.0, " ms"), wanted: AtMost(100.0) },
    Target { title: "with two links: bytes flow again, p99 in ms", scenario: "dead-path", cells: UDP_DIES, system: TWO_LINKS, metric: Metric::FlowsAgainLate, against: Unit(1.0, " ms"), wanted: AtMost(300.0) },
    Target { title: "over QUIC alone: bytes flow again, p99 in ms", scenario: "dead-path", cells: UDP_DIES, system: QUIC, metric: Metric::FlowsAgainLate, against: Unit(1.0, " ms"), wanted: AtMost(2000.0) },
    Target { title: "over WebSocket alone: bytes flow again, p99 in ms", scenario: "dead-path", cells: TCP_DIES, system: WEBSOCKET, metric: Metric::FlowsAgainLate, against: Unit(1.0, " ms"), wanted: AtMost(2000.0) },
];

/// How all targets stand for which there are figures.
pub(super) fn judge(report: &Report) -> Vec<Verdict> {
    let each = TARGETS.iter().flat_map(|target| {
        let cells = target.cells.iter();
        cells.filter_map(|cell| verdict(report, target, cell))
    });
    each.collect()
}

fn verdict(report: &Report, target: &Target, cell: &str) -> Option<Verdict> {
    let median = |cell: &str, system: &str| {
        let spread = report.spread(target.scenario, cell, system, target.metric)?;
        Some(spread.median)
    };
    let ours = median(cell, target.system)?;
    let (other, unit, whose) = match target.against {
        One(system) => (median(cell, system)?, " times", String::new()),
        BestPeer(part) => {
            let (name, best) = best_peer(report, target, part, |system| median(cell, system))?;
            (best, " times", format!(" ({name})"))
        }
        Cell(other) => (median(other, target.system)?, " times", String::new()),
        Unit(unit, name) => (unit, name, String::new()),
    };
    let is = ours / other;
    let (wanted, reached) = match target.wanted {
        AtLeast(least) => (format!("at least {least}{unit}"), is >= least),
        AtMost(most) => (format!("at most {most}{unit}"), is <= most),
    };
    Some(Verdict {
        target: format!("{}, {cell}: {}", target.scenario, target.title),
        wanted,
        is: format!("{is:.2}{unit}{whose}"),
        reached,
    })
}

fn best_peer(
    report: &Report,
    target: &Target,
    part: &str,
    figure: impl Fn(&str) -> Option<f64>,
) -> Option<(String, f64)> {
    let peers = report
        .systems
        .iter()
        .filter(|entry| entry.kind == SystemKind::Peer);
    let peers = peers.filter(|entry| entry.name.contains(part));
    let figures = peers.filter_map(|entry| Some((entry.name.clone(), figure(&entry.name)?)));
    match target.wanted {
        AtLeast(_) => figures.max_by(|(_, one), (_, other)| one.total_cmp(other)),
        AtMost(_) => figures.min_by(|(_, one), (_, other)| one.total_cmp(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_peer_is_the_one_to_beat() {
        let report = super::super::tests::report();
        let verdicts = judge(&report);
        let find = |part: &str| {
            let found = verdicts
                .iter()
                .find(|verdict| verdict.target.contains(part));
            found.unwrap().clone()
        };
        let best = find("best peer's throughput");
        assert_eq!(best.is, "4.75 times (remotedialer)");
        assert!(best.reached);
        let remotedialer = find("remotedialer's throughput");
        assert_eq!(remotedialer.wanted, "at least 4 times");
        // There is no figure of a QUIC floor.
        assert!(
            !verdicts
                .iter()
                .any(|verdict| verdict.target.contains("QUIC"))
        );
    }
}
