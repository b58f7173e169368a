//! Aligns columns of plain text, safe for a terminal. Must not colour or print.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub use crate::model::printable;

/// Rows under a line of titles.
#[derive(Debug, Clone, Default)]
pub struct Table {
    titles: Vec<Title>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Title {
    text: &'static str,
    right: bool,
}

impl Table {
    /// An empty table. A title that starts with `>` right-aligns its column, for numbers.
    pub fn new(titles: &[&'static str]) -> Table {
        let title = |text: &&'static str| match text.strip_prefix('>') {
            Some(text) => Title { text, right: true },
            None => Title { text, right: false },
        };
        Table { titles: titles.iter().map(title).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the titles are dropped, missing ones are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        cells.resize(self.titles.len(), String::new());
        self.rows.push(cells);
    }

    /// Removes the column with this title, if there is one.
    pub fn drop_column(&mut self, title: &str) {
        if let Some(at) = self.titles.iter().position(|known| known.text == title) {
            self.titles.remove(at);
            self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
    }

    /// Removes these columns, one after the other, until the table fits this width.
    pub fn fit_by_dropping(&mut self, titles: &[&str], width: usize) {
        for title in titles {
            if self.width() <= width {
                return;
            }
            self.drop_column(title);
        }
    }

    /// Shortens the cells of a column so that the table fits this width, if possible.
    pub fn fit(&mut self, title: &str, width: usize) {
        let Some(at) = self.titles.iter().position(|known| known.text == title) else { return };
        let excess = self.width().saturating_sub(width);
        let room = self.widths().get(at).copied().unwrap_or_default().saturating_sub(excess);
        if excess > 0 {
            self.rows.iter_mut().filter_map(|row| row.get_mut(at)).for_each(|cell| shorten(cell, room.max(8)));
        }
    }

    /// The longest line, in columns of a terminal.
    pub fn width(&self) -> usize {
        self.widths().iter().sum::<usize>() + 2 * self.titles.len().saturating_sub(1)
    }

    /// The titles and the rows, without trailing spaces; empty if there are no rows.
    pub fn lines(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let widths = self.widths();
        let titles: Vec<String> = self.titles.iter().map(|title| title.text.to_owned()).collect();
        std::iter::once(&titles).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).zip(&self.titles);
        let padded = cells.map(|((cell, width), title)| {
            let blanks = " ".repeat(width.saturating_sub(cell.width()));
            if title.right { blanks + cell } else { cell.clone() + &blanks }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }

    fn widths(&self) -> Vec<usize> {
        let titles = self.titles.iter().map(|title| title.text.width());
        let widest = |(at, title): (usize, usize)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.width());
            cells.max().unwrap_or_default().max(title)
        };
        titles.enumerate().map(widest).collect()
    }
}

fn shorten(cell: &mut String, room: usize) {
    if cell.width() > room {
        let mut width = 0;
        let fits = |c: &char| {
            width += c.width().unwrap_or(0);
            width < room
        };
        *cell = cell.chars().take_while(fits).chain(['…']).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(["büro".to_owned(), "12 GB".to_owned(), "a\nb".to_owned()]);
        table.row(["a-very-long-name".to_owned(), "1 B".to_owned()]);
        table
    }

    #[test]
    fn columns_align_by_characters() {
        let expected = [
            "NAME               SIZE  NOTE", //
            "büro              12 GB  a b",
            "a-very-long-name    1 B",
        ];
        assert_eq!(table().lines(), expected);
        assert!(Table::new(&["A"]).lines().is_empty());
    }

    #[test]
    fn wide_table_is_shortened_to_fit() {
        let mut table = table();
        table.drop_column("NOTE");
        table.fit("NAME", 17);
        assert_eq!(table.lines(), ["NAME         SIZE", "büro        12 GB", "a-very-lo…    1 B"]);
        assert_eq!(table.width(), 17);
    }

    #[test]
    fn wide_and_combining_characters_align() {
        let mut table = Table::new(&["NAME", "NOTE", ">SIZE"]);
        for name in ["データ", "サーバー-1", "e\u{301}te\u{301}", "vm", "🖥-1"] {
            table.row([name.to_owned(), "x".to_owned(), "한글".to_owned()]);
        }
        let ends: Vec<_> = table.lines().iter().map(|line| line.width()).collect();
        assert_eq!(ends, [22; 6], "{:#?}", table.lines());
        table.fit("NAME", 20);
        assert!(table.lines().iter().all(|line| line.width() == 19), "{:#?}", table.lines());
        assert!(table.lines().iter().any(|line| line.starts_with("サーバ…  x")), "{:#?}", table.lines());
    }
}
