// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a configuration directory to a [`Policy`], or to every error in it at once.
//!
//! [`load`] reads the files and is the one place here that touches the disk; [`parse`] does the
//! rest. The TOML tree is walked by hand, so that each message names the line of the very value
//! that is wrong.

mod dns;
mod reader;
mod sections;
mod services;
mod values;
mod warnings;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use self::{
    reader::{Report, TomlFile},
    sections::Collector,
};
use super::{Destination, NamePattern, Origin, Policy, Rule, TableSizes};

/// What loading gives: the policy, and what is worth saying about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Warnings, by file and line.
    pub warnings: Vec<Diagnostic>,
}

/// One finding: where, what, and how to mend it.
///
/// It displays as `policy.d/intune.toml:12: <what>; <how to mend it>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Diagnostic {
    /// What it is about.
    pub kind: Kind,
    /// Where it stands; `None` for what has no line, such as a file that can't be read.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

/// What a finding is about. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The configuration is refused for it.
    Invalid,
    /// It is accepted and not carried out.
    NotEnforced,
    /// An address with bits behind the prefix length.
    HostBits,
    /// The same thing a second time.
    Duplicate,
    /// A destination that a wider one covers, for the same clients and ports at least.
    Covered,
    /// A rule that allows just what another one does.
    SameRule,
    /// A prefix wider than any list needs.
    Wide,
    /// A wildcard over names that anybody can get.
    Broad,
    /// Addresses that aren't reachable over the internet.
    SpecialPurpose,
    /// Names without a resolver.
    Unresolvable,
    /// No way to the gateway that rules can't shut.
    Unguarded,
    /// A table that is there already has another size.
    OtherSize,
}

/// Every error of a configuration directory, by file and line; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadErrors(Vec<Diagnostic>);

/// The name of the file that holds `[gateway]`, `[dns]` and `[management]`.
pub const GATEWAY_FILE: &str = "gateway.toml";

/// The folder of further files, read in the order of their names.
pub const POLICY_FOLDER: &str = "policy.d";

/// What is said of a folder in which there is nothing to read.
pub const NO_POLICY_FILES: &str = "there are no policy files";

/// How many warnings of one kind are told one by one.
const FEW: usize = 5;

/// The largest file that is read: a thousand times what a long policy needs, and little enough
/// that a wrong path (a disk image, a device) does no harm.
pub const MAX_FILE: u64 = 16 << 20;

/// Reads `gateway.toml` and `policy.d/*.toml` of a directory.
///
/// # Errors
///
/// All errors of all files.
pub fn load(directory: &Path) -> Result<Loaded, LoadErrors> {
    load_copy(directory, directory)
}

/// As [`load`], of a copy of the files that stand in another directory: what they name by a relative
/// path is there.
///
/// # Errors
///
/// As [`load`].
pub fn load_copy(directory: &Path, original: &Path) -> Result<Loaded, LoadErrors> {
    let mut analysis = Analysis::default();
    let mut files = vec![(GATEWAY_FILE.to_owned(), directory.join(GATEWAY_FILE))];
    match policy_files(&directory.join(POLICY_FOLDER)) {
        Ok(names) => files.extend(names.into_iter().map(|name| {
            let path = directory.join(POLICY_FOLDER).join(&name);
            (format!("{POLICY_FOLDER}/{}", name.to_string_lossy()), path)
        })),
        Err(error) => analysis.broken(|report| report.unreadable(POLICY_FOLDER, &error)),
    }
    // One after the other, so that the memory for the text and the tree of one does for the next.
    for (name, path) in files {
        analysis.read(&name, &path);
    }
    let mut loaded = analysis.finish()?;
    // Past this place nobody knows where the configuration stands.
    if let Some(path) = &mut loaded.policy.dns.tls_ca {
        *path = original.join(&path);
    }
    Ok(loaded)
}

/// Reads `gateway.toml` alone, so that the gateway is known also where a file of rules is broken.
///
/// # Errors
///
/// All errors of the file.
pub fn load_gateway(directory: &Path) -> Result<Policy, LoadErrors> {
    let mut analysis = Analysis::default();
    analysis.read(GATEWAY_FILE, &directory.join(GATEWAY_FILE));
    Ok(analysis.finish()?.policy)
}

/// Reads the rules of one policy file, of a folder of such files, or of a configuration directory.
///
/// They are read as they would be for a policy, but what they name need not be there: a single
/// file of `policy.d` has rules for groups that are defined elsewhere.
///
/// # Errors
///
/// All errors of all files, and [`NO_POLICY_FILES`] for a folder without any.
pub fn load_rules(path: &Path) -> Result<Vec<Rule>, LoadErrors> {
    let mut report = Report::default();
    let mut files: Vec<(Arc<str>, PathBuf)> = Vec::new();
    if path.is_dir() {
        let gateway = path.join(GATEWAY_FILE);
        let (folder, folder_name) = match path.join(POLICY_FOLDER) {
            folder if folder.is_dir() => (folder, format!("{POLICY_FOLDER}/")),
            _ => (path.to_owned(), String::new()),
        };
        if gateway.exists() {
            files.push((Arc::from(GATEWAY_FILE), gateway));
        }
        match policy_files(&folder) {
            Ok(names) => {
                for name in names {
                    let called = format!("{folder_name}{}", name.to_string_lossy());
                    if called != GATEWAY_FILE {
                        files.push((Arc::from(called), folder.join(&name)));
                    }
                }
            }
            Err(error) => report.unreadable(&folder.to_string_lossy(), &error),
        }
        if files.is_empty() && report.errors.is_empty() {
            report.errors.push(Diagnostic {
                kind: Kind::Invalid,
                origin: None,
                message: NO_POLICY_FILES.to_owned(),
                help: "name a file, or a folder with files that end in .toml".to_owned(),
            });
        }
    } else {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        files.push((Arc::from(&*name), path.to_owned()));
    }
    let mut texts: Vec<(Arc<str>, String)> = Vec::new();
    for (name, path) in files {
        match read(&path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => texts.push((name, text)),
                Err(error) => report.not_utf8(&name, error.as_bytes(), error.utf8_error()),
            },
            Err(error) => report.unreadable(&name, &error),
        }
    }
    parse_rules(&texts, report)
}

/// Makes a policy of texts, each with the name it is known by: `gateway.toml` and
/// `policy.d/NAME.toml`, in the order in which they count.
///
/// # Errors
///
/// All errors of all texts.
pub fn parse(files: &[(Arc<str>, String)]) -> Result<Loaded, LoadErrors> {
    let mut analysis = Analysis::default();
    if !files.iter().any(|(name, _)| &**name == GATEWAY_FILE) {
        analysis.broken(Report::missing_gateway_file);
    }
    files.iter().for_each(|(name, text)| analysis.file(name, text));
    analysis.finish()
}

/// What a policy asks for that isn't enforced, and what happens instead, which is always the
/// stricter thing.
#[must_use]
pub fn not_enforced(policy: &Policy) -> Vec<Diagnostic> {
    let mut notes = Vec::new();
    // What clients ask the forwarder is where addresses of wildcards come from.
    if !policy.dns.listen.is_empty() {
        return notes;
    }
    for rule in policy.enabled_rules() {
        let mut wildcards = rule.to.iter().filter_map(|(destination, line)| match destination {
            Destination::Name(NamePattern::Wildcard(pattern)) => Some((pattern, *line)),
            _ => None,
        });
        let Some((first, line)) = wildcards.next() else { continue };
        let more = match wildcards.count() {
            0 => format!("the wildcard name {first}"),
            others => format!("{} wildcard names, from {first} on,", others + 1),
        };
        notes.push(Diagnostic {
            kind: Kind::NotEnforced,
            origin: Some(rule.at_line(line)),
            message: format!(
                "rule \"{}\": {more} can't be enforced without a forwarder",
                rule.name
            ),
            help: "set [dns] listen to an address that clients ask: until then no address is \
                   learned for wildcards, and they allow nothing"
                .to_owned(),
        });
    }
    notes.sort_by(|a, b| a.origin.cmp(&b.origin));
    notes
}

/// A duration as the configuration has it: `90s`, `10m`, `1h` or `7d`, of any length.
#[must_use]
pub fn duration_of(text: &str) -> Option<std::time::Duration> {
    values::any_duration(text)
}

/// Warnings as lines for people: of many of one kind the first few, and how many more there are.
#[must_use]
pub fn summed_up(warnings: &[Diagnostic]) -> Vec<String> {
    let mut of_kind: BTreeMap<Kind, usize> = BTreeMap::new();
    for warning in warnings {
        *of_kind.entry(warning.kind).or_insert(0) += 1;
    }
    let mut shown: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for warning in warnings {
        let shown = shown.entry(warning.kind).or_insert(0);
        // To say that there is one more takes as long as that one.
        if *shown < FEW || of_kind.get(&warning.kind) == Some(&(FEW + 1)) {
            *shown += 1;
            lines.push(warning.to_string());
        }
    }
    for (kind, count) in of_kind {
        let more = count - shown.get(&kind).copied().unwrap_or_default();
        if more > 0 {
            let what = kind.about();
            lines.push(format!("and {more} more {what}; `sluice check --json` lists them"));
        }
    }
    lines
}

// === impl Loaded ===

impl Loaded {
    /// Goes on with tables that are there already, and warns where they have another size than the
    /// configuration asks for.
    pub fn take_sizes(&mut self, sizes: TableSizes) {
        let gateway = &mut self.policy.gateway;
        let wanted = std::mem::replace(&mut gateway.sizes, sizes);
        for (key, wanted, there) in [
            ("max_flows", wanted.flows, sizes.flows),
            ("max_grant_cells", wanted.grant_cells, sizes.grant_cells),
        ] {
            if wanted != there {
                self.warnings.push(Diagnostic {
                    kind: Kind::OtherSize,
                    origin: Some(gateway.origin.clone()),
                    message: format!("[gateway]: {key} = {wanted}: the table was made for {there}"),
                    help: "`sluice detach` and a new start make it anew, with a gap".to_owned(),
                });
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    /// What several of them are.
    fn about(self) -> &'static str {
        match self {
            Self::Invalid => "errors",
            Self::NotEnforced => "settings that aren't enforced",
            Self::HostBits => "prefixes with bits behind their length",
            Self::Duplicate => "duplicates",
            Self::Covered => "names and prefixes that others cover",
            Self::SameRule => "rules that allow just what another one does",
            Self::Wide => "prefixes that are very wide",
            Self::Broad => "wildcards over names that anybody can get",
            Self::SpecialPurpose => "special-purpose prefixes",
            Self::Unresolvable => "rules with names that can't be resolved",
            Self::Unguarded => "gateways without a management guard",
            Self::OtherSize => "tables of another size",
        }
    }
}

// === impl Diagnostic ===

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}; {}", self.message, self.help)
    }
}

// === impl LoadErrors ===

impl LoadErrors {
    /// The errors, by file and line; never empty.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0
    }
}

impl fmt::Display for LoadErrors {
    /// One line for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

// === helpers ===

/// What was found in the files so far.
#[derive(Default)]
struct Analysis {
    collector: Collector,
    report: Report,
}

impl Analysis {
    /// Reads one file.
    fn file(&mut self, name: &Arc<str>, text: &str) {
        let text = TomlFile::new(Arc::clone(name), text);
        match text.table(&mut self.report) {
            Some(table) => self.collector.file(&text, &table, &mut self.report),
            None => self.collector.file_is_broken(),
        }
    }

    /// Reads one file from the disk.
    fn read(&mut self, name: &str, path: &Path) {
        match read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => self.file(&Arc::from(name), &text),
                Err(error) => self.broken(|report| {
                    report.not_utf8(name, error.as_bytes(), error.utf8_error());
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && name == GATEWAY_FILE => {
                self.broken(Report::missing_gateway_file);
            }
            Err(error) => self.broken(|report| report.unreadable(name, &error)),
        }
    }

    /// Notes why a file can't be read.
    fn broken(&mut self, why: impl FnOnce(&mut Report)) {
        why(&mut self.report);
        self.collector.file_is_broken();
    }

    fn finish(self) -> Result<Loaded, LoadErrors> {
        let Self { collector, mut report } = self;
        let policy = collector.finish(&mut report);
        if let Some(policy) = &policy {
            warnings::check(policy, &mut report);
        }
        let Report { mut errors, mut warnings } = report;
        // What stands on one line stays in the order in which it was found.
        errors.sort_by(|a, b| a.origin.cmp(&b.origin));
        errors.dedup();
        warnings.sort_by(|a, b| a.origin.cmp(&b.origin));
        match policy {
            Some(policy) if errors.is_empty() => Ok(Loaded { policy, warnings }),
            _ => Err(LoadErrors(errors)),
        }
    }
}

fn parse_rules(files: &[(Arc<str>, String)], mut report: Report) -> Result<Vec<Rule>, LoadErrors> {
    let texts: Vec<TomlFile<'_>> =
        files.iter().map(|(name, text)| TomlFile::new(Arc::clone(name), text)).collect();
    let mut collector = Collector::default();
    for text in &texts {
        if let Some(table) = text.table(&mut report) {
            collector.file(text, &table, &mut report);
        }
    }
    let mut errors = report.errors;
    errors.sort_by(|a, b| a.origin.cmp(&b.origin));
    errors.dedup();
    if errors.is_empty() { Ok(collector.into_rules()) } else { Err(LoadErrors(errors)) }
}

/// The names of the policy files of a folder, sorted; none where there is no such folder.
pub(crate) fn policy_files(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        // What editors leave behind begins with a dot.
        if bytes.ends_with(b".toml") && !bytes.starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A named pipe would block for ever, and a directory gives an odd message.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;
    use crate::policy::{
        Clients, Interception, Mode, OnChange, OnStop, OutsidePolicy, RuleState, SpecialPurpose,
        XdpMode,
    };

    const UNGUARDED: &str = "[gateway]\ninside = [\"eth1\"]\noutside = []\n";
    const MINIMAL: &str = "[gateway]\ninside = [\"eth1\"]\noutside = []\n\
                           [management]\nfrom = [\"10.0.10.0/28\"]\ntcp = [22]\n";

    fn parsed(gateway: &str, rules: &str) -> Loaded {
        let files = [
            (Arc::from(GATEWAY_FILE), gateway.to_owned()),
            (Arc::from("policy.d/a.toml"), rules.to_owned()),
        ];
        parse(&files).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn lines(diagnostics: &[Diagnostic]) -> Vec<String> {
        diagnostics.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_has_a_safe_default() {
        let Loaded { policy, warnings } = parsed(UNGUARDED, "");
        assert_eq!(
            lines(&warnings),
            ["gateway.toml:1: nothing keeps the way to the gateway open for its administrators: \
              there is no [management]; add it with from = [\"192.0.2.0/28\"] and tcp = [22], or \
              a wrong rule can shut you out"]
        );
        assert_eq!(policy.gateway.xdp_mode, XdpMode::Auto);
        assert_eq!(policy.gateway.mode, Mode::Enforce);
        assert_eq!(policy.gateway.deny, super::super::DenyAction::Reject);
        assert_eq!(policy.gateway.on_change, OnChange::Cut);
        assert_eq!(policy.gateway.on_stop, OnStop::Keep);
        assert_eq!(policy.gateway.origin.to_string(), "gateway.toml:1");
        assert!(policy.dns.upstream.is_empty());
        assert_eq!(policy.dns.min_ttl, Duration::from_secs(60));
        assert_eq!(policy.dns.grace, Duration::from_secs(600));
        assert_eq!(policy.dns.max_addresses_per_name, 128);
        assert_eq!(policy.management, crate::policy::Management::default());
        assert_eq!(not_enforced(&policy), []);
    }

    #[test]
    fn everything_can_be_said() {
        let gateway = r#"
[gateway]
inside   = ["eth1", "eth2"]
outside  = ["eth0"]
xdp_mode = "generic"
mode     = "audit"
deny     = "drop"
on_change = "keep"
on_stop = "detach"

[dns]
upstream = ["tls://192.0.2.53:853", "tls://192.0.2.54:8853#DNS.example.net", "tls://[2001:db8::53]"]
tls_ca   = "ca.pem"
listen   = ["10.0.10.1"]
intercept = true
outside_policy = "answer"
min_ttl  = "5m"
max_ttl  = "2h"
grace    = "1d"
max_addresses_per_name = 4096
max_names_per_rule = 1000000
max_addresses = 200000
learn_within = "100ms"
client_rate = 1000
max_questions = 65536

[management]
interface = ["eth1", "eth0"]
from = ["10.0.10.0/28", "2001:db8:9::/48"]
tcp  = [22]
udp  = ["60000-61000"]

[[source]]
name = "managed"
cidr = "10.0.10.0/24"
interface = ["eth1", "eth2"]
vlan = [10, 20]
"#;
        let rules = r#"
# A comment.
[[rule]]
name  = "intune-163"
from  = ["managed"]
to    = [
    "*.manage.microsoft.com",
    "manage.microsoft.com",
    "104.46.162.96/27",
    "2620:1ec:40::/48",
    "self",
]
tcp   = [80, "443"]
udp   = ["3478-3481"]
icmp  = true
proto = ["esp", "gre", 94]
note  = "Intune client and host service"
private = true

[[rule]]
name    = "off"
enabled = false
to      = ["*.azureedge.net"]

[[inbound]]
name = "ssh-admin"
from = ["198.51.100.0/24"]
to   = ["self", "203.0.113.7"]
host = "10.0.10.5"
tcp  = "any"
note = "for the admins"
"#;
        let Loaded { policy, warnings } = parsed(gateway, rules);
        assert_eq!(lines(&warnings), [""; 0]);
        assert_eq!(policy.gateway.inside.len(), 2);
        assert_eq!(policy.gateway.mode, Mode::Audit);
        assert_eq!(policy.gateway.on_stop, OnStop::Detach);
        assert_eq!(policy.dns.grace, Duration::from_secs(86_400));
        assert_eq!(policy.dns.min_ttl, Duration::from_secs(300));
        assert_eq!(policy.management.udp.to_string(), "60000-61000");
        assert_eq!(
            policy.management.nics,
            [policy.gateway.inside[0].clone(), policy.gateway.outside[0].clone()]
        );
        let source = &policy.sources[0];
        assert_eq!(source.cidr[0].to_string(), "10.0.10.0/24");
        assert_eq!((source.interface.len(), source.vlan.len()), (2, 2));
        let rule = &policy.rules[0];
        assert_eq!(rule.origin.to_string(), "policy.d/a.toml:3");
        assert!(matches!(&rule.from, Clients::Groups(groups) if groups.len() == 1));
        let to: Vec<String> = rule.to.iter().map(|(to, line)| format!("{line} {to}")).collect();
        assert_eq!(
            to,
            [
                "7 *.manage.microsoft.com",
                "8 manage.microsoft.com",
                "9 104.46.162.96/27",
                "10 2620:1ec:40::/48",
                "11 self"
            ]
        );
        assert_eq!(rule.ports.tcp.to_string(), "80,443");
        assert_eq!(rule.ports.protocols.len(), 3);
        assert_eq!(rule.private, SpecialPurpose::Allowed);
        assert_eq!(policy.rules[1].state, RuleState::Disabled);
        assert_eq!(policy.inbound[0].to.len(), 2);
        assert_eq!(policy.inbound[0].ports.tcp.to_string(), "any");
        let dns = &policy.dns;
        let upstream: Vec<String> = dns.upstream.iter().map(ToString::to_string).collect();
        assert_eq!(
            upstream,
            ["tls://192.0.2.53", "tls://192.0.2.54:8853#dns.example.net", "tls://[2001:db8::53]"]
        );
        assert_eq!(dns.tls_ca.as_deref(), Some(Path::new("ca.pem")));
        assert_eq!(dns.listen, ["10.0.10.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(dns.intercept, Interception::On);
        assert_eq!(dns.outside_policy, OutsidePolicy::Answer);
        assert_eq!(dns.max_ttl, Duration::from_secs(7200));
        assert_eq!(dns.max_addresses_per_name, 4096);
        assert_eq!((dns.max_names_per_rule, dns.max_addresses), (1_000_000, 200_000));
        assert_eq!(dns.learn_within, Duration::from_millis(100));
        assert_eq!((dns.client_rate, dns.max_questions), (1000, 65_536));
        assert_eq!(lines(&not_enforced(&policy)), [""; 0]);
    }

    #[test]
    fn several_wildcards_are_one_note() {
        let rules = "[[rule]]\nname = \"a\"\nto = [\"*.a.example.com\", \"*.b.example.com\"]\n\
                     tcp = [443]\n";
        assert_eq!(
            lines(&not_enforced(&parsed(MINIMAL, rules).policy)),
            ["policy.d/a.toml:3: rule \"a\": 2 wildcard names, from *.a.example.com on, can't be \
              enforced without a forwarder; set [dns] listen to an address that clients ask: until \
              then no address is learned for wildcards, and they allow nothing"]
        );
    }

    #[test]
    fn what_is_worth_a_second_look() {
        // `to` of a rule, then the warnings about it.
        let cases: &[(&[&str], &[&str])] = &[
            (&["13.107.219.0/24", "2620:1ec:40::/48", "self"], &[]),
            (
                &["www.example.com", "WWW.example.com."],
                &["policy.d/a.toml:5: rule \"a\": to has \"WWW.example.com.\": a duplicate of \
                   policy.d/a.toml:4; remove one of the two"],
            ),
            (
                &["13.107.219.9/24"],
                &["policy.d/a.toml:4: rule \"a\": to has \"13.107.219.9/24\": there are bits \
                   behind the prefix length; write 13.107.219.0/24, which is what it is taken \
                   for, or the single address"],
            ),
            (
                &["13.107.219.9", "13.107.219.0/24", "13.107.0.0/16"],
                &[
                    "policy.d/a.toml:4: rule \"a\": 13.107.219.9/32 is covered by 13.107.0.0/16 \
                     (policy.d/a.toml:6); remove the narrower one",
                    "policy.d/a.toml:5: rule \"a\": 13.107.219.0/24 is covered by 13.107.0.0/16 \
                     (policy.d/a.toml:6); remove the narrower one",
                ],
            ),
            (
                &["*.example.com", "www.example.com", "*.eu.example.com", "example.com"],
                &[
                    "policy.d/a.toml:5: rule \"a\": www.example.com is covered by *.example.com \
                     (policy.d/a.toml:4); remove it, unless it has to work before a client asks \
                     for it",
                    "policy.d/a.toml:6: rule \"a\": *.eu.example.com is covered by *.example.com \
                     (policy.d/a.toml:4); remove the narrower one",
                ],
            ),
            (
                &["16.0.0.0/7", "2400::/12"],
                &[
                    "policy.d/a.toml:4: rule \"a\": 16.0.0.0/7 is wider than a /8; write the \
                     prefixes that are meant",
                    "policy.d/a.toml:5: rule \"a\": 2400::/12 is wider than a /16; write the \
                     prefixes that are meant",
                ],
            ),
            (
                &["10.1.0.0/16"],
                &["policy.d/a.toml:4: rule \"a\": 10.1.0.0/16 is a special-purpose range \
                   (private use); it isn't reachable over the internet: keep it only if it is a \
                   network of your own"],
            ),
            (
                &["payloadprod*.blob.core.windows.net"],
                &["policy.d/a.toml:4: rule \"a\": to has \"payloadprod*.blob.core.windows.net\": \
                   anybody can get a name below \"blob.core.windows.net\" that this covers; write \
                   the exact names if they are known, or add broad = true to the rule"],
            ),
        ];
        let gateway = format!("{MINIMAL}[dns]\nupstream = [\"192.0.2.53\"]\n");
        for (to, expected) in cases {
            let to: String = to.iter().map(|to| format!("  {to:?},\n")).collect();
            let rules = format!("[[rule]]\nname = \"a\"\nto = [\n{to}]\ntcp = [443]\n");
            assert_eq!(lines(&parsed(&gateway, &rules).warnings), *expected, "{to}");
            let disabled = format!("{rules}enabled = false\n");
            let found = parsed(&gateway, &disabled).warnings.len();
            assert!(found <= expected.len(), "a disabled rule: {to}");
        }
    }

    #[test]
    fn names_without_a_resolver() {
        let rules = "[[rule]]\nname = \"a\"\nto = [\"a.example.com\", \"b.example.com\"]\n\
                     tcp = [443]\n";
        assert_eq!(
            lines(&parsed(MINIMAL, rules).warnings),
            ["policy.d/a.toml:3: rule \"a\": 2 names, from a.example.com on, can never be \
              resolved; add [dns] upstream with the address of a resolver"]
        );
    }

    #[test]
    fn resolvers_and_interception() {
        // `[gateway] ignore`, `[dns]`, then the warnings about them.
        let cases: &[(&str, &str, &[&str])] = &[
            ("[]", "upstream = [\"tls://192.0.2.53\"]\ntls_ca = \"/etc/ca.pem\"", &[]),
            (
                "[]",
                "upstream = [\"192.0.2.53\"]\ntls_ca = \"ca.pem\"",
                &["gateway.toml:11: [dns]: tls_ca = \"ca.pem\": no resolver is asked over TLS; \
                   write \"tls://\" in front of the addresses in upstream, or remove the key"],
            ),
            (
                "[]",
                "upstream = [\"192.0.2.53\", \"192.0.2.53:53\"]",
                &["gateway.toml:10: [dns]: upstream has \"192.0.2.53:53\": the address stands \
                   here twice; remove one"],
            ),
            ("[]", "upstream = [\"192.0.2.53\"]\nlisten = [\"10.0.10.1\"]\nintercept = true", &[]),
            (
                "[\"eth2\", \"wg0\"]",
                "upstream = [\"192.0.2.53\"]\nlisten = [\"10.0.10.1\"]\nintercept = true",
                &["gateway.toml:12: [dns]: intercept = true: questions that leave through an \
                   ignored NIC (eth2, wg0) aren't held back when the redirection is gone; filter \
                   these NICs, as outside ones, if clients' packets are forwarded to them"],
            ),
        ];
        for (ignore, dns, expected) in cases {
            let gateway = MINIMAL
                .replace("outside = []", &format!("outside = [\"eth0\"]\nignore = {ignore}"));
            let gateway = format!("\n{gateway}[dns]\n{dns}\n");
            assert_eq!(lines(&parsed(&gateway, "").warnings), *expected, "{dns}");
        }
    }

    #[test]
    fn the_certificates_are_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        for (written, expected) in
            [("ca.pem", folder.path().join("ca.pem")), ("/etc/ca.pem", "/etc/ca.pem".into())]
        {
            let dns = format!("[dns]\nupstream = [\"tls://192.0.2.53\"]\ntls_ca = {written:?}\n");
            fs::write(folder.path().join(GATEWAY_FILE), format!("{MINIMAL}{dns}")).unwrap();
            let loaded = load(folder.path()).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(loaded.policy.dns.tls_ca, Some(expected));
        }
    }

    #[test]
    fn rules_alone() {
        let rules =
            "[[rule]]\nname = \"a\"\nfrom = [\"elsewhere\"]\nto = [\"192.0.2.1\"]\ntcp = [443]\n";
        let read =
            |text: &str| parse_rules(&[(Arc::from("a.toml"), text.to_owned())], Report::default());
        assert_eq!(read(rules).unwrap().len(), 1);
        let errors = read(&rules.replace("443", "0")).unwrap_err();
        assert_eq!(
            lines(errors.diagnostics()),
            ["a.toml:5: rule \"a\": tcp has 0: not a port; a port is a number from 1 to 65535, a \
              range such as \"3478-3481\", or \"any\""]
        );
        let folder = tempfile::tempdir().unwrap();
        let errors = load_rules(folder.path()).unwrap_err();
        assert!(errors.to_string().starts_with(NO_POLICY_FILES), "{errors}");
        fs::write(folder.path().join("a.toml"), rules).unwrap();
        assert_eq!(load_rules(folder.path()).unwrap().len(), 1);
        assert_eq!(load_rules(&folder.path().join("a.toml")).unwrap().len(), 1);
    }

    #[test]
    fn text_of_other_systems() {
        let crlf = MINIMAL.replace('\n', "\r\n");
        let with_mark = format!("\u{feff}{MINIMAL}");
        for gateway in [crlf, with_mark] {
            assert_eq!(parsed(&gateway, "").policy.gateway.origin.line, 1);
        }
    }

    #[test]
    fn sections_may_stand_in_any_file_and_order() {
        let files = [
            (
                Arc::from("policy.d/a.toml"),
                "[[rule]]\nname = \"a\"\nfrom = [\"lan\"]\nto = [\"self\"]\nicmp = true\n".into(),
            ),
            (
                Arc::from("policy.d/b.toml"),
                "[[source]]\nname = \"lan\"\ninterface = \"eth1\"\n".into(),
            ),
            (Arc::from(GATEWAY_FILE), MINIMAL.to_owned()),
        ];
        let policy = parse(&files).unwrap_or_else(|errors| panic!("{errors}")).policy;
        assert_eq!((policy.rules.len(), policy.sources.len()), (1, 1));
    }
}
