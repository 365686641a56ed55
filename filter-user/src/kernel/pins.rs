// SPDX-License-Identifier: MIT OR Apache-2.0
//! The directory of pins in the host's bpffs: what is in it outlives the daemon.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use filter_common::wire::LAYOUT_VERSION;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{
    egress,
    migration::{layouts, remove_tree},
};
use crate::policy::NicName;

/// Where pins are unless the command line says otherwise.
pub const DEFAULT_PIN_DIRECTORY: &str = "/sys/fs/bpf/sluice";

/// `<directory>/v<layout>`: maps, and a link and a program for each NIC.
#[derive(Debug)]
pub struct PinDirectory {
    root: PathBuf,
    layout: PathBuf,
    lock: Option<File>,
}

/// The pins of one NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicPins {
    /// The NIC's index in maps and counters.
    pub index: u8,
    /// Its name.
    pub name: NicName,
}

// === impl NicPins ===

impl NicPins {
    /// The name of a pin. A bpffs takes no dots (`bpf_lookup` in kernel/bpf/inode.c), which VLAN
    /// interfaces have in their names.
    fn file(&self, kind: &str) -> String {
        let name = self.name.as_str().replace('%', "%25").replace('.', "%2e");
        format!("{kind}-{}-{name}", self.index)
    }

    fn from_file(kind: &str, file: &str) -> Option<Self> {
        let (index, name) = file.strip_prefix(kind)?.strip_prefix('-')?.split_once('-')?;
        let name = name.replace("%2e", ".").replace("%25", "%");
        Some(Self { index: index.parse().ok()?, name: NicName::try_from(name.as_str()).ok()? })
    }
}

// === impl PinDirectory ===

impl PinDirectory {
    /// The same directory, for another thread. The lock stays here.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { root: self.root.clone(), layout: self.layout.clone(), lock: None }
    }

    /// Makes the directory where it is missing, and locks it for this process.
    ///
    /// # Errors
    ///
    /// It is not in a bpffs that the host keeps, or another daemon has it. Pins of other layouts are a
    /// matter of [`Migration`](super::migration::Migration).
    pub fn create(root: &Path) -> Result<Self> {
        let layout = root.join(format!("v{LAYOUT_VERSION}"));
        let parent = root.parent().context("the pin directory can't be the root directory")?;
        check_bpffs(parent)?;
        let mut pins = Self { root: root.to_owned(), layout, lock: None };
        let maps = pins.layout.join("maps");
        // Whoever can open a pin can change what is in force.
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&maps)
            .with_context(|| format!("the pin directory {} can't be made", maps.display()))?;
        pins.acquire()?;
        Ok(pins)
    }

    /// Opens an existing directory and locks it; `None` where there surely is none.
    ///
    /// # Errors
    ///
    /// Another daemon has it, it holds pins of another layout, or it can't be seen from here.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let layout = root.join(format!("v{LAYOUT_VERSION}"));
        let mut pins = Self { root: root.to_owned(), layout, lock: None };
        match fs::metadata(&pins.layout) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // In another bpffs than the host's, absence says nothing.
                check_bpffs(
                    root.parent().context("the pin directory can't be the root directory")?,
                )?;
                if root.exists() {
                    pins.check_other_layouts()?;
                }
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{} can't be looked into; try again as root", root.display())
                });
            }
        }
        pins.acquire()?;
        Ok(Some(pins))
    }

    /// Whether a lock-down is in force below `root`, and no policy has taken its place yet, as far as
    /// can be seen.
    #[must_use]
    pub fn is_locked_down(root: &Path) -> bool {
        let layout = root.join(format!("v{LAYOUT_VERSION}"));
        Self { root: root.to_owned(), layout, lock: None }.has_lockdown()
    }

    /// Whether a running daemon has the pins below `root`, whatever their layout, as far as can be seen.
    #[must_use]
    pub fn is_held(root: &Path) -> bool {
        Self::all(root).iter().any(|pins| {
            let opened = File::open(&pins.layout);
            opened.is_ok_and(|directory| {
                matches!(directory.try_lock(), Err(TryLockError::WouldBlock))
            })
        })
    }

    /// Whether programs are pinned below `root`, whatever their layout, as far as can be seen.
    #[must_use]
    pub fn is_in_use(root: &Path) -> bool {
        Self::all(root).iter().any(|pins| pins.nics().is_ok_and(|nics| !nics.is_empty()))
    }

    /// The pins of each layout, without a lock.
    fn all(root: &Path) -> Vec<Self> {
        let layouts = layouts(root).unwrap_or_default().into_iter();
        let pins = |version: u32| Self {
            root: root.to_owned(),
            layout: root.join(format!("v{version}")),
            lock: None,
        };
        layouts.map(pins).collect()
    }

    /// Opens the pins of another layout and locks them.
    ///
    /// # Errors
    ///
    /// A daemon of that layout runs.
    pub(super) fn open_layout(root: &Path, version: u32) -> Result<Self> {
        let layout = root.join(format!("v{version}"));
        let mut pins = Self { root: root.to_owned(), layout, lock: None };
        pins.acquire()?;
        Ok(pins)
    }

    /// The other layouts that have pins beside these.
    pub(super) fn other_layouts(&self) -> Result<Vec<u32>> {
        let mut versions = layouts(&self.root)?;
        versions.retain(|version| *version != LAYOUT_VERSION);
        Ok(versions)
    }

    /// The layout that these pins are of.
    pub(super) fn version(&self) -> u32 {
        let name = self.layout.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix('v').and_then(|version| version.parse().ok()).unwrap_or_default()
    }

    /// The directory of all layouts.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes these pins; what other pins hold goes on.
    pub(super) fn remove_pins(&self) -> Result<()> {
        remove_tree(&self.layout)
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.layout.join("maps").join(name)
    }

    /// Where a NIC's link is pinned.
    #[must_use]
    pub fn link(&self, nic: &NicPins) -> PathBuf {
        self.layout.join(nic.file("link"))
    }

    /// Where a NIC's program is pinned.
    #[must_use]
    pub fn program(&self, nic: &NicPins) -> PathBuf {
        self.layout.join(nic.file("program"))
    }

    /// Where a NIC's next program is pinned before it takes the place of the old one.
    #[must_use]
    pub fn next_program(&self, nic: &NicPins) -> PathBuf {
        self.layout.join(nic.file("next"))
    }

    /// Where the link of the program on what leaves a NIC is pinned, where the kernel has such links.
    #[must_use]
    pub fn egress_link(&self, nic: &NicPins) -> PathBuf {
        self.layout.join(nic.file("egress"))
    }

    /// Where the program on what leaves a NIC is pinned.
    #[must_use]
    pub fn egress_program(&self, nic: &NicPins) -> PathBuf {
        self.layout.join(nic.file("leaving"))
    }

    /// Where the next one is pinned before it takes the place of the old one.
    #[must_use]
    pub fn next_egress_program(&self, nic: &NicPins) -> PathBuf {
        self.layout.join(nic.file("next_leaving"))
    }

    /// Whether the tables are those of a lock-down.
    #[must_use]
    pub fn has_lockdown(&self) -> bool {
        self.lockdown().is_symlink()
    }

    /// Notes that the tables are those of a lock-down, for as long as there are these tables.
    ///
    /// # Errors
    ///
    /// The note can't be made.
    pub fn note_lockdown(&self) -> Result<()> {
        if self.has_lockdown() {
            return Ok(());
        }
        // A bpffs takes no plain files, and a pin of a map would be a map too many.
        let path = self.lockdown();
        symlink("maps", &path).with_context(|| format!("{} can't be made", path.display()))
    }

    /// Notes that a policy took the lock-down's place.
    ///
    /// # Errors
    ///
    /// The note can't be removed.
    pub fn forget_lockdown(&self) -> Result<()> {
        remove_if_there(&self.lockdown())
    }

    fn lockdown(&self) -> PathBuf {
        self.layout.join("lockdown")
    }

    /// The NICs that have a pinned link.
    ///
    /// # Errors
    ///
    /// The directory can't be read.
    pub fn nics(&self) -> Result<Vec<NicPins>> {
        let entries = fs::read_dir(&self.layout)
            .with_context(|| format!("{} can't be read", self.layout.display()))?;
        let mut nics = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            nics.extend(name.to_str().and_then(|name| NicPins::from_file("link", name)));
        }
        nics.sort_by_key(|nic| nic.index);
        Ok(nics)
    }

    /// Takes the programs off a NIC and removes their pins.
    ///
    /// # Errors
    ///
    /// A pin can't be removed, or a program not be taken off.
    pub fn remove_nic(&self, nic: &NicPins) -> Result<()> {
        for path in [self.link(nic), self.program(nic), self.next_program(nic)] {
            remove_if_there(&path)?;
        }
        self.remove_egress(nic)
    }

    /// Takes the program on what leaves off a NIC, and removes its pins.
    ///
    /// # Errors
    ///
    /// As [`PinDirectory::remove_nic`].
    pub fn remove_egress(&self, nic: &NicPins) -> Result<()> {
        // Without a link of its own, the program stays when its pins go.
        if self.egress_program(nic).exists() && !self.egress_link(nic).exists() {
            egress::take_off_filter(nic)?;
        }
        for path in [self.egress_link(nic), self.egress_program(nic), self.next_egress_program(nic)]
        {
            remove_if_there(&path)?;
        }
        Ok(())
    }

    /// Removes every pin, links first, and the directory.
    ///
    /// # Errors
    ///
    /// A pin can't be removed.
    pub fn remove_all(self) -> Result<()> {
        for nic in self.nics()? {
            self.remove_nic(&nic)?;
        }
        remove_tree(&self.layout)?;
        // Another layout's pins may stand beside ours; then the directory stays.
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(error).with_context(|| format!("{} can't be removed", self.root.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn acquire(&mut self) -> Result<()> {
        let directory = File::open(&self.layout)
            .with_context(|| format!("{} can't be opened", self.layout.display()))?;
        match directory.try_lock() {
            Ok(()) => {
                self.lock = Some(directory);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another sluice is running with the pins in {}; stop it first, or give this one \
                 its own directory with --pin-dir",
                self.root.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} can't be locked", self.layout.display()))
            }
        }
    }

    fn check_other_layouts(&self) -> Result<()> {
        let entries = fs::read_dir(&self.root)
            .with_context(|| format!("{} can't be read", self.root.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path != self.layout && path.is_dir() {
                bail!(
                    "{} holds pins of another version of Sluice ({}); take them off with that \
                     version's `sluice detach`, then start this one",
                    self.root.display(),
                    path.file_name().unwrap_or_default().to_string_lossy()
                );
            }
        }
        Ok(())
    }
}

/// Pins something beside the place where an older one is, and renames, so that there is always
/// one.
pub(super) fn pin_beside(
    fresh: &Path,
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    remove_if_there(fresh)?;
    pin(fresh)?;
    fs::rename(fresh, path).with_context(|| format!("{} can't be renamed", fresh.display()))
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Refuses a directory whose pins would vanish: one that is not in a bpffs, or in one that only a
/// private mount namespace holds (`ip netns exec`, a service with its own mounts).
fn check_bpffs(directory: &Path) -> Result<()> {
    let mend = "mount it in the host's mount namespace (`mount -t bpf bpf /sys/fs/bpf`), and enter \
                network namespaces with `nsenter --net`, not `ip netns exec`";
    let stat = statfs(directory).with_context(|| {
        format!(
            "{} can't be looked into, so nothing can be pinned in it; make the directory, or {mend}",
            directory.display()
        )
    })?;
    if stat.filesystem_type() != BPF_FS_MAGIC {
        bail!("{} is not in a bpffs, so nothing can be pinned in it; {mend}", directory.display());
    }
    let device = fs::metadata(directory)?.dev();
    let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mounts = fs::read_to_string("/proc/1/mountinfo")
        .context("/proc/1/mountinfo can't be read, so it can't be told whether pins would stay")?;
    // Fields of proc_pid_mountinfo(5): id, parent, major:minor.
    let kept = mounts.lines().any(|line| line.split(' ').nth(2) == Some(device.as_str()));
    if !kept {
        bail!(
            "the bpffs at {} is private to this process's mount namespace: every pin, and with it \
             the enforcement, would vanish with the process; {mend}",
            directory.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_read_back() {
        for name in ["eth1", "eth0.100", "a%b", "a%2eb", "br-lan", "wan-1.2"] {
            let nic = NicPins { index: 11, name: NicName::try_from(name).unwrap() };
            let file = nic.file("link");
            assert!(!file.contains('.'), "{file}");
            assert_eq!(NicPins::from_file("link", &file), Some(nic));
        }
        assert_eq!(NicPins::from_file("link", "program-1-eth1"), None);
        assert_eq!(NicPins::from_file("link", "link-300-eth1"), None);
    }
}
