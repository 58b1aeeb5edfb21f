//! The subcommands.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use underpass_terminal::{printable, say, show};

pub(crate) mod binding;
pub(crate) mod ca_pin;
pub(crate) mod cluster;
mod direct;
pub(crate) mod kubeconfig;
pub(crate) mod login;
pub(crate) mod serve;
pub(crate) mod token;
pub(crate) mod user;

/// The last words of a command that failed.
pub(crate) fn complain(error: &anyhow::Error) {
    say!("underpass-server: {error:#}");
}

/// Columns of which each is as wide as its longest cell.
fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .map(|cell| printable(cell).into_owned())
                .collect()
        })
        .collect();
    let rows = rows.as_slice();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = std::iter::once(&header)
                .chain(rows)
                .filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        show(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn timestamp(time: OffsetDateTime) -> anyhow::Result<String> {
    Ok(time.format(&Rfc3339)?)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(",")
    }
}
