// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an earlier daemon left on disk that says which policy comes next.

use anyhow::{Result, anyhow};

use super::{
    Options,
    changes::ToBeKept,
    history::{History, Incoming, NextStart},
    live::{LiveAllows, Now},
    permissions,
    reload::read_configuration,
    state::StateDirectory,
};
use crate::{kernel::PinDirectory, policy::load::Loaded};

/// The history of policies, and what is allowed beside them.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) history: History,
    pub(super) history_problem: Option<String>,
    pub(super) live: LiveAllows,
    pub(super) live_problem: Option<String>,
}

/// What the history is to be told once the policy is in force.
type Noted = Option<(Option<Incoming>, ToBeKept)>;

impl Kept {
    /// Reads it, and the policy to begin with: the one that was applied last, or the configuration
    /// directory's.
    ///
    /// # Errors
    ///
    /// The configuration is broken.
    pub(super) fn read(state: &StateDirectory, options: &Options) -> Result<(Self, Loaded, Noted)> {
        let (history, mut history_problem) = History::open(state);
        let (mut live, mut live_problem) = LiveAllows::load(state);
        let mut begin: Option<Loaded> = None;
        if let Some(number) = history.applied() {
            match history.load(number) {
                Ok(loaded) => {
                    tracing::info!(number, "the policy is one that was applied");
                    begin = Some(loaded);
                }
                Err(error) => {
                    history_problem = Some(format!(
                        "the policy that was applied can't be used, and that of {} is in its place: \
                         {error:#}",
                        options.config.display()
                    ));
                }
            }
        }
        let (mut loaded, noted) = match begin {
            Some(loaded) => (loaded, None),
            None => {
                permissions::check_configuration(&options.config)?;
                let (incoming, loaded) = read_configuration(&history, &options.config)?;
                let loaded = loaded.map_err(|errors| {
                    let kept = if PinDirectory::is_in_use(&options.pins) {
                        "; the policy that an earlier daemon left stays in force"
                    } else {
                        ""
                    };
                    let directory = options.config.display();
                    anyhow!("the configuration in {directory} is broken{kept}:\n{errors}")
                })?;
                let to_be_kept = ToBeKept {
                    how: "start",
                    by: "the system".to_owned(),
                    next_start: NextStart::Configuration,
                    number: None,
                };
                (loaded, Some((incoming, to_be_kept)))
            }
        };
        if let Some(unended) = live.unended(&Now::read()?) {
            live = unended;
        }
        let not_allowed = live.put_into(&mut loaded.policy);
        if !not_allowed.is_empty() {
            live_problem = Some(not_allowed.join("; "));
        }
        for problem in history_problem.iter().chain(&live_problem) {
            tracing::error!("{problem}");
        }
        Ok((Self { history, history_problem, live, live_problem }, loaded, noted))
    }
}
