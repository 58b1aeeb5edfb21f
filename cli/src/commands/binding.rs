//! `underpass binding`

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use underpass_api::client::Match;
use underpass_api::{BindingSpec, BindingStatus, Client, View, segment};
use underpass_core::{Labels, Selector, Subject};
use underpass_terminal::say;

use super::{list, print_table};
use crate::args::{Binding, NewBinding};

type Shown = View<BindingSpec, BindingStatus>;

pub(crate) async fn run(client: &Client, command: Binding) -> Result<()> {
    match command {
        Binding::Set(wanted) => {
            let name = wanted.name.clone();
            let spec = spec(wanted)?;
            let path = format!("/v1/bindings/{}", segment(name.as_str()));
            let shown: Shown = client.make_or_replace(&path, &spec).await?;
            say!(
                "Binding {name}: {} on {} for {}.",
                shown.spec.role,
                clusters(&shown.spec.clusters),
                subjects(&shown.spec.subjects)
            );
        }
        Binding::List => {
            let bindings: Vec<Shown> = client.list("/v1/bindings").await?;
            let rows: Vec<_> = bindings
                .iter()
                .map(|binding| {
                    vec![
                        binding.name.clone(),
                        binding.spec.role.to_string(),
                        clusters(&binding.spec.clusters),
                        subjects(&binding.spec.subjects),
                    ]
                })
                .collect();
            print_table(&["BINDING", "ROLE", "CLUSTERS", "SUBJECTS"], &rows);
        }
        Binding::Remove { name } => {
            client
                .delete(
                    &format!("/v1/bindings/{}", segment(name.as_str())),
                    Match::Anything,
                )
                .await?;
            say!("Binding {name} is removed; streams that needed it end.");
        }
    }
    Ok(())
}

fn spec(wanted: NewBinding) -> Result<BindingSpec> {
    let users = wanted.users.into_iter().map(Subject::user);
    let groups = wanted.groups.into_iter().map(Subject::group);
    let subjects = users.chain(groups).map(|subject| Subject {
        authority: wanted.authority.clone(),
        ..subject
    });
    let labels: BTreeMap<String, String> = wanted
        .labels
        .iter()
        .map(|label| {
            let pair = label.split_once('=');
            let (key, value) = pair.with_context(|| format!("{label:?} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect::<Result<_>>()?;
    Ok(BindingSpec {
        subjects: subjects.collect(),
        clusters: Selector {
            all: wanted.all_clusters,
            names: wanted.clusters.into_iter().collect(),
            labels: Labels::try_from(labels)?,
        },
        role: wanted.role,
    })
}

fn subjects(subjects: &BTreeSet<Subject>) -> String {
    let subjects = subjects.iter().map(ToString::to_string);
    list(&subjects.collect::<Vec<_>>())
}

fn clusters(selector: &Selector) -> String {
    let mut chosen: Vec<_> = selector.names.iter().map(ToString::to_string).collect();
    chosen.extend(selector.all.then(|| "*".to_owned()));
    let labels = selector.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if !labels.is_empty() {
        // Clusters need all of them.
        chosen.push(labels.join("&"));
    }
    list(&chosen)
}
