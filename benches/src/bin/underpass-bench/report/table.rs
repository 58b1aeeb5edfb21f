//! Tables of Markdown.

/// A table: its head, and rows of as many cells. The first column is text, the others are numbers.
#[derive(Debug)]
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// All columns are text.
    words: bool,
}

impl Table {
    /// One without rows.
    pub(super) fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            head: head.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
            words: false,
        }
    }

    /// One whose columns are all text.
    pub(super) fn of_words(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            words: true,
            ..Self::new(head)
        }
    }

    /// Another row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// As Markdown, with a line's end behind it.
    pub(super) fn markdown(&self) -> String {
        let mut text = line(&self.head);
        let rule = self.head.iter().enumerate();
        let rule = rule.map(|(column, _)| {
            if column == 0 || self.words {
                "---"
            } else {
                "---:"
            }
        });
        text.push_str(&format!("|{}|\n", rule.collect::<Vec<_>>().join("|")));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }
}

fn line(cells: &[String]) -> String {
    // A bar would end the cell.
    let cells: Vec<_> = cells
        .iter()
        .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_in_a_cell_ends_no_cell() {
        let mut table = Table::new(["a", "b"]);
        table.row(["1|2", "3\n4"]);
        assert_eq!(table.markdown(), "| a | b |\n|---|---:|\n| 1\\|2 | 3 4 |\n");
    }
}
