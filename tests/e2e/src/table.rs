//! The tables that `kubectl get` prints.

/// Column titles, and the cells of each row under them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The titles, from left to right.
    pub columns: Vec<String>,
    /// The rows, each with as many cells as there are columns; an empty cell is empty text.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a table by where its titles begin: a cell may hold blanks or nothing.
    pub fn parse(printed: &str) -> Self {
        let mut lines = printed.lines();
        let header = lines.next().unwrap_or_default();
        let starts = title_starts(header);
        let cells = |line: &str| {
            starts
                .iter()
                .enumerate()
                .map(|(at, &start)| {
                    let end = starts.get(at + 1).copied().unwrap_or(usize::MAX);
                    line.chars()
                        .skip(start)
                        .take(end - start)
                        .collect::<String>()
                        .trim()
                        .to_owned()
                })
                .collect::<Vec<_>>()
        };
        Self {
            columns: cells(header),
            rows: lines.map(cells).collect(),
        }
    }

    /// The cell of the row whose first cell is `name`, under `column`.
    pub fn cell(&self, name: &str, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|title| title == column)?;
        let row = self
            .rows
            .iter()
            .find(|row| row.first().is_some_and(|first| first == name))?;
        row.get(at).map(String::as_str)
    }
}

/// Where titles begin: at a letter after at least two blanks, or at the line's start.
fn title_starts(header: &str) -> Vec<usize> {
    let letters: Vec<char> = header.chars().collect();
    (0..letters.len())
        .filter(|&at| {
            letters[at] != ' '
                && (at == 0 || (letters[at - 1] == ' ' && (at == 1 || letters[at - 2] == ' ')))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_cells_stay_in_their_columns() {
        let table = Table::parse(
            "NAME     VERSION   ACTIVE   A         B   RESULT\n\
             node-1   v1.33.2   A        v1.33.2       \n\
             n        v1        B        v1        v2  Failed\n",
        );
        assert_eq!(
            table.columns,
            ["NAME", "VERSION", "ACTIVE", "A", "B", "RESULT"]
        );
        assert_eq!(table.cell("node-1", "B"), Some(""));
        assert_eq!(table.cell("node-1", "A"), Some("v1.33.2"));
        assert_eq!(table.cell("n", "RESULT"), Some("Failed"));
        assert_eq!(table.cell("m", "RESULT"), None);
    }
}
