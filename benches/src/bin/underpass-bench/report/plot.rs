//! Plots of a report: bars with their range. A plotting library would bring fonts and image formats for
//! what are a few rectangles.

use super::{Metric, Report};
use crate::statistics::Spread;
use crate::systems::SystemKind;

const WIDTH: f64 = 760.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 40.0;
/// Where names end and bars begin.
const LEFT: f64 = 170.0;
/// The room behind the longest bar, for its number.
const RIGHT: f64 = 80.0;

/// A figure of every system.
struct Chart {
    name: &'static str,
    title: &'static str,
    scenario: &'static str,
    cell: &'static str,
    metric: Metric,
}

#[rustfmt::skip]
const CHARTS: &[Chart] = &[
    Chart { name: "bulk", title: "One stream down, Gbit/s (more is better)", scenario: "bulk", cell: "1 down", metric: Metric::Throughput },
    Chart { name: "bulk-8", title: "Eight streams down, Gbit/s (more is better)", scenario: "bulk", cell: "8 down", metric: Metric::Throughput },
    Chart { name: "bulk-cpu", title: "One stream down, CPU s of server and agent per Gbit (less is better)", scenario: "bulk", cell: "1 down", metric: Metric::CpuPerGbit },
    Chart { name: "requests", title: "A connection per request of 1 KiB, p50 in µs (less is better)", scenario: "requests", cell: "1 in flight", metric: Metric::Median },
    Chart { name: "requests-64", title: "64 requests in flight, answers per second (more is better)", scenario: "requests", cell: "64 in flight", metric: Metric::Rate },
    Chart { name: "keystroke", title: "Keystroke beside a copy, p99 in µs (less is better)", scenario: "interactive", cell: "beside a copy", metric: Metric::Late },
    Chart { name: "keystroke-link", title: "Keystroke beside a copy that fills 100 Mbit/s and 40 ms, p99 in µs (less is better)", scenario: "link", cell: "beside a copy", metric: Metric::Late },
    Chart { name: "recovery", title: "Cut connection: ms until bytes flow (less is better)", scenario: "recovery", cell: "connection cut", metric: Metric::Flows },
];

/// Every chart that there are figures for: its name, and its SVG.
pub(super) fn all(report: &Report) -> Vec<(&'static str, String)> {
    let drawn = CHARTS.iter().filter_map(|chart| {
        let bars = bars(report, chart);
        (!bars.is_empty()).then(|| (chart.name, draw(chart, &bars)))
    });
    drawn.collect()
}

struct Bar {
    name: String,
    kind: SystemKind,
    spread: Spread,
}

fn bars(report: &Report, chart: &Chart) -> Vec<Bar> {
    let each = report.systems.iter().filter_map(|entry| {
        let spread = report.spread(chart.scenario, chart.cell, &entry.name, chart.metric)?;
        Some(Bar {
            name: entry.name.clone(),
            kind: entry.kind,
            spread,
        })
    });
    each.collect()
}

fn draw(chart: &Chart, bars: &[Bar]) -> String {
    let most = bars
        .iter()
        .map(|bar| bar.spread.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let height = HEAD + ROW * bars.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-weight=\"bold\">{}</text>\n",
        escape(chart.title)
    );
    for (row, bar) in bars.iter().enumerate() {
        svg.push_str(&draw_bar(
            bar,
            HEAD + ROW * row as f64,
            scale,
            chart.metric.digits(),
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_bar(bar: &Bar, top: f64, scale: f64, digits: usize) -> String {
    let Spread { median, min, max } = bar.spread;
    let at = |value: f64| LEFT + value.max(0.0) * scale;
    let (text, middle) = (top + 16.0, top + 11.0);
    let (from, to) = (at(min), at(max));
    format!(
        "<text x=\"{label:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{name}</text>\n\
         <rect x=\"{LEFT:.1}\" y=\"{bar_top:.1}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>\n\
         <path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"black\"/>\n\
         <text x=\"{number:.1}\" y=\"{text:.1}\">{median:.digits$}</text>\n",
        label = LEFT - 8.0,
        name = escape(&bar.name),
        bar_top = top + 3.0,
        width = at(median) - LEFT,
        colour = colour(bar.kind),
        number = to.max(at(median)) + 6.0,
    )
}

const fn colour(kind: SystemKind) -> &'static str {
    match kind {
        SystemKind::Direct => "#bbbbbb",
        SystemKind::Floor => "#8fa8c8",
        SystemKind::Underpass => "#2f7d4f",
        SystemKind::Peer => "#d9a35b",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median_is() {
        let charts = all(&super::super::tests::report());
        let names: Vec<_> = charts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["bulk"], "only what has figures is drawn");
        let svg = &charts[0].1;
        assert_eq!(svg.matches("<path").count(), 3, "{svg}");
        // 12 is the most, and as long as there is room: 510 points.
        for width in ["425.0", "403.8", "85.0"] {
            assert!(
                svg.contains(&format!("width=\"{width}\" height=\"16\"")),
                "{width}: {svg}"
            );
        }
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
