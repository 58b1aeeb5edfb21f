//! A report for people.

use super::table::Table;
use super::targets::{self, Verdict};
use super::{Metric, Report};
use crate::statistics::Spread;

/// The whole report.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# underpass-bench, {}\n\n{}\n",
        report.begun,
        conditions(report)
    );
    for scenario in scenarios(report) {
        text.push_str(&format!("\n## {scenario}\n"));
        for cell in cells(report, &scenario) {
            text.push_str(&format!(
                "\n### {scenario}: {cell}\n\n{}",
                table(report, &scenario, &cell)
            ));
        }
    }
    text.push_str(&against_targets(report));
    text.push_str(&failures(report));
    text.push_str("\n## Systems\n\n");
    let mut systems = Table::of_words(["system", "what it is"]);
    for entry in &report.systems {
        systems.row([&entry.name, &entry.settings]);
    }
    text.push_str(&systems.markdown());
    text
}

fn conditions(report: &Report) -> String {
    let machine = &report.machine;
    let others = report.others.map_or_else(String::new, |others| {
        format!(
            " Other processes took {:.0}% of the machine meanwhile.",
            others.0
        )
    });
    format!(
        "{} cores of {}, Linux {}, TCP with {}. Medians of {} repetitions (least to most), in which all systems \
         take turns.{others}\n",
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.congestion_control,
        report.plan.repetitions
    )
}

/// In the order in which they were measured.
fn scenarios(report: &Report) -> Vec<String> {
    in_order(report.figures.iter().map(|figure| &figure.scenario))
}

fn cells(report: &Report, scenario: &str) -> Vec<String> {
    let figures = report.figures.iter();
    in_order(
        figures
            .filter(|figure| figure.scenario == scenario)
            .map(|figure| &figure.cell),
    )
}

fn in_order<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut order = Vec::new();
    for name in names {
        if !order.contains(name) {
            order.push(name.clone());
        }
    }
    order
}

fn table(report: &Report, scenario: &str, cell: &str) -> String {
    let of_cell = || {
        let figures = report.figures.iter();
        figures.filter(|figure| figure.scenario == scenario && figure.cell == cell)
    };
    let mut metrics: Vec<Metric> = of_cell().map(|figure| figure.metric).collect();
    metrics.sort();
    metrics.dedup();
    let head = std::iter::once("system").chain(metrics.iter().map(|metric| metric.title()));
    let mut table = Table::new(head);
    for entry in &report.systems {
        if !of_cell().any(|figure| figure.system == entry.name) {
            continue;
        }
        let figures = metrics.iter().map(|&metric| {
            let spread = report.spread(scenario, cell, &entry.name, metric);
            spread.map_or_else(|| "–".to_owned(), |spread| figure(spread, metric.digits()))
        });
        table.row(std::iter::once(entry.name.clone()).chain(figures));
    }
    table.markdown()
}

/// A median, and where there is more than one sample, from where to where they go.
fn figure(spread: Spread, digits: usize) -> String {
    let Spread { median, min, max } = spread;
    if min == max {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

fn against_targets(report: &Report) -> String {
    let verdicts = targets::judge(report);
    if verdicts.is_empty() {
        return String::new();
    }
    let mut table = Table::of_words(["target", "wanted", "is", "reached"]);
    for Verdict {
        target,
        wanted,
        is,
        reached,
    } in verdicts
    {
        table.row([
            target,
            wanted,
            is,
            if reached { "yes" } else { "no" }.to_owned(),
        ]);
    }
    format!("\n## Targets\n\n{}", table.markdown())
}

fn failures(report: &Report) -> String {
    if report.failures.is_empty() {
        return String::new();
    }
    let mut table = Table::of_words(["not measured", "in", "why"]);
    for failure in &report.failures {
        let scenario = failure.scenario.as_deref().unwrap_or("anything");
        table.row([failure.system.as_str(), scenario, &failure.reason]);
    }
    format!("\n## Not measured\n\n{}", table.markdown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_tables_targets_and_what_is_missing() {
        let text = markdown(&super::super::tests::report());
        for line in [
            "| system | Gbit/s |",
            "| floor-tls | 10.00 (9.00 to 12.00) |",
            "| remotedialer | anything | no <Go> |",
            "| direct | how direct is set up |",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        let ratio = text
            .lines()
            .find(|line| line.contains("floor's throughput"))
            .unwrap();
        assert!(
            ratio.contains("0.95") && ratio.ends_with("| yes |"),
            "{ratio}"
        );
    }

    #[test]
    fn a_single_sample_has_no_range() {
        let one = Spread {
            median: 2.5,
            min: 2.5,
            max: 2.5,
        };
        assert_eq!(figure(one, 1), "2.5");
    }
}
