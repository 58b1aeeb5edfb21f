//! The report of a run.

mod machine;
mod markdown;
mod metric;
mod plot;
mod table;
mod targets;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub(crate) use self::machine::{Machine, Others};
pub(crate) use self::markdown::markdown;
pub(crate) use self::metric::Metric;
use crate::plan::Plan;
use crate::statistics::Spread;
use crate::systems::SystemKind;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it began (RFC 3339).
    pub(crate) begun: String,
    /// Where.
    pub(crate) machine: Machine,
    /// How long.
    pub(crate) plan: Plan,
    /// The systems.
    pub(crate) systems: Vec<Entry>,
    /// The results.
    pub(crate) figures: Vec<Figure>,
    /// The failures.
    pub(crate) failures: Vec<Failure>,
    /// Processor time of other processes, once the run is over.
    pub(crate) others: Option<Others>,
}

/// A system in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// On the command line, and in tables.
    pub(crate) name: String,
    /// The system's name.
    pub(crate) kind: SystemKind,
    /// How it is set up.
    pub(crate) settings: String,
}

/// One metric of one system in one cell of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Of which scenario.
    pub(crate) scenario: String,
    /// Which variant of it.
    pub(crate) cell: String,
    /// Of which system.
    pub(crate) system: String,
    /// The metric.
    pub(crate) metric: Metric,
    /// One for each repetition.
    pub(crate) samples: Vec<f64>,
}

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Of which scenario; `None` where the system could not be had at all.
    pub(crate) scenario: Option<String>,
    /// Of which system.
    pub(crate) system: String,
    /// Why.
    pub(crate) reason: String,
}

impl Report {
    /// One without figures yet.
    pub(crate) fn new(plan: Plan, systems: Vec<Entry>) -> Self {
        Self {
            begun: machine::now(),
            machine: Machine::this(),
            plan,
            systems,
            figures: Vec::new(),
            failures: Vec::new(),
            others: None,
        }
    }

    /// One more system, of a scenario that has some of its own.
    pub(crate) fn describe(&mut self, system: Entry) {
        if !self.systems.contains(&system) {
            self.systems.push(system);
        }
    }

    /// Another sample.
    pub(crate) fn add(
        &mut self,
        scenario: &str,
        cell: &str,
        system: &str,
        metric: Metric,
        sample: f64,
    ) {
        let same = |figure: &&mut Figure| {
            figure.scenario == scenario
                && figure.cell == cell
                && figure.system == system
                && figure.metric == metric
        };
        match self.figures.iter_mut().find(same) {
            Some(figure) => figure.samples.push(sample),
            None => self.figures.push(Figure {
                scenario: scenario.to_owned(),
                cell: cell.to_owned(),
                system: system.to_owned(),
                metric,
                samples: vec![sample],
            }),
        }
    }

    /// Something that was not measured.
    pub(crate) fn fail(&mut self, scenario: Option<&str>, system: &str, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        eprintln!(
            "{}: {system}: FAILED: {reason}",
            scenario.unwrap_or("setup")
        );
        self.failures.push(Failure {
            scenario: scenario.map(str::to_owned),
            system: system.to_owned(),
            reason,
        });
    }

    /// The sample; `None` where nothing was measured.
    pub(crate) fn spread(
        &self,
        scenario: &str,
        cell: &str,
        system: &str,
        metric: Metric,
    ) -> Option<Spread> {
        let mut figures = self.figures.iter();
        let figure = figures.find(|figure| {
            figure.scenario == scenario
                && figure.cell == cell
                && figure.system == system
                && figure.metric == metric
        })?;
        Spread::of(&figure.samples)
    }

    /// Writes `report.json`, `report.md` and the plots into `folder`.
    ///
    /// # Errors
    /// Where there is no place.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: &str| {
            fs::write(folder.join(name), text)
                .with_context(|| format!("cannot write {}", folder.join(name).display()))
        };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write("report.json", &(serde_json::to_string_pretty(self)? + "\n"))?;
        write("report.md", &markdown(self))?;
        for (name, svg) in plot::all(self) {
            write(&format!("{name}.svg"), &svg)?;
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// Where it is not there, or something else.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no report", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn report() -> Report {
        let entry = |name: &str, kind| Entry {
            name: name.to_owned(),
            kind,
            settings: format!("how {name} is set up"),
        };
        let systems = vec![
            entry("direct", SystemKind::Direct),
            entry("floor-tls", SystemKind::Floor),
            entry("underpass-websocket", SystemKind::Underpass),
            entry("remotedialer", SystemKind::Peer),
        ];
        let mut report = Report::new(Plan::short(), systems);
        for (system, gbits) in [
            ("floor-tls", 10.0),
            ("underpass-websocket", 9.5),
            ("remotedialer", 2.0),
        ] {
            for noise in [0.9, 1.0, 1.2] {
                report.add("bulk", "1 down", system, Metric::Throughput, gbits * noise);
            }
        }
        report.fail(None, "remotedialer", &anyhow::anyhow!("no <Go>"));
        report
    }

    #[test]
    fn samples_of_one_figure_come_together() {
        let report = report();
        assert_eq!(report.figures.len(), 3);
        let spread = report.spread("bulk", "1 down", "floor-tls", Metric::Throughput);
        assert_eq!(
            spread.unwrap(),
            Spread {
                median: 10.0,
                min: 9.0,
                max: 12.0
            }
        );
        assert_eq!(
            report.spread("bulk", "1 up", "floor-tls", Metric::Throughput),
            None
        );
    }

    #[test]
    fn a_report_is_read_again_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let report = report();
        report.write(folder.path()).unwrap();
        assert_eq!(
            Report::read(&folder.path().join("report.json")).unwrap(),
            report
        );
        let error = Report::read(&folder.path().join("report.md")).unwrap_err();
        assert!(error.to_string().contains("no report"), "{error}");
    }
}
