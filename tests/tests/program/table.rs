// SPDX-License-Identifier: MIT OR Apache-2.0
//! The case table: `tests/cases/*.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use filter_user::{
    compile::{Host, HostNic},
    names::Snapshot,
    policy::{Fqdn, NicName, Policy, load},
};
use ipnet::IpNet;
use serde::Deserialize;
use sluice_lab::frames::frame;

/// All files together.
pub(crate) struct Table {
    pub(crate) policies: BTreeMap<String, Setting>,
    pub(crate) cases: Vec<Case>,
}

/// A gateway that cases run against.
pub(crate) struct Setting {
    pub(crate) policy: Policy,
    pub(crate) names: Snapshot,
    pub(crate) host: Host,
}

/// A frame, and what becomes of it.
pub(crate) struct Case {
    /// File and name.
    pub(crate) title: String,
    pub(crate) policy: String,
    pub(crate) nic: u8,
    pub(crate) frame: Vec<u8>,
    pub(crate) verdict: CaseVerdict,
    /// The name of the pass or drop reason.
    pub(crate) reason: String,
    /// The rules that allow it, if rules do.
    pub(crate) rules: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CaseVerdict {
    Pass,
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

// === impl Table ===

impl Table {
    /// Reads the files, in the order of their names.
    pub(crate) fn read() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let mut paths: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        paths.sort();
        let mut table = Self { policies: BTreeMap::new(), cases: Vec::new() };
        let mut titles = BTreeSet::new();
        for path in paths {
            let stem = path.file_stem().unwrap().to_string_lossy();
            let file: File = toml::from_str(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for (name, entry) in file.policy {
                let setting = entry.setting(&name);
                assert!(table.policies.insert(name, setting).is_none());
            }
            for entry in file.case {
                let title = format!("{stem}: {}", entry.name);
                assert!(titles.insert(title.clone()), "`{title}` stands there twice");
                let policy = entry.policy.or_else(|| file.default_policy.clone());
                table.cases.push(Case {
                    policy: policy.unwrap_or_else(|| panic!("`{title}` names no policy")),
                    nic: entry.nic,
                    frame: frame(&entry.frame).unwrap_or_else(|error| panic!("{title}: {error:#}")),
                    verdict: entry.verdict,
                    reason: entry.reason,
                    rules: entry.rules,
                    title,
                });
            }
        }
        table
    }
}

// === impl PolicyEntry ===

impl PolicyEntry {
    fn setting(self, name: &str) -> Setting {
        let files = [
            (Arc::from(load::GATEWAY_FILE), self.gateway),
            (Arc::from("policy.d/rules.toml"), self.rules),
        ];
        let loaded = load::parse(&files)
            .unwrap_or_else(|errors| panic!("the policy `{name}` has errors:\n{errors}"));
        let nics = self.nic.into_iter().map(|nic| HostNic {
            slot: nic.index,
            name: NicName::try_from(nic.name.as_str()).unwrap(),
            plausible: nic.plausible,
            elsewhere: Vec::new(),
        });
        let host = Host { nics: nics.collect(), own: self.own, ..Host::default() };
        let addresses = self
            .names
            .into_iter()
            .map(|(name, addresses)| (Fqdn::try_from(name.as_str()).unwrap(), addresses))
            .collect();
        Setting { policy: loaded.policy, names: Snapshot { addresses }, host }
    }
}
