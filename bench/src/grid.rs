//! A table of cells, for the terminal and as markdown.

/// The first `left` columns are words, the others figures.
#[derive(Debug)]
pub(crate) struct Grid {
    heading: Vec<String>,
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub(crate) fn new(left: usize, heading: &[&str]) -> Self {
        Self {
            heading: heading.iter().map(|&cell| cell.to_owned()).collect(),
            left,
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.heading.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// Columns as wide as they need.
    pub(crate) fn text(&self) -> String {
        let lines = || std::iter::once(&self.heading).chain(&self.rows);
        let width = |column: usize| lines().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.heading.len()).filter_map(width).collect();
        let mut out = String::new();
        for row in lines() {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| {
                if column < self.left {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells = cells.iter().map(|cell| cell.replace('|', "\\|"));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = (0..self.heading.len()).map(|column| match column < self.left {
            true => "---".to_owned(),
            false => "---:".to_owned(),
        });
        let mut out = line(&self.heading);
        out.push_str(&line(&rule.collect::<Vec<_>>()));
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }
}

/// 20000 as 20,000.
pub(crate) fn thousands(number: u32) -> String {
    match (number / 1_000, number % 1_000) {
        (0, rest) => rest.to_string(),
        (front, rest) => format!("{},{rest:03}", thousands(front)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(1, &["what", "µs"]);
        grid.push(vec!["get".into(), "1.50".into()]);
        grid.push(vec!["a|b".into(), "–".into()]);
        grid
    }

    #[test]
    fn numbers_have_their_commas() {
        let texts = [0, 999, 1_000, 20_000, 1_002_003].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "20,000", "1,002,003"]);
    }

    #[test]
    fn text_is_aligned() {
        assert_eq!(grid().text(), "what    µs\nget   1.50\na|b      –\n");
    }

    #[test]
    fn markdown_keeps_its_columns() {
        assert_eq!(
            grid().markdown(),
            "| what | µs |\n| --- | ---: |\n| get | 1.50 |\n| a\\|b | – |\n"
        );
    }
}
