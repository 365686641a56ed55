// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking over from a Sluice whose tables have an older layout.
//!
//! Its programs go on judging by its tables while new ones are made and filled beside them. Then each
//! link gets its new program, by one atomic update. What outlives policies (flows, counters) stays in the
//! very same maps, where their layout didn't change, so that nothing that happens meanwhile is lost. The
//! older pins go last; until then everything can be undone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::MapData,
    programs::{
        ProgramError, SchedClassifier, Xdp,
        links::{FdLink, PinnedLink},
        tc::SchedClassifierLink,
        xdp::XdpLink,
    },
};
use aya_obj::programs::XdpAttachType;
use filter_common::wire::LAYOUT_VERSION;

use super::pins::{NicPins, PinDirectory, remove_if_there};

/// Maps that outlive policies, and since which layout they are as they are now.
const CARRIED: [(&str, u32); 11] = [
    ("FLOW_TAGS", 8),
    ("FLOW_SPILLS", 8),
    ("FLOW_ENTRIES", 8),
    ("FLOWS", 4),
    ("NO_ANSWERS", 5),
    ("KEPT_FLOWS", 4),
    ("FRAGMENTS", 4),
    ("COUNTERS", 4),
    ("REJECTED", 4),
    ("EVENTS", 4),
    ("EVENT_WINDOW", 7),
];

/// A take-over that has begun.
#[derive(Debug)]
pub struct Migration {
    older: Vec<PinDirectory>,
}

/// What a take-over found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherited {
    /// Flows and counters go on.
    Counters,
    /// They begin anew.
    Nothing,
}

impl Migration {
    /// Begins to take over the pins of older layouts below the same directory: their links and lasting maps
    /// are pinned among ours, too. `None` where there are none.
    ///
    /// # Errors
    ///
    /// A newer Sluice was here, one of another layout runs, or something can't be pinned. Nothing has
    /// changed then.
    pub fn begin(pins: &PinDirectory) -> Result<Option<Self>> {
        let mut older = Vec::new();
        for version in pins.other_layouts()? {
            if version > LAYOUT_VERSION {
                bail!(
                    "{} holds pins of a newer Sluice (layout {version}; this one has {LAYOUT_VERSION}), \
                     which goes on filtering; start that version, or take its filter off with its \
                     `sluice detach`",
                    pins.root().display()
                );
            }
            older.push(PinDirectory::open_layout(pins.root(), version)?);
        }
        if older.is_empty() {
            return Ok(None);
        }
        let migration = Self { older };
        match migration.take_links(pins) {
            Ok(()) => Ok(Some(migration)),
            Err(error) => match migration.undo(pins) {
                Ok(()) => Err(error),
                Err(other) => Err(error.context(format!("and it can't be undone: {other:#}"))),
            },
        }
    }

    fn take_links(&self, pins: &PinDirectory) -> Result<()> {
        for older in &self.older {
            let version = older.version();
            for (name, since) in CARRIED {
                let (from, to) = (older.map(name), pins.map(name));
                if version >= since && from.exists() && !to.exists() {
                    let complaint = || format!("the map {name} can't be taken over");
                    let map = MapData::from_pin(&from).with_context(complaint)?;
                    map.pin(&to).with_context(complaint)?;
                }
            }
            for nic in older.nics()? {
                take_link(&older.link(&nic), &pins.link(&nic))?;
                take_link(&older.egress_link(&nic), &pins.egress_link(&nic))?;
                // A program that a qdisc holds is replaced in its place; its pin says that it is there.
                let (from, to) = (older.egress_program(&nic), pins.egress_program(&nic));
                if from.exists() && !to.exists() {
                    SchedClassifier::from_pin(&from)?.pin(&to)?;
                }
            }
        }
        Ok(())
    }

    /// Whether what was counted before is counted on.
    #[must_use]
    pub fn inherited(&self, pins: &PinDirectory) -> Inherited {
        if pins.map("COUNTERS").exists() { Inherited::Counters } else { Inherited::Nothing }
    }

    /// The layout that is left behind, for people.
    #[must_use]
    pub fn from(&self) -> u32 {
        self.older.iter().map(PinDirectory::version).max().unwrap_or_default()
    }

    /// The new programs are on all NICs: removes the older pins.
    ///
    /// # Errors
    ///
    /// A pin can't be removed.
    pub fn finish(self) -> Result<()> {
        self.older.iter().try_for_each(PinDirectory::remove_pins)
    }

    /// Puts the older programs back on links that have new ones already, and removes our pins.
    ///
    /// # Errors
    ///
    /// A program can't be put back.
    pub fn undo(self, pins: &PinDirectory) -> Result<()> {
        for older in &self.older {
            for nic in older.nics()? {
                put_back(older, &nic).with_context(|| {
                    format!("the older program can't be put back on {}", nic.name)
                })?;
            }
        }
        pins.remove_pins()
    }
}

/// Pins a link at a second place.
fn take_link(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() || to.exists() {
        return Ok(());
    }
    let link = FdLink::from(PinnedLink::from_pin(from)?);
    // The pin stays when what pinned it is dropped.
    link.pin(to).with_context(|| format!("{} can't be taken over", from.display()))?;
    Ok(())
}

fn put_back(older: &PinDirectory, nic: &NicPins) -> Result<()> {
    let link = FdLink::from(PinnedLink::from_pin(older.link(nic))?);
    let mut program = Xdp::from_pin(older.program(nic), XdpAttachType::Interface)?;
    gone_is_fine(program.attach_to_link(XdpLink::try_from(link)?))?;
    let path = older.egress_link(nic);
    if path.exists() {
        let link = FdLink::from(PinnedLink::from_pin(&path)?);
        let mut program = SchedClassifier::from_pin(older.egress_program(nic))?;
        gone_is_fine(program.attach_to_link(SchedClassifierLink::try_from(link)?))?;
    }
    Ok(())
}

/// The kernel keeps a link whose NIC is gone, and refuses to update it.
fn gone_is_fine<T>(result: Result<T, ProgramError>) -> Result<()> {
    match result {
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(nix::errno::Errno::ENOLINK as i32) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// The layouts that have a directory below `root`.
///
/// # Errors
///
/// It can't be read, or holds something else.
pub(super) fn layouts(root: &Path) -> Result<Vec<u32>> {
    let mut versions = Vec::new();
    let entries =
        fs::read_dir(root).with_context(|| format!("{} can't be read", root.display()))?;
    for entry in entries {
        let path: PathBuf = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match name.strip_prefix('v').and_then(|version| version.parse().ok()) {
            Some(version) => versions.push(version),
            None => bail!(
                "{} is none of Sluice's pins; move it elsewhere, or name another directory with \
                 --pin-dir",
                path.display()
            ),
        }
    }
    versions.sort_unstable();
    Ok(versions)
}

/// Removes all pins of a directory of a layout, and the directory.
///
/// # Errors
///
/// A pin can't be removed.
pub(super) fn remove_tree(layout: &Path) -> Result<()> {
    for directory in [layout.join("maps"), layout.to_owned()] {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                remove_if_there(&entry.path())?;
            }
        }
        fs::remove_dir(&directory)
            .with_context(|| format!("{} can't be removed", directory.display()))?;
    }
    Ok(())
}
