// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of the filter when the daemon is told to stop (`[gateway] on_stop`).

use anyhow::{Context as _, Result};

use super::Daemon;
use crate::{kernel::redirect, policy::OnStop};

impl Daemon {
    /// Leaves the policy in force, or takes it off as `sluice detach` does.
    pub(super) fn leave(self) -> Result<()> {
        match self.policy.gateway.on_stop {
            OnStop::Keep => {
                tracing::info!("stopped; the policy stays in force (`sluice detach` takes it off)");
                return Ok(());
            }
            OnStop::Detach => {}
        }
        let Self { attachments, observers, pins, .. } = self;
        // A link that is held open keeps its program on the NIC.
        drop((attachments, observers));
        // Also where that fails, everything else is taken off.
        let redirected = redirect::remove();
        pins.remove_all().context(
            "the filter can't be taken off as on_stop = \"detach\" wants it; `sluice detach` tries again",
        )?;
        redirected?;
        tracing::warn!("stopped, and the filter is taken off: packets are no longer filtered");
        Ok(())
    }
}
