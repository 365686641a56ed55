// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the service manager is told, by systemd's protocol of notifications (sd_notify(3)): that the
//! policy is in force, what state it is in, and that the daemon is alive.
//!
//! Without a service manager, which is known by `NOTIFY_SOCKET`, nothing is sent.
//!
//! The watchdog is fed by the event loop itself, so that a loop that is stuck is noticed. Work that
//! takes the loop long says [`alive`] after each part, since it goes on and must not be killed for it.

use std::{
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Daemon;

/// By how much each part of a long start moves its deadline away. A part is a NIC, whose programs
/// take the kernel's verifier a second or two, or a few thousand entries of a table.
const EXTENSION: Duration = Duration::from_secs(60);

/// Parts that end faster than this after the last are not told one by one.
const PACE: Duration = Duration::from_secs(1);

/// How long a line of status may be.
const LONGEST_STATUS: usize = 300;

/// What the service manager knows. There is one for the process, as there is one socket.
#[derive(Debug)]
struct Manager {
    phase: Phase,
    /// When it last heard that work goes on.
    told: Option<Instant>,
    /// The last line of status.
    status: String,
}

/// What the service manager waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// That the policy is in force.
    Starting,
    /// A sign of life, if it wants any.
    Running,
}

static MANAGER: Mutex<Manager> =
    Mutex::new(Manager { phase: Phase::Starting, told: None, status: String::new() });

fn manager() -> MutexGuard<'static, Manager> {
    // A panic while it was held leaves it whole.
    MANAGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The event loop's sign of life, as often as the service manager wants it twice over.
#[derive(Debug)]
pub(super) struct Heartbeat(Option<Interval>);

// === impl Heartbeat ===

impl Heartbeat {
    /// At half of what the service manager asks for (`WATCHDOG_USEC`), or never.
    pub(super) fn new() -> Self {
        let period = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self(period.filter(|period| !period.is_zero()).map(|period| {
            let mut beats = interval(period);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        }))
    }

    /// Waits until the next sign is due, and gives it. Nothing is lost where this is dropped.
    pub(super) async fn beat(&mut self) {
        match &mut self.0 {
            Some(beats) => {
                beats.tick().await;
                send(&[NotifyState::Watchdog]);
            }
            None => pending().await,
        }
    }
}

/// Says that work goes on which takes the event loop long. It may be called as often as one likes.
pub(super) fn alive() {
    let mut manager = manager();
    let now = Instant::now();
    if manager.told.is_some_and(|told| now.duration_since(told) < PACE) {
        return;
    }
    manager.told = Some(now);
    let phase = manager.phase;
    drop(manager);
    match phase {
        Phase::Starting => send(&[NotifyState::ExtendTimeoutUsec(
            u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX),
        )]),
        Phase::Running => send(&[NotifyState::Watchdog]),
    }
}

/// Says that the configuration is read again. [`reloaded`] has to follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reading the configuration again"),
            NotifyState::Watchdog,
        ]),
        // From 253 on systemd ends a service that says RELOADING without it.
        Err(error) => tracing::warn!("the service manager is not told of the reload: {error}"),
    }
    manager().status.clear();
}

/// Says that a reload is over, whatever came of it.
pub(super) fn reloaded() {
    send(&[NotifyState::Ready]);
}

/// Says that the daemon ends, because it was told to.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

impl Daemon {
    /// Says that the policy is in force.
    pub(super) fn tell_ready(&self) {
        manager().phase = Phase::Running;
        send(&[NotifyState::Ready, NotifyState::Watchdog]);
        self.tell_status();
    }

    /// Says how things stand, where that has changed.
    pub(super) fn tell_status(&self) {
        let rules = self.policy.enabled_rules().count();
        let status = status_line(self.slots.generation(), rules, &self.all_problems());
        let mut manager = manager();
        if manager.status != status {
            send(&[NotifyState::Status(&status)]);
            manager.status = status;
        }
    }

    /// What is wrong now, a broken configuration first.
    fn all_problems(&self) -> Vec<String> {
        let broken = self.config_error.iter().cloned();
        broken.chain(self.problems()).collect()
    }
}

/// One line: systemd shows no more.
fn status_line(generation: u64, rules: usize, problems: &[String]) -> String {
    let mut line = format!("policy {generation} is in force: {rules} rules");
    match problems {
        [] => {}
        [one] => line.push_str(&format!("; problem: {one}")),
        [first, ..] => line.push_str(&format!("; {} problems, the first: {first}", problems.len())),
    }
    let line: Vec<&str> = line.split_whitespace().collect();
    let line = line.join(" ");
    if line.chars().count() <= LONGEST_STATUS {
        return line;
    }
    let short: String = line.chars().take(LONGEST_STATUS - 3).collect();
    format!("{short}...")
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // The service manager may be away for a moment, as while it is upgraded.
        tracing::debug!("the service manager can't be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        assert_eq!(status_line(7, 3, &[]), "policy 7 is in force: 3 rules");
        let one = ["gateway.toml:3: no such NIC\nand more".to_owned()];
        assert_eq!(
            status_line(7, 3, &one),
            "policy 7 is in force: 3 rules; problem: gateway.toml:3: no such NIC and more"
        );
        let many = vec!["\u{e4}".repeat(1000); 3];
        let line = status_line(1, 0, &many);
        assert!(line.starts_with("policy 1 is in force: 0 rules; 3 problems, the first: \u{e4}"));
        assert_eq!(line.chars().count(), LONGEST_STATUS);
        assert!(line.ends_with("..."));
    }
}
