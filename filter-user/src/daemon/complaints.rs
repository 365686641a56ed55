// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to complain about: warnings, and problems that go by themselves or don't.

use super::{Daemon, nics, permissions, suitable};
use crate::{
    kernel::{AttachedMode, offload::Tags},
    policy::{
        XdpMode,
        load::{not_enforced, summed_up},
    },
};

impl Daemon {
    /// What the configuration and the machine make one wonder about.
    pub(super) fn all_warnings(&self) -> Vec<String> {
        let mut warnings = summed_up(&self.config_warnings);
        warnings.extend(suitable::unmentioned(&self.policy, &self.host_state));
        let wanted = self.policy.gateway.xdp_mode;
        for attachment in &self.attachments {
            let nic = &attachment.nic.name;
            match (wanted, nics::attached_mode(attachment, &self.host_state)) {
                (XdpMode::Auto | XdpMode::Generic, Some(AttachedMode::Generic)) => {
                    warnings.push(format!(
                        "the filter is attached to {nic} in generic mode, which is slower; its \
                         counters count what it sees, and the network stack puts packets together \
                         before that (GRO), up to 64 KiB in one"
                    ));
                }
                (XdpMode::Native, Some(AttachedMode::Generic))
                | (XdpMode::Generic, Some(AttachedMode::Native)) => warnings.push(format!(
                    "the filter is attached to {nic} in another mode than xdp_mode asks for, as it \
                     was there before; `sluice detach` and a new start change that, with a gap"
                )),
                (_, None) | (XdpMode::Auto | XdpMode::Native, Some(AttachedMode::Native)) => {}
            }
        }
        if let Some(number) = self.history.applied() {
            warnings.push(format!(
                "the policy is number {number} of the history, and not that of {}; `sluice reload` \
                 puts that in force",
                self.options.config.display()
            ));
        }
        if !self.slots.is_indexed() {
            warnings.push(
                "the policy has outgrown the index of destinations, so that packets take several \
                 times as long to judge; a restart of the daemon makes it longer, without a gap"
                    .to_owned(),
            );
        }
        if self.policy.sources.iter().all(|group| group.vlan.is_empty()) {
            for (nic, tags) in &self.tags {
                match tags {
                    Tags::TakenOff(why) => warnings.push(format!(
                        "{nic} takes VLAN tags off before the filter sees the frame, and that can't \
                         be switched off ({why}); tagged frames are judged as if they had no tag, \
                         and groups with vlan would be refused"
                    )),
                    Tags::InFrame | Tags::SwitchedOff(_) => {}
                }
            }
        }
        warnings
    }

    /// What is wrong now and is tried again, or was lost.
    pub(super) fn problems(&self) -> Vec<String> {
        let errors = self.nic_errors.values().chain(&self.tables_error);
        let errors = errors
            .chain(&self.names_writing.error)
            .chain(self.forwarding.closed.values())
            .chain(&self.forwarding.full)
            .chain(self.metrics_listeners.closed.values())
            .chain(&self.live_problem)
            .chain(&self.history_problem)
            .cloned();
        let hidden = nics::hidden_tags(&self.policy, &self.tags);
        self.absences
            .problems()
            .chain(errors)
            .chain(hidden)
            .chain(self.redirecting.problem())
            .chain(permissions::socket_problem(&self.options.socket))
            .collect()
    }

    /// What is configured and not enforced.
    pub(super) fn not_enforced(&self) -> Vec<String> {
        not_enforced(&self.policy).iter().map(ToString::to_string).collect()
    }
}
