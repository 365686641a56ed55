// SPDX-License-Identifier: MIT OR Apache-2.0
//! A chart of bars, such as the rates of several programs.

use std::fmt::Write as _;

use super::{
    axis::{self, Axis, Scale},
    colour, escaped, opening,
};

const WIDTH: f64 = 860.0;
/// The plane of the bars.
const LEFT: f64 = 250.0;
const RIGHT: f64 = 760.0;
const TOP: f64 = 44.0;
/// From one bar to the next.
const STEP: f64 = 26.0;
const THICKNESS: f64 = 16.0;

/// Bars that lie beside one another, from one line on.
#[derive(Clone, Debug, Default)]
pub struct BarChart {
    /// What it shows.
    pub title: String,
    /// What the length of a bar is, and its unit.
    pub value: String,
    /// The bars, from above.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// What stands beside it.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// From where to where it was measured over the rounds.
    pub range: Option<(f64, f64)>,
    /// What was aimed at.
    pub target: Option<f64>,
    /// Bars of one kind have one colour.
    pub kind: usize,
}

// === impl BarChart ===

impl BarChart {
    /// The chart as an SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let values = self.bars.iter().flat_map(|bar| {
            let range = bar.range.map(|(_, most)| most);
            [Some(bar.value), range, bar.target].into_iter().flatten()
        });
        let x = Axis::new(Scale::Linear, values, (LEFT, RIGHT));
        let bottom = self.bars.iter().fold(TOP, |at, _| at + STEP);
        let mut svg = opening(WIDTH, bottom + 52.0, &self.title);
        for tick in x.ticks() {
            let (at, text) = (x.at(tick), axis::label(tick));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>\n\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">{text}</text>",
                bottom + 16.0
            );
        }
        let mut top = TOP + (STEP - THICKNESS) / 2.0;
        for bar in &self.bars {
            draw(&mut svg, bar, &x, top);
            top += STEP;
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{TOP}\" x2=\"{LEFT}\" y2=\"{bottom}\" stroke=\"#444444\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222222\">{}</text>\n</svg>",
            (LEFT + RIGHT) / 2.0,
            bottom + 38.0,
            escaped(&self.value)
        );
        svg
    }
}

fn draw(svg: &mut String, bar: &Bar, x: &Axis, top: f64) {
    let (end, middle) = (x.at(bar.value), top + THICKNESS / 2.0);
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222222\">{}</text>\n\
         <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{THICKNESS}\" fill=\"{}\"/>",
        LEFT - 8.0,
        middle + 4.0,
        escaped(&bar.name),
        (end - LEFT).max(0.0),
        colour(bar.kind)
    );
    let mut right = end;
    if let Some((least, most)) = bar.range {
        let (least, most) = (x.at(least), x.at(most));
        right = right.max(most);
        let _ = writeln!(
            svg,
            "<path d=\"M{least:.1} {:.1}v6m0 -3H{most:.1}m0 -3v6\" fill=\"none\" stroke=\"#222222\"/>",
            middle - 3.0
        );
    }
    if let Some(target) = bar.target {
        let at = x.at(target);
        right = right.max(at);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#d00000\" stroke-width=\"2\" \
             stroke-dasharray=\"3 2\"/>",
            top - 3.0,
            top + THICKNESS + 3.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222222\">{}</text>",
        right + 6.0,
        middle + 4.0,
        axis::label((bar.value * 10.0).round() / 10.0)
    );
}
