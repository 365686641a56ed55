// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon gives up what it doesn't need, for good: capabilities, the way to get any back, and what
//! programs that it starts could gain.
//!
//! Capabilities belong to threads, and a new thread has those of the one that made it. So this comes
//! before there is a second one.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability, runtime};
use nix::{
    sys::prctl,
    unistd::{Gid, Group, getgroups, setgroups},
};

use crate::control::GROUP;

/// A capability that is kept, and why.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// The capability.
    pub capability: Capability,
    /// What can't be done without it, while the daemon runs.
    pub reason: &'static str,
}

/// What is kept. `dist/sluice.service` and `docs/security.md` say the same, which a test checks.
///
/// Not among them, though it may seem so: `CAP_SYS_ADMIN` (since Linux 5.8 `CAP_BPF` does),
/// `CAP_SYS_RESOURCE` (tables are counted by the memory controller, not by `RLIMIT_MEMLOCK`, and the
/// limit of open files is raised only up to what is allowed), `CAP_DAC_OVERRIDE` (all files are
/// root's own), `CAP_CHOWN` (the socket is given to a group that the daemon is in), `CAP_NET_RAW` (no
/// raw socket is opened).
pub const KEPT: &[Reason] = &[
    Reason {
        capability: Capability::CAP_BPF,
        reason: "programs are loaded and maps made and pinned also later: for a NIC that comes back, \
                 for `sluice explain`, after a change of NICs; learned addresses are written by a \
                 program",
    },
    Reason {
        capability: Capability::CAP_NET_ADMIN,
        reason: "programs are put on NICs that come back; VLAN offload is kept off; connections are \
                 read from conntrack; `nft` puts the redirection of `[dns] intercept` back",
    },
    Reason {
        capability: Capability::CAP_PERFMON,
        reason: "the verifier takes the programs only with it: they do arithmetic with pointers into \
                 packets that it else forbids",
    },
    Reason {
        capability: Capability::CAP_NET_BIND_SERVICE,
        reason: "the forwarder listens on port 53, also at addresses that the gateway gets later",
    },
];

/// What came of [`give_up`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The names of what is left, in the order of [`KEPT`].
    pub kept: Vec<String>,
    /// Whether the group [`GROUP`] is there, and this process in it.
    pub group: Membership,
}

/// Whether the socket can be given to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The process is in the group.
    Member,
    /// There is no such group, or it can't be joined.
    None,
}

/// Gives up everything but [`KEPT`]. It has to be called before there is a second thread.
///
/// # Errors
///
/// The kernel refuses, which it does for no known reason.
pub fn give_up() -> Result<Outcome> {
    let group = join_group()?;
    let had = caps::read(None, CapSet::Permitted).context("capabilities can't be read")?;
    let kept: HashSet<Capability> =
        KEPT.iter().map(|row| row.capability).filter(|one| had.contains(one)).collect();
    let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP);
    // Without it, somebody else, such as systemd, has seen to the bounding set.
    if may.context("capabilities can't be read")? {
        for capability in runtime::thread_all_supported() {
            let bounded = caps::has_cap(None, CapSet::Bounding, capability)?;
            if bounded && !KEPT.iter().any(|row| row.capability == capability) {
                caps::drop(None, CapSet::Bounding, capability)
                    .with_context(|| format!("{capability} can't be given up for good"))?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).context("ambient capabilities can't be given up")?;
    caps::clear(None, CapSet::Inheritable).context("inheritable capabilities can't be given up")?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).context("capabilities can't be given up")?;
    }
    prctl::set_no_new_privs().context("it can't be ruled out that privileges are gained")?;
    let names = KEPT.iter().filter(|row| kept.contains(&row.capability));
    Ok(Outcome { kept: names.map(|row| row.capability.to_string()).collect(), group })
}

/// Without `CAP_CHOWN`, a file can be given to a group only by who is in it.
fn join_group() -> Result<Membership> {
    let group = Group::from_name(GROUP)
        .with_context(|| format!("it can't be found out whether there is a group {GROUP}"))?;
    let Some(Group { gid, .. }) = group else { return Ok(Membership::None) };
    let mut groups: Vec<Gid> = getgroups().context("the groups of this process can't be read")?;
    if groups.contains(&gid) || Gid::effective() == gid {
        return Ok(Membership::Member);
    }
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETGID)? {
        return Ok(Membership::None);
    }
    groups.push(gid);
    setgroups(&groups).with_context(|| format!("the group {GROUP} can't be joined"))?;
    Ok(Membership::Member)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, thread};

    use super::*;

    fn repository(file: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_unit_leaves_what_is_kept() {
        let names: Vec<String> = KEPT.iter().map(|row| row.capability.to_string()).collect();
        let unit = repository("dist/sluice.service");
        let line = format!("CapabilityBoundingSet={}", names.join(" "));
        assert!(unit.lines().any(|other| other == line), "dist/sluice.service has no `{line}`");
    }

    #[test]
    fn the_page_for_operators_gives_the_same_reasons() {
        let page = repository("docs/security.md");
        for Reason { capability, reason } in KEPT {
            let row = format!("| `{capability}` | {reason} |");
            assert!(page.lines().any(|line| line == row), "docs/security.md has no row\n{row}");
        }
    }

    #[test]
    fn what_is_given_up_is_gone_for_the_thread_and_those_it_makes() {
        // Only this thread and its own: the others of the test run go on as they were.
        thread::spawn(|| {
            let outcome = give_up().unwrap();
            let check = || {
                for set in [CapSet::Permitted, CapSet::Effective] {
                    for capability in caps::read(None, set).unwrap() {
                        assert!(outcome.kept.contains(&capability.to_string()), "{capability}");
                    }
                }
                for set in [CapSet::Inheritable, CapSet::Ambient] {
                    assert!(caps::read(None, set).unwrap().is_empty());
                }
                assert!(prctl::get_no_new_privs().unwrap());
            };
            check();
            thread::scope(|scope| {
                scope.spawn(check);
            });
            // A second time changes nothing.
            assert_eq!(give_up().unwrap().kept, outcome.kept);
        })
        .join()
        .unwrap();
    }
}
