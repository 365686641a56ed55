// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a benchmark leaves behind: a page of Markdown for readers, JSON for programs, and charts.
//!
//! A benchmark fills a [`Report`] part by part and writes it once, to `target/bench`: `NAME.md`, `NAME.json`
//! and `NAME-CHART.svg` for each chart. What is printed is the same page.

mod axis;
mod bars;
mod lines;
mod machine;

use std::{
    env,
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub use self::{
    axis::Scale,
    bars::{Bar, BarChart},
    lines::{Line, LineChart},
    machine::Machine,
};

/// The report of one benchmark.
#[derive(Clone, Debug)]
pub struct Report {
    /// The stem of its files.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// Where it was measured.
    pub machine: Machine,
    /// What stands on the page, in order.
    pub parts: Vec<Part>,
    /// Every number, for programs; the machine is added.
    pub data: Value,
}

/// A part of the page.
#[derive(Clone, Debug)]
pub enum Part {
    /// A heading below that of the page.
    Heading(String),
    /// A paragraph of Markdown.
    Text(String),
    /// A table.
    Table(Table),
    /// A chart of lines, in a file of this name.
    Lines(String, LineChart),
    /// A chart of bars, in a file of this name.
    Bars(String, BarChart),
}

/// A table of texts. The first column is set left, all others right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The heads of the columns.
    pub columns: Vec<String>,
    /// The cells, row by row.
    pub rows: Vec<Vec<String>>,
}

/// A measured value against what was aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// What was measured.
    pub measured: f64,
    /// What it should be.
    pub target: f64,
    /// In which direction it is better.
    pub better: Better,
}

/// In which direction a value is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times.
    Lower,
    /// Rates.
    Higher,
}

/// `target/bench`, beside the directory of the program that runs.
///
/// # Errors
///
/// It isn't known where the program lies.
pub fn directory() -> Result<PathBuf> {
    let program = env::current_exe().context("the program's own path isn't known")?;
    // target/PROFILE/PROGRAM
    let target = program.ancestors().nth(2).context("the program isn't in a target directory")?;
    Ok(target.join("bench"))
}

// === impl Report ===

impl Report {
    /// An empty report, for the machine at hand.
    #[must_use]
    pub fn new(name: &str, title: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            machine: Machine::at_hand(),
            parts: Vec::new(),
            data: Value::Null,
        }
    }

    /// Adds a heading.
    pub fn heading(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Heading(text.into()));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Text(text.into()));
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.parts.push(Part::Table(table));
    }

    /// Adds a chart of lines.
    pub fn lines(&mut self, name: &str, chart: LineChart) {
        self.parts.push(Part::Lines(name.to_owned(), chart));
    }

    /// Adds a chart of bars.
    pub fn bars(&mut self, name: &str, chart: BarChart) {
        self.parts.push(Part::Bars(name.to_owned(), chart));
    }

    /// Writes all files into a directory, which is made if need be, in the place of those of an earlier
    /// run. The files.
    ///
    /// # Errors
    ///
    /// A file can't be written.
    pub fn write(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(directory)
            .with_context(|| format!("{} can't be made", directory.display()))?;
        let mut files = vec![
            (format!("{}.md", self.name), self.to_string()),
            (format!("{}.json", self.name), format!("{:#}\n", self.json())),
        ];
        for part in &self.parts {
            match part {
                Part::Lines(chart, lines) => files.push((self.chart_file(chart), lines.svg())),
                Part::Bars(chart, bars) => files.push((self.chart_file(chart), bars.svg())),
                Part::Heading(_) | Part::Text(_) | Part::Table(_) => {}
            }
        }
        let mut written = Vec::with_capacity(files.len());
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text)
                .with_context(|| format!("{} can't be written", path.display()))?;
            written.push(path);
        }
        Ok(written)
    }

    fn json(&self) -> Value {
        json!({
            "benchmark": self.name,
            "title": self.title,
            "machine": self.machine,
            "results": self.data,
        })
    }

    fn chart_file(&self, chart: &str) -> String {
        format!("{}-{chart}.svg", self.name)
    }
}

/// The page.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}\n\n{}", self.title, self.machine)?;
        for part in &self.parts {
            match part {
                Part::Heading(text) => writeln!(f, "\n## {text}")?,
                Part::Text(text) => writeln!(f, "\n{text}")?,
                Part::Table(table) => write!(f, "\n{table}")?,
                Part::Lines(chart, LineChart { title, .. })
                | Part::Bars(chart, BarChart { title, .. }) => {
                    writeln!(f, "\n![{title}]({})", self.chart_file(chart))?;
                }
            }
        }
        Ok(())
    }
}

// === impl Table ===

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

/// As Markdown, and readable as it is: columns are aligned.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = rows().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
            })
            .collect();
        for (number, row) in rows().enumerate() {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                match column {
                    0 => write!(line, "| {cell:<width$} ")?,
                    _ => write!(line, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "{line}|")?;
            if number == 0 {
                let mut rule = String::new();
                for (column, width) in widths.iter().enumerate() {
                    match column {
                        0 => write!(rule, "|{}", "-".repeat(width + 2))?,
                        _ => write!(rule, "|{}:", "-".repeat(width + 1))?,
                    }
                }
                writeln!(f, "{rule}|")?;
            }
        }
        Ok(())
    }
}

// === impl Goal ===

impl Goal {
    /// Whether it was reached.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.better {
            Better::Lower => self.measured <= self.target,
            Better::Higher => self.measured >= self.target,
        }
    }
}

/// `25: met (0.82)`: what was aimed at, and the part of it that was measured.
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_met() { "met" } else { "not met" };
        write!(f, "{:.0}: {word} ({:.2})", self.target, self.measured / self.target)
    }
}

/// Text within an element of an SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Colours that are told apart on white, also by those who see few colours (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"];

fn colour(number: usize) -> &'static str {
    COLOURS.iter().cycle().nth(number).copied().unwrap_or("#000000")
}

/// The opening of an SVG of this size, on white, with a title.
fn opening(width: f64, height: f64, title: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" fill=\"#222222\">{title}</text>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(["case", "ns"]);
        table.row(["allowed", "12.5"]);
        table.row(["denied, far", "9.0"]);
        assert_eq!(
            table.to_string(),
            "| case        |   ns |\n\
             |-------------|-----:|\n\
             | allowed     | 12.5 |\n\
             | denied, far |  9.0 |\n"
        );
    }

    #[test]
    fn goals_have_a_direction() {
        let goal = |measured, better| Goal { measured, target: 50.0, better };
        assert!(goal(50.0, Better::Lower).is_met());
        assert!(!goal(50.1, Better::Lower).is_met());
        assert!(goal(50.0, Better::Higher).is_met());
        assert_eq!(goal(40.0, Better::Higher).to_string(), "50: not met (0.80)");
    }

    #[test]
    fn a_report_is_a_page_and_its_charts() {
        let mut report = Report::new("x", "X");
        report.heading("Times");
        report.text("All in ns.");
        report.lines("sizes", LineChart { title: "Sizes".to_owned(), ..LineChart::default() });
        let directory = tempfile::tempdir().unwrap();
        let files = report.write(directory.path()).unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["x.md", "x.json", "x-sizes.svg"]);
        assert!(
            report.to_string().ends_with("\n## Times\n\nAll in ns.\n\n![Sizes](x-sizes.svg)\n")
        );
    }
}
