//! The tables of docs/SECURITY.md: every test that they name exists.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

const TABLE: &str = "docs/SECURITY.md";

/// The heading of the threat model.
const THREATS: &str = "## What each can do at worst";

/// Folders of the checkout that hold no tests of ours.
const SKIPPED: &[&str] = &["target", ".git", "node_modules"];

/// How a rule's row may end.
const RESULTS: &[&str] = &["kept", "does not apply yet"];

/// Holds the table against the sources below `root`.
///
/// # Errors
/// The table and the sources differ.
pub(crate) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(TABLE)).context("there is no table of rules")?;
    let rows = rows(&text)?;
    let mut sources = String::new();
    read_sources(root, &mut sources)?;
    let by_rule = rows
        .into_iter()
        .map(|row| (format!("rule {}", row.rule), row.tests));
    let named = by_rule.chain(threats(&text)?);
    for (who, tests) in named {
        for test in tests {
            ensure!(
                is_test(&sources, test),
                "{TABLE}: {who} names the test `{test}`, which there is not"
            );
        }
    }
    Ok(())
}

/// The actors of the threat model, each with the tests of its bound.
fn threats(text: &str) -> Result<Vec<(String, Vec<&str>)>> {
    let section = text.split_once(THREATS).map(|(_, rest)| rest);
    let section = section.with_context(|| format!("{TABLE}: no section {THREATS:?}"))?;
    let rows = section.lines().take_while(|line| !line.starts_with("## "));
    let mut threats = Vec::new();
    for line in rows {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", actor, _, _, tests, ""] = cells[..] else {
            continue;
        };
        if actor == "actor" || actor.starts_with("---") {
            continue;
        }
        let tests: Option<Vec<_>> = tests.split_whitespace().map(in_backticks).collect();
        let tests = tests.filter(|tests| !tests.is_empty());
        let tests = tests.with_context(|| format!("{TABLE}: no test bounds {actor:?}"))?;
        threats.push((actor.to_owned(), tests));
    }
    ensure!(!threats.is_empty(), "{TABLE}: no actor in {THREATS:?}");
    Ok(threats)
}

/// One rule.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    rule: usize,
    tests: Vec<&'a str>,
}

/// The rows of the table, each of which must be whole.
fn rows(text: &str) -> Result<Vec<Row<'_>>> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let Some(rule) = cells.get(1).and_then(|cell| cell.parse().ok()) else {
            continue;
        };
        let ["", _, _, _, tests, result, ""] = cells[..] else {
            bail!("{TABLE}: the row of rule {rule} has not five cells");
        };
        let expected = rows.len() + 1;
        ensure!(
            rule == expected,
            "{TABLE}: rule {rule} where {expected} should be"
        );
        ensure!(
            RESULTS.contains(&result),
            "{TABLE}: rule {rule} is neither of {RESULTS:?}"
        );
        let names = tests.split_whitespace().map(in_backticks);
        let Some(tests) = names.collect::<Option<Vec<_>>>() else {
            bail!("{TABLE}: rule {rule} names something that is not in `backticks`");
        };
        ensure!(
            result != "kept" || !tests.is_empty(),
            "{TABLE}: rule {rule} is kept by no test"
        );
        rows.push(Row { rule, tests });
    }
    ensure!(!rows.is_empty(), "{TABLE}: no rule");
    Ok(rows)
}

fn in_backticks(word: &str) -> Option<&str> {
    word.strip_prefix('`')?.strip_suffix('`')
}

fn read_sources(folder: &Path, sources: &mut String) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {folder:?}"))?;
    for entry in entries {
        let entry = entry?;
        let path: PathBuf = entry.path();
        let skipped = SKIPPED.iter().any(|name| entry.file_name() == *name);
        if entry.file_type()?.is_dir() && !skipped {
            read_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
            sources.push_str(&text);
        }
    }
    Ok(())
}

/// Is there a function of this name that is run as a test: by an attribute, or by a macro that it is handed to?
fn is_test(sources: &str, name: &str) -> bool {
    let definition = format!("fn {name}(");
    let mut definitions = sources.match_indices(&definition).peekable();
    if definitions.peek().is_none() {
        return false;
    }
    let by_attribute = definitions.any(|(at, _)| {
        let above = sources.get(..at).unwrap_or_default();
        // The line that it begins on is not above it.
        let above = above
            .lines()
            .rev()
            .skip(usize::from(!above.ends_with('\n')));
        let mut attributes = above
            .map(str::trim)
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    });
    let handed = [',', ';', '\n'].map(|after| format!(" {name}{after}"));
    by_attribute || handed.iter().any(|text| sources.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_true() {
        check(&crate::process::root().unwrap()).unwrap();
    }

    #[test]
    fn rows_are_whole_or_refused() {
        let row = "| 1 | a rule | how | `one` `two` | kept |\n";
        let read = rows(row).unwrap();
        assert_eq!(read[0].tests, ["one", "two"]);
        for bad in [
            "no table",
            "| 2 | a rule | how | `one` | kept |",
            "| 1 | a rule | how | `one` |",
            "| 1 | a rule | how | one | kept |",
            "| 1 | a rule | how | | kept |",
            "| 1 | a rule | how | `one` | perhaps |",
        ] {
            rows(bad).unwrap_err();
        }
        rows("| 1 | a rule | how | | does not apply yet |").unwrap();
    }

    #[test]
    fn an_actor_without_a_bound_is_refused() {
        let head = format!("{THREATS}\n\n| actor | at worst | by | tests |\n|---|---|---|---|\n");
        let read = format!("{head}| a user | much | this | `one` `two` |\n");
        let read = threats(&read).unwrap();
        assert_eq!(read, [("a user".to_owned(), vec!["one", "two"])]);
        for bad in [
            "| a user | much | this | |\n",
            "| a user | much | this | one |\n",
            "",
        ] {
            threats(&format!("{head}{bad}")).unwrap_err();
        }
        threats("no section").unwrap_err();
    }

    #[test]
    fn a_test_is_a_function_that_is_run() {
        let sources = "#[test]\n/// Why.\nfn plain() {}\n\n#[tokio::test(start_paused = true)]\nasync fn timed() {}\n\
                       suite!(\n    handed,\n);\npub(crate) async fn handed(kind: Kind) {}\nfn helper() {}\n\
                       fn caller() { helper(); }\n";
        for name in ["plain", "timed", "handed"] {
            assert!(is_test(sources, name), "{name}");
        }
        for name in ["helper", "caller", "gone", "plai"] {
            assert!(!is_test(sources, name), "{name}");
        }
    }
}
