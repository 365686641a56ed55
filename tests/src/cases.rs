// SPDX-License-Identifier: MIT OR Apache-2.0
//! The case table: `tests/cases/*.toml`, each a frame and what becomes of it under a policy.

pub mod check;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use filter_user::{
    compile::{Host, HostNic},
    names::Snapshot,
    policy::{Fqdn, NicName, Policy, load},
};
use ipnet::IpNet;
use serde::Deserialize;

use crate::frames::frame;

/// All files together.
#[derive(Debug)]
pub struct Table {
    /// Gateways by the names that cases call them by.
    pub policies: BTreeMap<String, Setting>,
    /// In the order of the files' names, then as they are written.
    pub cases: Vec<Case>,
}

/// A gateway that cases run against.
#[derive(Debug)]
pub struct Setting {
    /// What it allows.
    pub policy: Policy,
    /// The addresses of the policy's names.
    pub names: Snapshot,
    /// Its NICs and addresses.
    pub host: Host,
}

/// A frame, and what becomes of it.
#[derive(Debug)]
pub struct Case {
    /// File and name.
    pub title: String,
    /// The name of the gateway.
    pub policy: String,
    /// The index of the NIC that the frame enters.
    pub nic: u8,
    /// The frame, from its Ethernet header on.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub verdict: CaseVerdict,
    /// The name of the pass or drop reason.
    pub reason: String,
    /// The rules that allow it, if rules do.
    pub rules: BTreeSet<String>,
}

/// Whether a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseVerdict {
    /// It does.
    Pass,
    /// It doesn't.
    Drop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The policy of the cases that name none.
    default_policy: Option<String>,
    #[serde(default)]
    policy: BTreeMap<String, PolicyEntry>,
    #[serde(default)]
    case: Vec<CaseEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyEntry {
    gateway: String,
    rules: String,
    own: BTreeSet<IpAddr>,
    nic: Vec<NicEntry>,
    #[serde(default)]
    names: BTreeMap<String, BTreeSet<IpAddr>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NicEntry {
    index: u8,
    name: String,
    plausible: Vec<IpNet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseEntry {
    name: String,
    policy: Option<String>,
    #[serde(default)]
    nic: u8,
    frame: String,
    verdict: CaseVerdict,
    reason: String,
    #[serde(default)]
    rules: BTreeSet<String>,
}

/// Where the files are in the repository.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

// === impl Table ===

impl Table {
    /// Reads the files of a directory, in the order of their names.
    ///
    /// # Errors
    ///
    /// A file can't be read or understood; the message names it.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        let entries = fs::read_dir(directory)
            .with_context(|| format!("{} can't be read", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut table = Self { policies: BTreeMap::new(), cases: Vec::new() };
        let mut titles = BTreeSet::new();
        for path in paths {
            table.add(&path, &mut titles).with_context(|| path.display().to_string())?;
        }
        Ok(table)
    }

    fn add(&mut self, path: &Path, titles: &mut BTreeSet<String>) -> Result<()> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let file: File = toml::from_str(&fs::read_to_string(path)?)?;
        for (name, entry) in file.policy {
            let setting = entry.setting(&name)?;
            let before = self.policies.insert(name.clone(), setting);
            ensure!(before.is_none(), "the policy `{name}` stands there twice");
        }
        for entry in file.case {
            let title = format!("{stem}: {}", entry.name);
            ensure!(titles.insert(title.clone()), "`{title}` stands there twice");
            let policy = entry.policy.or_else(|| file.default_policy.clone());
            self.cases.push(Case {
                policy: policy.with_context(|| format!("`{title}` names no policy"))?,
                nic: entry.nic,
                frame: frame(&entry.frame).with_context(|| title.clone())?,
                verdict: entry.verdict,
                reason: entry.reason,
                rules: entry.rules,
                title,
            });
        }
        Ok(())
    }
}

// === impl PolicyEntry ===

impl PolicyEntry {
    fn setting(self, name: &str) -> Result<Setting> {
        let files = [
            (Arc::from(load::GATEWAY_FILE), self.gateway),
            (Arc::from("policy.d/rules.toml"), self.rules),
        ];
        let loaded = load::parse(&files)
            .map_err(|errors| anyhow!("the policy `{name}` has errors:\n{errors}"))?;
        let mut nics = Vec::new();
        for nic in self.nic {
            nics.push(HostNic {
                slot: nic.index,
                name: NicName::try_from(nic.name.as_str())?,
                plausible: nic.plausible,
                elsewhere: Vec::new(),
            });
        }
        let host = Host { nics, own: self.own, ..Host::default() };
        let mut addresses = BTreeMap::new();
        for (name, of_name) in self.names {
            addresses.insert(Fqdn::try_from(name.as_str())?, of_name);
        }
        Ok(Setting { policy: loaded.policy, names: Snapshot { addresses }, host })
    }
}
