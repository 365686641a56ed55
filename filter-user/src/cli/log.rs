// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the daemon's log goes: to systemd's journal with its fields, where that reads the standard
//! error output anyway; else there as text.

mod journal;

use std::{env, ffi::OsStr, io, io::IsTerminal as _};

use nix::sys::stat::fstat;
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::journal::Journal;

/// Where systemd says which file the journal reads: its device and inode.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// By which users say that they want no colour (no-color.org): set, and not empty.
const NO_COLOR: &str = "NO_COLOR";

/// Begins to log.
pub(super) fn begin(level: Level) {
    let stream = env::var(JOURNAL_STREAM).ok();
    if stream.is_some_and(|stream| is_standard_error(&stream)) {
        match Journal::connect() {
            Ok(journal) => {
                let filter = LevelFilter::from_level(level);
                tracing_subscriber::registry().with(filter).with(journal).init();
                return;
            }
            Err(error) => {
                to_standard_error(level);
                tracing::warn!("the log has no fields, as the journal can't be reached: {error}");
                return;
            }
        }
    }
    to_standard_error(level);
}

fn to_standard_error(level: Level) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(
            io::stderr().is_terminal() && !is_colour_unwanted(env::var_os(NO_COLOR).as_deref()),
        )
        .with_target(false)
        .init();
}

fn is_colour_unwanted(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty())
}

/// Whether `DEVICE:INODE` is the standard error output, which may have been led elsewhere since.
fn is_standard_error(stream: &str) -> bool {
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_wish_is_none() {
        assert!(is_colour_unwanted(Some(OsStr::new("1"))));
        assert!(!is_colour_unwanted(Some(OsStr::new(""))));
        assert!(!is_colour_unwanted(None));
    }

    #[test]
    fn only_the_very_file_is_the_journals() {
        let stat = fstat(io::stderr()).unwrap();
        assert!(is_standard_error(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_standard_error(&format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
        assert!(!is_standard_error(""));
    }
}
