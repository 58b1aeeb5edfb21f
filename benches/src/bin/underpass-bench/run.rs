//! A run: prepares, measures and reports the chosen systems.

use anyhow::{Result, bail};
use clap::ValueEnum as _;

use crate::cli::{Choice, Options};
use crate::plan::Plan;
use crate::report::{Entry, Others, Report, markdown};
use crate::scenarios::{Bench, Scenario};
use crate::site::Site;
use crate::systems::{self, System, SystemKind};

/// Builds the peers that are chosen.
///
/// # Errors
/// Where one cannot be; after the others were.
pub(crate) fn setup(choice: &Choice) -> Result<()> {
    let mut failed = Vec::new();
    for system in chosen(choice, false)? {
        if let Err(error) = system.prepare() {
            eprintln!("{}: {error:#}", system.name());
            failed.push(system.name());
        }
    }
    if !failed.is_empty() {
        bail!("not there: {}", failed.join(", "));
    }
    Ok(())
}

/// Measures, prints the report, and writes it after each scenario.
///
/// # Errors
/// The benchmark cannot go on. The failure of one system is in the report instead.
pub(crate) fn run(options: &Options) -> Result<()> {
    // The threads of the load; systems run in processes of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // Here, and in no task: processes end with the thread that has started them.
    runtime.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<()> {
    let plan = plan(options);
    let mut systems = chosen(&options.choice, options.short)?;
    let entries = systems.iter().map(|system| Entry {
        name: system.name().to_owned(),
        kind: system.kind(),
        settings: system.settings().to_owned(),
    });
    let mut report = Report::new(plan.clone(), entries.collect());
    systems.retain(|system| match system.prepare() {
        Ok(()) => true,
        Err(error) => {
            report.fail(None, system.name(), &error);
            false
        }
    });
    let site = Site::new()?;
    let others = Others::watch()?;
    for scenario in scenarios(options) {
        let mut bench = Bench {
            site: &site,
            systems: &systems,
            plan: &plan,
            report: &mut report,
        };
        scenario.run(&mut bench).await?;
        report.write(&options.output)?;
    }
    report.others = Some(others()?);
    report.write(&options.output)?;
    println!("{}", markdown(&report));
    eprintln!("written to {}", options.output.display());
    Ok(())
}

fn plan(options: &Options) -> Plan {
    let mut plan = if options.short {
        Plan::short()
    } else {
        Plan::full()
    };
    if let Some(repetitions) = options.repetitions {
        plan.repetitions = repetitions;
    }
    if !options.agents.is_empty() {
        plan.crowds.clone_from(&options.agents);
    }
    plan
}

fn scenarios(options: &Options) -> Vec<Scenario> {
    if !options.scenario.is_empty() {
        return options.scenario.clone();
    }
    let all = Scenario::value_variants().iter().copied();
    // Kubernetes and the product's programs take minutes to build.
    all.filter(|&scenario| {
        !options.short
            || !matches!(
                scenario,
                Scenario::Kube
                    | Scenario::Neighbour
                    | Scenario::Forward
                    | Scenario::Crowd
                    | Scenario::Roles
                    | Scenario::Flood
            )
    })
    .collect()
}

/// The systems that are named; without names all, or in a short run those that need no building.
fn chosen(choice: &Choice, short: bool) -> Result<Vec<Box<dyn System>>> {
    let all = systems::all();
    for name in &choice.only {
        if !all.iter().any(|system| system.name() == name) {
            let names: Vec<_> = all.iter().map(|system| system.name()).collect();
            bail!(
                "there is no system `{name}`: there are {}",
                names.join(", ")
            );
        }
    }
    let wanted = |system: &dyn System| {
        if choice.only.is_empty() {
            !short || system.kind() != SystemKind::Peer
        } else {
            choice.only.iter().any(|name| name == system.name())
        }
    };
    Ok(all
        .into_iter()
        .filter(|system| wanted(system.as_ref()))
        .collect())
}
