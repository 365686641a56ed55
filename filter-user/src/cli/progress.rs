// SPDX-License-Identifier: MIT OR Apache-2.0
//! Showing that long work goes on: on a terminal, and not at all in a pipe or a log.

use std::{sync::mpsc, thread, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// What is done sooner needs no sign.
const SOON: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(120);

/// Does some work, and shows what it is and for how long it has gone on, once that is long. Nothing of it
/// stays on the screen.
pub(super) fn show<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            // The other end goes with the work, whatever comes of it.
            if waiting.recv_timeout(SOON) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            // It is drawn on the standard error output, and only where that is a terminal.
            let bar = ProgressBar::new_spinner().with_message(what);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            while waiting.recv_timeout(STEP) == Err(mpsc::RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_whether_it_is_long_or_not() {
        assert_eq!(show("nothing", || 1), 1);
        assert_eq!(
            show("something", || {
                thread::sleep(SOON + STEP * 3);
                2
            }),
            2
        );
    }
}
