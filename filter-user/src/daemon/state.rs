// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the daemon keeps on disk: which counter belongs to which rules, and the addresses of
//! names. Each file is written beside and renamed.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Serialize, de::DeserializeOwned};

use crate::{compile::CounterLedger, names};

/// Where state is unless the command line says otherwise.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/sluice";

/// The state directory, locked by this process.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

/// What was found of a file.
#[derive(Debug)]
pub enum Saved<T> {
    /// It is there and can be read.
    Found(T),
    /// It is not there.
    Missing,
    /// It is there and can't be used: why, in a sentence.
    Unusable(String),
}

// === impl StateDirectory ===

impl StateDirectory {
    /// Makes the directory where it is missing, for root only, and locks it.
    ///
    /// # Errors
    ///
    /// It can't be made, or another daemon keeps its state there.
    pub fn create(path: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).with_context(|| {
            let path = path.display();
            format!("the state directory {path} can't be made; name another with --state-dir")
        })?;
        let lock = File::open(path)
            .with_context(|| format!("the state directory {} can't be opened", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another sluice keeps its state in {}; give this one its own directory with \
                 --state-dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} can't be locked", path.display()))
            }
        }
    }

    /// Which counter belongs to which rules.
    #[must_use]
    pub fn ledger(&self) -> Saved<CounterLedger> {
        self.load("counters.json")
    }

    /// Saves which counter belongs to which rules. It comes before the tables that count there.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn save_ledger(&self, ledger: &CounterLedger) -> Result<()> {
        self.save("counters.json", ledger)
    }

    /// The addresses of names.
    #[must_use]
    pub fn names(&self) -> Saved<names::State> {
        self.load("names.json")
    }

    /// Saves the addresses of names.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn save_names(&self, state: &names::State) -> Result<()> {
        self.save("names.json", state)
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Saved<T> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => Saved::Found(value),
                Err(error) => {
                    Saved::Unusable(format!("{} can't be understood: {error}", path.display()))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::Missing,
            Err(error) => Saved::Unusable(format!("{} can't be read: {error}", path.display())),
        }
    }

    fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.path.join(name);
        let fresh = self.path.join(format!("{name}.new"));
        let bytes = serde_json::to_vec(value)?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(&bytes)?;
            // Without it, a power cut may leave the new name with none of the content.
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("{} can't be written", path.display()))
    }
}
