//! The size of a terminal.

use rustix::termios::Winsize;

use crate::limits;

/// The size of a terminal, in cells, within the [`limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    columns: u16,
    rows: u16,
}

impl Size {
    /// The nearest size that a shell can have. A terminal that says 0 does not know its size, and gets the
    /// [usual](limits::USUAL_SIZE) one.
    pub fn fit(columns: u16, rows: u16) -> Self {
        if columns == 0 || rows == 0 {
            let (columns, rows) = limits::USUAL_SIZE;
            return Self { columns, rows };
        }
        let columns = columns.min(limits::SIDE);
        let most = limits::CELLS / u32::from(columns);
        let rows = u32::from(rows.min(limits::SIDE)).min(most);
        Self {
            columns,
            rows: u16::try_from(rows).unwrap_or(limits::SIDE),
        }
    }

    /// Its columns.
    pub fn columns(self) -> u16 {
        self.columns
    }

    /// Its rows.
    pub fn rows(self) -> u16 {
        self.rows
    }
}

impl From<Size> for Winsize {
    fn from(size: Size) -> Self {
        Self {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_19_a_terminal_has_a_bounded_number_of_cells() {
        for (asked, fits) in [
            ((80, 24), (80, 24)),
            ((1, 1), (1, 1)),
            ((0, 24), (80, 24)),
            ((80, 0), (80, 24)),
            ((1, 1000), (1, 1000)),
            ((1000, 1000), (1000, 131)),
            ((u16::MAX, u16::MAX), (1000, 131)),
            ((362, 362), (362, 362)),
        ] {
            let size = Size::fit(asked.0, asked.1);
            assert_eq!((size.columns(), size.rows()), fits, "{asked:?}");
            let cells = u32::from(size.columns()) * u32::from(size.rows());
            assert!((1..=limits::CELLS).contains(&cells));
        }
    }
}
