// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories for configurations, sockets and pins, with a guard.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tempfile::TempDir;

use crate::{
    cleanup::{self, Leftover, Ticket},
    process::run,
};

/// Where the host's bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// A temporary directory; it is removed when this is dropped.
#[derive(Debug)]
pub struct Workdir {
    directory: TempDir,
    _ticket: Ticket,
}

/// The place for a directory of pins in the host's bpffs; what is there is removed when this is
/// dropped.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    _ticket: Ticket,
}

// === impl Workdir ===

impl Workdir {
    /// Makes an empty directory.
    ///
    /// # Errors
    ///
    /// If that isn't possible.
    pub fn new(role: &str) -> Result<Self> {
        let (directory, ticket) = cleanup::track(|| {
            let directory = TempDir::with_prefix(format!("sluice-lab-{role}-"))
                .context("a temporary directory can't be made")?;
            let leftover = Leftover::Directory(directory.path().to_owned());
            Ok((directory, leftover))
        })?;
        Ok(Self { directory, _ticket: ticket })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

// === impl PinDir ===

impl PinDir {
    /// Reserves `/sys/fs/bpf/sluice-<unique>`; the daemon makes it. Where no bpffs is mounted yet,
    /// one is, and stays: it belongs to the host, and others may have begun to use it.
    ///
    /// # Errors
    ///
    /// If there is no bpffs and none can be mounted.
    pub fn new(unique: &str) -> Result<Self> {
        let path = Path::new(BPFFS).join(format!("sluice-{unique}"));
        let ((), ticket) = cleanup::track(|| {
            let kind = statfs(BPFFS).with_context(|| format!("{BPFFS} can't be examined"))?;
            if kind.filesystem_type() != BPF_FS_MAGIC {
                run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
            }
            Ok(((), Leftover::Pins(path.clone())))
        })?;
        Ok(Self { path, _ticket: ticket })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layouts of tables that have pins there.
    ///
    /// # Errors
    ///
    /// If the directory can't be read.
    pub fn layouts(&self) -> Result<Vec<String>> {
        let mut layouts = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(|| self.path.display().to_string())? {
            layouts.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(layouts)
    }

    /// Everything that is pinned there, sorted; empty if the directory is not there.
    #[must_use]
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.path.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        // A destructor has nobody to report to; the tests look for what is left.
        let _ = Leftover::Pins(self.path.clone()).remove();
    }
}
