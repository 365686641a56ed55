// SPDX-License-Identifier: MIT OR Apache-2.0
//! Axes of charts: where values stand, and which of them are written.

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// By their difference; it begins at 0.
    #[default]
    Linear,
    /// By their ratio.
    Logarithmic,
}

/// A part of a scale, laid out between two coordinates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis that has room for all values, from one coordinate to another.
    pub(super) fn new(
        scale: Scale,
        values: impl IntoIterator<Item = f64>,
        (from, to): (f64, f64),
    ) -> Self {
        let usable = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (least, most) = values
            .into_iter()
            .filter(usable)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        let (least, most) = match scale {
            _ if least > most => (1.0, 10.0),
            Scale::Linear => (least.min(0.0), if most > 0.0 { most } else { 1.0 }),
            Scale::Logarithmic => (least / 1.15, most * 1.15),
        };
        Self { scale, least, most, from, to }
    }

    /// Where a value stands.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => {
                (value.max(self.least) / self.least).ln() / (self.most / self.least).ln()
            }
        };
        self.from + part * (self.to - self.from)
    }

    /// The values that are written beside the axis.
    pub(super) fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_step((self.most - self.least) / 6.0);
                let mut ticks = Vec::new();
                let mut tick = (self.least / step).ceil() * step;
                while tick <= self.most * 1.000_001 {
                    ticks.push(tick);
                    tick += step;
                }
                ticks
            }
            Scale::Logarithmic => {
                let wide = self.most / self.least > 3000.0;
                let factors: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let mut ticks = Vec::new();
                let mut decade = 10_f64.powf(self.least.log10().floor());
                while decade <= self.most {
                    ticks.extend(
                        factors
                            .iter()
                            .map(|factor| factor * decade)
                            .filter(|tick| (self.least..=self.most).contains(tick)),
                    );
                    decade *= 10.0;
                }
                ticks
            }
        }
    }
}

/// A number as people write it beside an axis.
pub(super) fn label(value: f64) -> String {
    let digits = if value.fract() == 0.0 { 0 } else { 1 };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (position, digit) in whole.chars().enumerate() {
        if position > 0 && (whole.len() - position).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// The next of 1, 2, 5, 10, 20 and so on.
fn round_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0];
    factors.into_iter().find(|factor| factor * decade >= step).unwrap_or(10.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in
            [(0.0, "0"), (2.5, "2.5"), (1000.0, "1,000"), (1e6, "1,000,000"), (-100.0, "-100")]
        {
            assert_eq!(label(value), text);
        }
    }

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let axis = Axis::new(Scale::Linear, [3.0, 47.0], (0.0, 470.0));
        assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(axis.at(47.0), 470.0);
        let axis = Axis::new(Scale::Logarithmic, [1e3, 1e6], (0.0, 1.0));
        let ticks: Vec<String> = axis.ticks().into_iter().map(label).collect();
        assert_eq!(ticks.first().unwrap(), "1,000");
        assert_eq!(ticks.last().unwrap(), "1,000,000");
    }
}
