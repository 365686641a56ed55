// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offsets -> lines and columns.

/// Where the lines of a text begin.
#[derive(Clone, Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

// === impl Lines ===

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let behind = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { text, starts: std::iter::once(0).chain(behind).collect() }
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> u32 {
        u32::try_from(self.index(offset)).unwrap_or(u32::MAX)
    }

    /// The character of an offset in its line, from 1.
    pub(super) fn column(&self, offset: usize) -> u32 {
        let start = self.starts.get(self.index(offset).saturating_sub(1)).copied();
        let before = self.text.get(start.unwrap_or(0)..offset).unwrap_or_default();
        u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX)
    }

    fn index(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let lines = Lines::new("a\n\né b\n");
        for (offset, line, column) in
            [(0, 1, 1), (1, 1, 2), (2, 2, 1), (3, 3, 1), (6, 3, 3), (8, 4, 1)]
        {
            assert_eq!((lines.line(offset), lines.column(offset)), (line, column), "{offset}");
        }
    }
}
