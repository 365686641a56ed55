// SPDX-License-Identifier: MIT OR Apache-2.0
//! A chart of lines, such as a time against a size.

use std::fmt::Write as _;

use super::{
    axis::{self, Axis, Scale},
    colour, escaped, opening,
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
/// The plane within the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 600.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 384.0;

/// Lines over one pair of axes, with a legend.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// What goes to the right.
    pub x: String,
    /// How that is laid out.
    pub x_scale: Scale,
    /// What goes up.
    pub y: String,
    /// How that is laid out.
    pub y_scale: Scale,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A line through measured points.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// What was aimed at; each a mark of the line's colour.
    pub targets: Vec<(f64, f64)>,
}

// === impl LineChart ===

impl LineChart {
    /// The chart as an SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().chain(&line.targets));
        let x = Axis::new(self.x_scale, points().map(|point| point.0), (LEFT, RIGHT));
        let y = Axis::new(self.y_scale, points().map(|point| point.1), (BOTTOM, TOP));
        let mut svg = opening(WIDTH, HEIGHT, &self.title);
        self.axes(&mut svg, &x, &y);
        for (number, line) in self.lines.iter().enumerate() {
            draw(&mut svg, line, colour(number), (&x, &y));
        }
        self.legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String, x: &Axis, y: &Axis) {
        for tick in y.ticks() {
            let at = y.at(tick);
            let text = axis::label(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444444\">{text}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        for tick in x.ticks() {
            let at = x.at(tick);
            let text = axis::label(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{BOTTOM}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#444444\"/>\n\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">{text}</text>",
                BOTTOM + 5.0,
                BOTTOM + 20.0
            );
        }
        let (middle, x, y) = ((LEFT + RIGHT) / 2.0, escaped(&self.x), escaped(&self.y));
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#444444\"/>\n\
             <text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222222\">{x}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"#222222\">{y}</text>",
            BOTTOM + 42.0,
            (TOP + BOTTOM) / 2.0
        );
    }

    fn legend(&self, svg: &mut String) {
        let mut at = TOP + 8.0;
        for (number, line) in self.lines.iter().enumerate() {
            let (colour, name) = (colour(number), escaped(&line.name));
            let _ = writeln!(
                svg,
                "<line x1=\"{:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222222\">{name}</text>",
                RIGHT + 16.0,
                RIGHT + 40.0,
                RIGHT + 46.0,
                at + 4.0
            );
            at += 20.0;
        }
        if self.lines.iter().any(|line| !line.targets.is_empty()) {
            let _ = writeln!(
                svg,
                "{}<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222222\">what is aimed at</text>",
                cross(RIGHT + 28.0, at, "#444444"),
                RIGHT + 46.0,
                at + 4.0
            );
        }
    }
}

fn draw(svg: &mut String, line: &Line, colour: &str, (x, y): (&Axis, &Axis)) {
    let place = |(right, up): (f64, f64)| (x.at(right), y.at(up));
    let places: Vec<(f64, f64)> = line.points.iter().copied().map(place).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    for (x, y) in places {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    for (x, y) in line.targets.iter().copied().map(place) {
        svg.push_str(&cross(x, y, colour));
    }
}

fn cross(x: f64, y: f64, colour: &str) -> String {
    format!(
        "<path d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n",
        x - 5.0,
        y - 5.0
    )
}
