// SPDX-License-Identifier: MIT OR Apache-2.0
//! Before the first policy is in force, everything is denied but what the policy of `gateway.toml`
//! alone, without any rule, lets pass: the management guard, and what is always allowed.
//!
//! The tables and pins are those of a policy, so that the daemon adopts them as it adopts an earlier
//! daemon's, and there is no gap in between. A note beside the pins tells them apart. While it is
//! there and no daemon can start, the lock-down follows the gateway's addresses, since the guard
//! holds for these.
//!
//! A NIC that is not there yet can't be filtered. Where one is missing, or the configuration can't be
//! read, the kernel forwards nothing at all (`kernel/barrier.rs`) until the daemon has put its policy
//! in force.

use std::{path::Path, slice, sync::Arc, time::Instant};

use anyhow::{Context as _, Error, Result, anyhow};

use super::{Options, nics, tables::TwoSlots};
use crate::{
    compile::{CounterLedger, compile},
    kernel::{
        PinDirectory, SharedMaps,
        barrier::{self, Barrier},
        netlink::{HostState, Netlink},
        object::check_privileges,
        pins::NicPins,
    },
    names::{NameCache, Settings, Wanted},
    policy::{Dns, Mode, NicName, Policy, load::load_gateway},
};

/// What a lock-down came to.
#[derive(Debug)]
pub enum Locked {
    /// A policy is in force already, or a daemon is about to put it in force; nothing was changed.
    InForce,
    /// The policy would only be watched (`mode = "audit"`), and so nothing is denied.
    Audit,
    /// All NICs of the configuration deny.
    Filtered(Vec<NicName>),
    /// Those that are there deny; as others are not, nothing is forwarded by any.
    Barred {
        /// Those that deny by themselves.
        filtered: Vec<NicName>,
        /// Those that are not there.
        missing: Vec<NicName>,
        /// What keeps anything from being forwarded.
        barrier: Barrier,
    },
}

/// How far the filter got.
struct Filtered {
    there: Vec<NicName>,
    missing: Vec<NicName>,
}

/// Denies everything that the gateway would forward until a policy is in force.
///
/// # Errors
///
/// The configuration is broken, or a NIC can't be filtered; then nothing is forwarded either. Or that
/// can't be done, and the message says so.
pub async fn lock_down(config: &Path, pins: &Path) -> Result<Locked> {
    let has_policy = PinDirectory::is_in_use(pins) && !PinDirectory::is_locked_down(pins);
    if has_policy || PinDirectory::is_held(pins) {
        return Ok(Locked::InForce);
    }
    match filter(config, pins).await {
        Ok(Some(Filtered { there, missing })) if missing.is_empty() => Ok(Locked::Filtered(there)),
        Ok(Some(Filtered { there, missing })) => {
            let barrier = barrier::put().context(OPEN)?;
            Ok(Locked::Barred { filtered: there, missing, barrier })
        }
        Ok(None) => Ok(Locked::Audit),
        // A daemon that was started meanwhile sees to it, and would not take the barrier away.
        Err(error) if PinDirectory::is_held(pins) => Err(error),
        Err(error) => match barrier::put() {
            Ok(Barrier::Table) => {
                Err(error.context("nothing is forwarded until a policy is in force"))
            }
            Ok(Barrier::Switches) => Err(error.context(SWITCHED_OFF)),
            Err(other) => Err(error.context(format!("{OPEN}: {other:#}"))),
        },
    }
}

/// What is said where nothing helps.
const OPEN: &str = "the gateway may forward packets that nobody judges; take its cables off, or end \
                    forwarding (`sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0`)";

/// What is said where forwarding had to be switched off.
pub const SWITCHED_OFF: &str = "forwarding is switched off, as there is no nft to deny it; when `sluice run` is ready, switch it on \
     (`sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`), and install nftables so that this \
     isn't needed the next time";

/// Where a lock-down is in force and the daemon can't start, it follows the gateway's addresses and
/// NICs. Gives the daemon's error, and what became of the lock-down.
pub(super) async fn follow(options: &Options, error: Error) -> Error {
    if !PinDirectory::is_locked_down(&options.pins) || PinDirectory::is_held(&options.pins) {
        return error;
    }
    match lock_down(&options.config, &options.pins).await {
        Ok(_) => error.context(
            "the policy can't be put in force, so that everything stays denied but the management guard",
        ),
        Err(other) => error.context(format!("everything stays denied, also the management guard ({other:#})")),
    }
}

/// A policy is in force, and the NICs have their programs: the lock-down ends.
///
/// # Errors
///
/// The note of it can't be removed.
pub(super) fn end(pins: &PinDirectory) -> Result<()> {
    pins.forget_lockdown()?;
    match barrier::lift() {
        Ok(true) => tracing::info!("the lock-down is over: what the policy allows is forwarded"),
        Ok(false) => {}
        Err(error) => tracing::warn!(
            "it can't be told whether a lock-down's nftables table is there ({error:#}); if nothing is \
             forwarded, `nft delete table inet sluice_lockdown` helps"
        ),
    }
    Ok(())
}

/// Puts the policy of `gateway.toml`, without its rules, in force on the NICs that are there; nothing
/// where it is only to be watched.
async fn filter(config: &Path, root: &Path) -> Result<Option<Filtered>> {
    check_privileges()?;
    let policy = load_gateway(config).map_err(|errors| {
        anyhow!("the configuration in {} is broken:\n{errors}", config.display())
    })?;
    if policy.gateway.mode == Mode::Audit {
        return Ok(None);
    }
    let policy = without_rules(policy);
    let host_state = Netlink::connect()?.read().await?;
    let pins = PinDirectory::create(root)?;
    let (maps, _events, provenance) = SharedMaps::open(&pins, policy.gateway.sizes)?;
    let (mut slots, _) = TwoSlots::open(maps, provenance)?;
    let numbered = nics::number(&policy, &pins)?;
    put_in_force(&policy, &mut slots, &pins, (&numbered, &host_state))?;
    attach(&policy, &mut slots, &pins, (&numbered, &host_state)).map(Some)
}

/// What is left where nothing may be asked for: no rule, no service, no forwarder.
fn without_rules(policy: Policy) -> Policy {
    Policy {
        dns: Dns::default(),
        sources: Vec::new(),
        rules: Vec::new(),
        inbound: Vec::new(),
        ..policy
    }
}

fn put_in_force(
    policy: &Policy,
    slots: &mut TwoSlots,
    pins: &PinDirectory,
    (numbered, state): (&[NicPins], &HostState),
) -> Result<()> {
    let host = nics::host(numbered, &policy.gateway, state);
    let sides = nics::interfaces(&policy.gateway, state);
    slots.maps.set_interfaces(&sides)?;
    slots.maps.set_nic_addresses(&nics::addresses(numbered, state))?;
    let mut names = NameCache::new(Settings::from(&policy.dns), 0);
    names.set_wanted(Arc::new(Wanted::from(policy)), Instant::now());
    let compiled = compile(policy, &names.snapshot(), &host, &mut CounterLedger::default())?;
    // The note comes first: killed in between, this is done again, and nothing passes meanwhile.
    pins.note_lockdown()?;
    slots.swap(compiled)
}

/// Puts programs on the NICs that are there and have none.
fn attach(
    policy: &Policy,
    slots: &mut TwoSlots,
    pins: &PinDirectory,
    (numbered, state): (&[NicPins], &HostState),
) -> Result<Filtered> {
    let (mut there, mut missing, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let pinned = pins.nics()?;
    for nic in numbered {
        let Some(found) = state.nics.get(&nic.name) else {
            missing.push(nic.name.clone());
            continue;
        };
        // A NIC that was made anew has lost its program, and its pin is of no use.
        let has_one = found.native_program.or(found.generic_program).is_some();
        let result = if has_one && pinned.contains(nic) {
            Ok(())
        } else {
            // One that can't be filtered must not keep another from being.
            let one = slice::from_ref(nic);
            let forgotten = slots.forget_nic(nic.index);
            forgotten.and_then(|()| nics::attach(pins, one, state, &policy.gateway).map(drop))
        };
        match result {
            Ok(()) => there.push(nic.name.clone()),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if errors.is_empty() {
        return Ok(Filtered { there, missing });
    }
    Err(anyhow!("{}", errors.join("; ")))
}
