//! Plain tables: a heading, columns with two spaces between them, numbers to the right.

use std::fmt::Write;

use crate::printable::{self, Lines};

/// A table being filled.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    heading: &'static str,
    align: Align,
}

/// Where a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        let columns = columns.iter();
        Self {
            columns: columns
                .map(|&(heading, align)| Column { heading, align })
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a cell for each column");
        let cells = cells.into_iter();
        self.rows
            .push(cells.map(|cell| printable::line(&cell)).collect());
    }

    /// The heading and the rows.
    pub fn render(&self) -> Lines {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| row[at].chars().count());
                cells.fold(self.columns[at].heading.len(), usize::max)
            })
            .collect();
        let mut out = Lines::default();
        let headings: Vec<String> = self.columns.iter().map(|c| c.heading.into()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, column), &width) in row.iter().zip(&self.columns).zip(&widths) {
                let result = match column.align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
                result.expect("a String takes everything");
            }
            out.push(line.trim_end());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_numbers_right_and_lines_have_no_tail() {
        let mut table = Table::new(&[
            ("KEY", Align::Left),
            ("VERSION", Align::Right),
            ("STATE", Align::Left),
        ]);
        table.row(["alice".into(), "1".into(), "active".into()]);
        table.row(["tenants/7".into(), "12".into(), "revoked".into()]);
        assert_eq!(
            table.render().as_str(),
            "KEY        VERSION  STATE\n\
             alice            1  active\n\
             tenants/7       12  revoked\n"
        );
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        let mut table = Table::new(&[("NAME", Align::Left)]);
        table.row(["\u{1b}[2J".into()]);
        assert_eq!(table.render().as_str(), "NAME\n\\u{1b}[2J\n");
    }
}
