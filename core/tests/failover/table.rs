//! Tables of a markdown document, found by `<!-- table: name -->` above them.

/// A table: what stands in its cells, without back-ticks.
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One row of it.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    table: &'a Table,
    cells: &'a [String],
}

impl Table {
    pub(crate) fn of(document: &str, name: &str) -> Self {
        let marker = format!("<!-- table: {name} -->");
        let (_, behind) = document.split_once(&marker).expect("the table is there");
        let mut lines = behind
            .trim_start()
            .lines()
            .take_while(|line| line.starts_with('|'))
            .map(cells);
        let columns = lines.next().expect("a table has a head");
        let rows: Vec<_> = lines.skip(1).collect();
        assert!(!rows.is_empty(), "table {name} is empty");
        for row in &rows {
            assert_eq!(row.len(), columns.len(), "table {name}: {row:?}");
        }
        Self { columns, rows }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { table: self, cells })
    }

    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }
}

impl<'a> Row<'a> {
    pub(crate) fn cell(&self, column: &str) -> &'a str {
        let index = self.table.columns.iter().position(|name| name == column);
        &self.cells[index.unwrap_or_else(|| panic!("no column {column}"))]
    }
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_matches('|');
    let cells = inner.split('|');
    cells
        .map(|cell| cell.trim().trim_matches('`').to_owned())
        .collect()
}
