// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values of the command line that several commands take.

use std::time::Duration;

use crate::policy::load::duration_of;

/// A time such as `90s`, `10m`, `1h` or `7d`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    duration_of(text).ok_or_else(|| {
        "a time is a number and a unit: 90s, 10m, 1h or 7d (seconds, minutes, hours, days)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h", 3600), ("30d", 2_592_000)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "10", "h", "1w", "1 h", "-1h", "1.5h", "1H"] {
            assert!(time(text).unwrap_err().contains("1h or 7d"), "{text}");
        }
    }
}
