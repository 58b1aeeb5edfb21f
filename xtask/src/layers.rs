//! The table of crates in docs/ARCHITECTURE.md: each crate links the crates of ours that its row names, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::process;

const TABLE: &str = "docs/ARCHITECTURE.md";

/// The heading of the table.
const CRATES: &str = "## Crates";

/// What the names of our crates begin with.
const OURS: &str = "underpass-";

/// What `cargo metadata` says.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

/// A package, and what it links.
#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

/// `None` for what is linked; tests and build scripts have a name.
#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// What links what.
struct Graph {
    members: BTreeSet<String>,
    links: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of(metadata: &Metadata) -> Self {
        let names: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let name = |id: &str| names.get(id).copied().unwrap_or_default().to_owned();
        let members = metadata.workspace_members.iter();
        let mut links = BTreeMap::<_, BTreeSet<_>>::new();
        for node in &metadata.resolve.nodes {
            let linked = node
                .deps
                .iter()
                .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .map(|dependency| name(&dependency.pkg));
            links.entry(name(&node.id)).or_default().extend(linked);
        }
        Self {
            members: members.map(|id| name(id)).collect(),
            links,
        }
    }

    /// The crates of ours that a crate names as dependencies.
    fn own(&self, package: &str) -> BTreeSet<&str> {
        let linked = self.links.get(package).into_iter().flatten();
        linked
            .map(String::as_str)
            .filter(|name| self.members.contains(*name))
            .collect()
    }

    /// Everything that a crate links, over however many others.
    fn all(&self, package: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = vec![package];
        while let Some(package) = next.pop() {
            for linked in self.links.get(package).into_iter().flatten() {
                if seen.insert(linked.as_str()) {
                    next.push(linked);
                }
            }
        }
        seen
    }

    fn check(&self, row: &Row<'_>) -> Result<()> {
        let name = row.name;
        let own = self.own(name);
        ensure!(
            own == row.links,
            "{TABLE}: {name} is said to link {:?} of ours, and links {own:?}",
            row.links
        );
        let all = self.all(name);
        for never in &row.never {
            ensure!(
                !all.contains(never),
                "{TABLE}: {name} is said never to link {never}, and does"
            );
        }
        Ok(())
    }
}

/// One crate.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    name: &'a str,
    links: BTreeSet<&'a str>,
    never: BTreeSet<&'a str>,
}

/// Holds the table against the workspace below `root`.
///
/// # Errors
/// What it says and `cargo metadata` does not.
pub(crate) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(TABLE)).context("there is no table of crates")?;
    let rows = rows(&text)?;
    let mut command = process::cargo()?;
    command.args(["metadata", "--format-version", "1"]);
    let output = command.output().context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata's answer")?;
    let graph = Graph::of(&metadata);
    for row in &rows {
        ensure!(
            graph.members.contains(row.name),
            "{TABLE}: there is no crate {}",
            row.name
        );
        graph.check(row)?;
    }
    let missing = graph
        .members
        .iter()
        .filter(|name| name.starts_with(OURS))
        .find(|name| !rows.iter().any(|row| row.name == *name));
    match missing {
        Some(name) => bail!("{TABLE}: no row for the crate {name}"),
        None => Ok(()),
    }
}

/// `| crate | where | what it is | links | never links |`
fn rows(text: &str) -> Result<Vec<Row<'_>>> {
    let section = text.split_once(CRATES).map(|(_, rest)| rest);
    let section = section.with_context(|| format!("{TABLE}: no section {CRATES:?}"))?;
    let lines = section.lines().take_while(|line| !line.starts_with("## "));
    let mut rows = Vec::new();
    for line in lines {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", name, _, _, links, never, ""] = cells[..] else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|n| n.strip_suffix('`')) else {
            continue;
        };
        rows.push(Row {
            name,
            links: names(links)?,
            never: names(never)?,
        });
    }
    ensure!(!rows.is_empty(), "{TABLE}: no crate in {CRATES:?}");
    Ok(rows)
}

/// Names in `backticks`, or a dash for none.
fn names(cell: &str) -> Result<BTreeSet<&str>> {
    if cell == "–" {
        return Ok(BTreeSet::new());
    }
    let words = cell.split_whitespace().map(|word| {
        let name = word.strip_prefix('`').and_then(|w| w.strip_suffix('`'));
        name.with_context(|| format!("{TABLE}: {word:?} is not in `backticks`"))
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_true() {
        check(&process::root().unwrap()).unwrap();
    }

    fn graph() -> Graph {
        let links = [
            ("underpass-top", &["underpass-low", "other"][..]),
            ("underpass-low", &["serde"]),
            ("other", &["redb"]),
        ];
        let links = links.into_iter().map(|(name, linked)| {
            let linked = linked.iter().map(|&name| name.to_owned()).collect();
            (name.to_owned(), linked)
        });
        Graph {
            members: ["underpass-top", "underpass-low"].map(str::to_owned).into(),
            links: links.collect(),
        }
    }

    #[test]
    fn a_row_says_what_is_linked_and_what_never_is() {
        let head = format!(
            "{CRATES}\n\n| crate | where | what | links | never |\n|---|---|---|---|---|\n"
        );
        let good = format!("{head}| `underpass-top` | top | it | `underpass-low` | `ldap3` |\n");
        let rows = rows(&good).unwrap();
        graph().check(&rows[0]).unwrap();
        for wrong in [
            // It links one more.
            "| `underpass-top` | top | it | – | – |",
            // Or one less.
            "| `underpass-low` | low | it | `underpass-top` | – |",
            // Over another crate.
            "| `underpass-top` | top | it | `underpass-low` | `redb` |",
        ] {
            let text = format!("{head}{wrong}\n");
            let rows = super::rows(&text).unwrap();
            graph().check(&rows[0]).unwrap_err();
        }
        for unreadable in [
            "no section",
            &head,
            &format!("{head}| `a` | b | c | d | – |\n"),
        ] {
            super::rows(unreadable).unwrap_err();
        }
    }
}
