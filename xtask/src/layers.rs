//! The table of crates in docs/ARCHITECTURE.md: each crate links the crates of ours that its row names, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

const TABLE: &str = "docs/ARCHITECTURE.md";

/// The heading of the table.
const CRATES: &str = "## Crates";

/// The prefix of our crates' names.
const OURS: &str = "underpass-";

/// The crates of the workspace, and the crates that each of them links.
#[derive(Default)]
struct Graph {
    /// By its own manifest.
    own: BTreeMap<String, BTreeSet<String>>,
    /// Over any number of others.
    all: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read() -> Result<Self> {
        let mut graph = Self::default();
        for member in tree(&["--workspace", "--depth", "0"])? {
            let own = tree(&["--package", &member, "--depth", "1"])?;
            let all = tree(&["--package", &member])?;
            graph.own.insert(member.clone(), own);
            graph.all.insert(member, all);
        }
        Ok(graph)
    }

    /// The crates of the workspace that a crate's manifest names.
    fn own(&self, package: &str) -> BTreeSet<&str> {
        let linked = self.own.get(package).into_iter().flatten();
        linked
            .map(String::as_str)
            .filter(|name| *name != package && self.own.contains_key(*name))
            .collect()
    }

    fn check(&self, row: &Row<'_>) -> Result<()> {
        let name = row.name;
        let own = self.own(name);
        ensure!(
            own == row.links,
            "{TABLE}: {name} is said to link {:?} of ours, and links {own:?}",
            row.links
        );
        for never in &row.never {
            ensure!(
                !self.all.get(name).is_some_and(|all| all.contains(*never)),
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
/// The table differs from the manifests.
pub(crate) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(TABLE)).context("there is no table of crates")?;
    let rows = rows(&text)?;
    let graph = Graph::read()?;
    for row in &rows {
        ensure!(
            graph.own.contains_key(row.name),
            "{TABLE}: there is no crate {}",
            row.name
        );
        graph.check(row)?;
    }
    let missing = graph
        .own
        .keys()
        .filter(|name| name.starts_with(OURS))
        .find(|name| !rows.iter().any(|row| row.name == *name));
    match missing {
        Some(name) => bail!("{TABLE}: no row for the crate {name}"),
        None => Ok(()),
    }
}

/// The names that `cargo tree` prints: of crates that are linked, not of those that only tests or build scripts use.
fn tree(arguments: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = process::cargo()?;
    command.args(["tree", "--edges", "normal", "--prefix", "none"]);
    let output = command.args(arguments).output();
    let output = output.context("cannot run cargo tree")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo tree: {said}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    let names = names.filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
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
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let mut graph = Graph::default();
        let (top, low) = ("underpass-top", "underpass-low");
        let linked = [top, low, "other"];
        graph.own.insert(top.to_owned(), set(&linked));
        graph.own.insert(low.to_owned(), set(&[low, "serde"]));
        let linked = [top, low, "other", "serde", "redb"];
        graph.all.insert(top.to_owned(), set(&linked));
        graph
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
