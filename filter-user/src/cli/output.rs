// SPDX-License-Identifier: MIT OR Apache-2.0
//! Printing: tables for people, JSON for programs.

use std::io::{self, ErrorKind, Write as _};

use anyhow::Result;
use serde::Serialize;

use crate::compile::Footprint;

/// A table whose columns are as wide as their longest cell.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

// === impl Table ===

impl Table {
    /// A table with a heading.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text, each line ended.
    pub(super) fn render(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let length = cell.chars().count();
                match widths.get_mut(column) {
                    Some(width) => *width = (*width).max(length),
                    None => widths.push(length),
                }
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints a value as indented JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    text(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Nobody reads our output any more, as after `| head`. Only printing gives it, so that a broken
/// connection to the daemon isn't taken for it.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(super) struct OutputClosed;

/// Prints text.
pub(super) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => Ok(result?),
    }
}

/// A number with its digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit.
pub(super) fn bytes(number: u64) -> String {
    let mut value = number;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 10 * 1024 || unit == "TiB" {
            return format!("{} {unit}", grouped(value));
        }
        value /= 1024;
    }
    grouped(number)
}

/// What tables take of the kernel's memory.
pub(super) fn footprint(footprint: Footprint) -> String {
    format!(
        "the tables take {} of the kernel's memory, and {} for the prefixes of each of two policies: \
         {} in all",
        bytes(footprint.fixed),
        bytes(footprint.prefixes),
        bytes(footprint.total())
    )
}

/// Seconds as people say them.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
