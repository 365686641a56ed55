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

use filter_common::{
    egress::{Ingress, Side},
    reject::Answer,
};
use filter_user::{
    compile::{Host, HostNic},
    names::Snapshot,
    policy::{Fqdn, NicName, Policy, load},
};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{frames::frame, ground::TestNic};

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
    /// What came before it.
    pub before: Vec<Event>,
    /// Where it enters or leaves.
    pub way: CaseWay,
    /// The frame, from its Ethernet header on.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub verdict: CaseVerdict,
    /// The name of the pass or drop reason.
    pub reason: String,
    /// The rules that allow it, if rules do.
    pub rules: BTreeSet<String>,
    /// What the client is told, where the case says.
    pub answer: Option<CaseAnswer>,
}

/// What a client is told of a denied packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseAnswer {
    /// Nothing.
    None,
    /// A TCP reset.
    Reset,
    /// An ICMP error.
    Unreachable,
}

/// Something that happens before a case's frame.
#[derive(Debug)]
pub enum Event {
    /// A frame passes.
    Pass {
        /// Where it enters or leaves.
        way: CaseWay,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Every flow is cut.
    Cut,
    /// The flow of a frame that enters is kept, though the policy denies it.
    Keep {
        /// Where it enters.
        way: CaseWay,
        /// The frame.
        frame: Vec<u8>,
    },
}

/// Where a frame enters or leaves the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseWay {
    /// It enters a NIC.
    Enters(TestNic),
    /// It leaves by a NIC.
    Leaves {
        /// The NIC.
        nic: TestNic,
        /// Where it comes from.
        from: Ingress,
        /// The packets that the hardware makes of it.
        segments: u32,
    },
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
    #[serde(default)]
    closed: BTreeSet<IpAddr>,
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
    #[serde(default)]
    elsewhere: Vec<IpNet>,
    #[serde(default)]
    side: SideEntry,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SideEntry {
    #[default]
    Inside,
    Outside,
}

/// Where a frame that leaves comes from.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OriginEntry {
    Gateway,
    Inside,
    Outside,
    Foreign,
}

/// A frame that enters or leaves.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventEntry {
    #[serde(default)]
    nic: u8,
    leaves: Option<OriginEntry>,
    segments: Option<u32>,
    frame: Option<String>,
    #[serde(default, rename = "do")]
    what: What,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    #[default]
    Pass,
    Cut,
    Keep,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseEntry {
    name: String,
    policy: Option<String>,
    #[serde(default)]
    before: Vec<EventEntry>,
    #[serde(default)]
    nic: u8,
    /// Where a frame comes from that leaves by the NIC; else it enters.
    leaves: Option<OriginEntry>,
    segments: Option<u32>,
    frame: String,
    verdict: CaseVerdict,
    reason: String,
    #[serde(default)]
    rules: BTreeSet<String>,
    answer: Option<CaseAnswer>,
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
        // The gateways come first, as cases are read knowing them.
        paths.sort_by_key(|path| {
            let gateways = path.file_stem().is_some_and(|stem| stem == "policies");
            (if gateways { 0 } else { 1 }, path.clone())
        });
        let mut table = Self { policies: BTreeMap::new(), cases: Vec::new() };
        let mut titles = BTreeSet::new();
        for path in paths {
            table.add(&path, &mut titles).with_context(|| path.display().to_string())?;
        }
        Ok(table)
    }

    /// The NICs that frames enter and leave.
    #[must_use]
    pub fn nics(&self) -> BTreeSet<TestNic> {
        let before =
            self.cases.iter().flat_map(|case| &case.before).filter_map(|event| match event {
                Event::Pass { way, .. } | Event::Keep { way, .. } => Some(way.nic()),
                Event::Cut => None,
            });
        self.cases.iter().map(|case| case.way.nic()).chain(before).collect()
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
            let policy = policy.with_context(|| format!("`{title}` names no policy"))?;
            let setting = self.policies.get(&policy).with_context(|| {
                format!("`{title}` names the policy `{policy}`, which no file before it has")
            })?;
            let way = |nic, leaves, segments| {
                setting.way(nic, leaves, segments).with_context(|| title.clone())
            };
            let mut before = Vec::new();
            for event in entry.before {
                let way = way(event.nic, event.leaves, event.segments)?;
                let described = |description: Option<String>| {
                    let description = description.context("what comes before it has no frame");
                    description.and_then(|text| frame(&text)).with_context(|| title.clone())
                };
                before.push(match event.what {
                    What::Pass => Event::Pass { way, frame: described(event.frame)? },
                    What::Cut => Event::Cut,
                    What::Keep => Event::Keep { way, frame: described(event.frame)? },
                });
            }
            self.cases.push(Case {
                before,
                way: way(entry.nic, entry.leaves, entry.segments)?,
                policy,
                frame: frame(&entry.frame).with_context(|| title.clone())?,
                verdict: entry.verdict,
                reason: entry.reason,
                rules: entry.rules,
                answer: entry.answer,
                title,
            });
        }
        Ok(())
    }
}

// === impl Setting ===

impl Setting {
    fn way(&self, nic: u8, leaves: Option<OriginEntry>, segments: Option<u32>) -> Result<CaseWay> {
        // A NIC that the gateway doesn't have is one of those that nothing is known of.
        let known = self.host.nics.iter().find(|known| known.slot == nic);
        let nic = (nic, known.map_or(Side::Inside, |known| known.side));
        let Some(leaves) = leaves else { return Ok(CaseWay::Enters(nic)) };
        let from = match leaves {
            OriginEntry::Gateway => Ingress::Own,
            OriginEntry::Inside => Ingress::Inside,
            OriginEntry::Outside => Ingress::Outside,
            OriginEntry::Foreign => Ingress::Foreign,
        };
        Ok(CaseWay::Leaves { nic, from, segments: segments.unwrap_or(1) })
    }
}

// === impl CaseAnswer ===

impl CaseAnswer {
    /// As the filter knows it.
    #[must_use]
    pub fn wire(self) -> Answer {
        match self {
            Self::None => Answer::None,
            Self::Reset => Answer::Reset,
            Self::Unreachable => Answer::Unreachable,
        }
    }
}

// === impl CaseWay ===

impl CaseWay {
    /// The NIC.
    #[must_use]
    pub fn nic(self) -> TestNic {
        match self {
            Self::Enters(nic) | Self::Leaves { nic, .. } => nic,
        }
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
                side: match nic.side {
                    SideEntry::Inside => Side::Inside,
                    SideEntry::Outside => Side::Outside,
                },
                plausible: nic.plausible,
                elsewhere: nic.elsewhere,
            });
        }
        let host = Host { nics, own: self.own, closed: self.closed };
        let mut addresses = BTreeMap::new();
        for (name, of_name) in self.names {
            addresses.insert(Fqdn::try_from(name.as_str())?, of_name);
        }
        Ok(Setting { policy: loaded.policy, names: Snapshot { addresses }, host })
    }
}
