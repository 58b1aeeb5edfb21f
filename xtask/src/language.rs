//! The language rule of CONTRIBUTING.md, as far as a machine can hold comments to it: no clause has `who`, `what` or `whom` as its
//! subject.
//!
//! Older comments break the rule. `language.txt` has their number by folder, and no folder may have more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Relative to the checkout.
const DEBT: &str = "xtask/language.txt";

/// The folders that hold no comments of ours.
const SKIPPED: &[&str] = &["target", ".git", "node_modules"];

/// Words that make a clause of the wrong kind wherever they stand.
const EVER: &[&str] = &["whoever", "whatever", "whomever", "whichever"];

/// Words that make one at a sentence's beginning.
const AT_THE_BEGINNING: &[&str] = &["who", "what", "whom", "whose"];

/// A comment line that breaks the rule.
struct Broken {
    place: String,
    text: String,
}

/// Holds the sources below `root` against the numbers in `language.txt`.
///
/// # Errors
/// A folder has more lines that break the rule than it is allowed.
pub(crate) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(DEBT)).with_context(|| format!("no {DEBT}"))?;
    for (folder, allowed) in debt(&text)? {
        let mut broken = Vec::new();
        read(&root.join(&folder), &mut broken)?;
        if broken.len() > allowed {
            let shown = broken.iter().rev().take(10);
            let shown: String = shown
                .map(|line| format!("\n  {}: {}", line.place, line.text))
                .collect();
            bail!(
                "{folder}: {} comment lines break the language rule (CONTRIBUTING.md), {allowed} did before. Among \
                 them:{shown}",
                broken.len()
            );
        }
        if broken.len() < allowed {
            eprintln!(
                "{DEBT}: {folder} has {} lines left: write that down",
                broken.len()
            );
        }
    }
    Ok(())
}

/// `FOLDER NUMBER` in each line.
fn debt(text: &str) -> Result<BTreeMap<String, usize>> {
    let mut debt = BTreeMap::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let read = line
            .split_once(' ')
            .and_then(|(folder, number)| Some((folder, number.parse().ok()?)));
        let (folder, number) = read.with_context(|| format!("{DEBT}: {line:?}"))?;
        debt.insert(folder.to_owned(), number);
    }
    ensure!(!debt.is_empty(), "{DEBT} names no folder");
    Ok(debt)
}

fn read(folder: &Path, broken: &mut Vec<Broken>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {folder:?}"))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let skipped = SKIPPED.iter().any(|name| entry.file_name() == *name);
        if entry.file_type()?.is_dir() && !skipped {
            read(&path, broken)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
            let lines = text.lines().enumerate().filter(|(_, line)| breaks(line));
            broken.extend(lines.map(|(number, line)| Broken {
                place: format!("{}:{}", path.display(), number + 1),
                text: line.trim().to_owned(),
            }));
        }
    }
    Ok(())
}

/// Is it a comment's line with such a clause? A question is none.
fn breaks(line: &str) -> bool {
    let line = line.trim_start();
    let Some(comment) = line.strip_prefix("//") else {
        return false;
    };
    let comment = comment.trim_start_matches(['/', '!']);
    let mut begins = true;
    for (at, word) in comment.split_whitespace().enumerate() {
        let plain = word.trim_matches(|c: char| !c.is_alphanumeric());
        let lower = plain.to_lowercase();
        if EVER.contains(&lower.as_str()) {
            return true;
        }
        // A line in the midst of a sentence begins in lower case.
        let capital = plain.starts_with(char::is_uppercase);
        let begins_clause = begins && (at > 0 || capital);
        if begins_clause && AT_THE_BEGINNING.contains(&lower.as_str()) && !comment.contains('?') {
            return true;
        }
        begins = word.ends_with(['.', ':', ';']);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_has_more_than_before() {
        check(&crate::process::root().unwrap()).unwrap();
    }

    #[test]
    fn clauses_with_who_or_what_as_subject_are_found() {
        for line in [
            "/// What a token is made with.",
            "    // Whoever comes, goes.",
            "//! A token: what it is for.",
            "// It ends. Who asks is told.",
            "/// Ends it, whatever the server says.",
        ] {
            assert!(breaks(line), "{line}");
        }
        for line in [
            "/// The maker of a token.",
            "let what = \"What is it\";",
            "/// Says what is wrong.",
            "// what a line in the midst of a sentence may begin with",
            "/// Who is it?",
        ] {
            assert!(!breaks(line), "{line}");
        }
    }

    #[test]
    fn an_unreadable_number_is_an_error() {
        assert_eq!(debt("# why\nserver 3\n").unwrap()["server"], 3);
        for bad in ["", "server", "server three"] {
            debt(bad).unwrap_err();
        }
    }
}
