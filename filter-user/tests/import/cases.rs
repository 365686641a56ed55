// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small inputs, one trap each, with the exact sets and left-out tokens.
//!
//! Each file of `tests/cases/import` is one case; the README there says what may stand in it. All
//! cases are run, and all differences are printed together. `SLUICE_CASE=text` runs only those
//! whose name contains the text.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};

use serde::Deserialize;
use toml::Value;

use crate::binary::{Grants, Json, Run, Set, Workshop, policy_grants};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/import");

/// Fewer than this, and somebody has lost files.
const AT_LEAST: usize = 60;

/// A file of the directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is special about it, and why the result is the right one.
    why: String,
    page: Option<String>,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    encoding: Encoding,
    /// Every line ends in CR and LF.
    #[serde(default)]
    crlf: bool,
    #[serde(default)]
    input: Vec<Input>,
    #[serde(default)]
    args: Vec<String>,
    /// Each set has to be there with exactly these endpoints and ports, and no other set.
    #[serde(default)]
    set: Vec<Expected>,
    /// "LINE TOKEN WHY", all there are.
    left_out: Option<Vec<String>>,
    /// "LINE PART": a warning about the line with this in it; others may be there too.
    #[serde(default)]
    warnings: Vec<String>,
    /// A part of the message; nothing is written, and the exit code is 1.
    error: Option<String>,
    /// The sets are those of another case, whatever their sections, groups, lines and texts.
    same_grants_as: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Encoding {
    #[default]
    Utf8,
    Utf8Bom,
    Utf16leBom,
    Utf16beBom,
    Utf16le,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    page: String,
}

/// A set; what may be left unsaid is an `Option`, and `"null"` says that there is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    id: Option<u32>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(default)]
    tcp: Vec<String>,
    #[serde(default)]
    udp: Vec<String>,
    ports_from: String,
    #[serde(default = "yes")]
    enabled: bool,
    section: Option<String>,
    description: Option<String>,
    category: Option<String>,
    required: Option<Value>,
    express_route: Option<Value>,
    group: Option<String>,
    lines: Option<Vec<u32>>,
    /// Parts of its notes.
    #[serde(default)]
    notes: Vec<String>,
}

#[test]
fn every_case_gives_exactly_its_sets() {
    judge("as expected", sets);
}

#[test]
fn every_case_gives_a_policy_that_can_be_loaded() {
    judge("with a policy that says the same", |_, case, _| policy(case));
}

/// Runs a check on every case, and prints what is wrong with all of them.
fn judge(good: &str, check: impl Fn(&str, &Case, &BTreeMap<String, Case>) -> Vec<String>) {
    let all = read();
    let wanted = env::var("SLUICE_CASE").unwrap_or_default();
    let chosen: Vec<_> = all.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    let mut wrong = Vec::new();
    for (name, case) in &chosen {
        let faults = check(name, case, &all);
        if !faults.is_empty() {
            wrong.push(format!("{name}: {}\n    {}", case.why.trim(), faults.join("\n    ")));
        }
    }
    println!("{} cases: {} {good}", chosen.len(), chosen.len() - wrong.len());
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), chosen.len(), wrong.join("\n\n"));
    assert!(!wanted.is_empty() || all.len() >= AT_LEAST, "only {} cases", all.len());
}

fn read() -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(CASES).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        cases.insert(name, parse(&path));
    }
    cases
}

fn parse(path: &Path) -> Case {
    let case: Case = toml::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let inputs = usize::from(case.page.is_some()) + usize::from(case.bytes.is_some());
    assert!(
        inputs + usize::from(!case.input.is_empty()) == 1,
        "{}: one of page, bytes and input",
        path.display()
    );
    let results = [case.error.is_some(), case.same_grants_as.is_some(), !case.set.is_empty()];
    assert!(
        results.iter().filter(|result| **result).count() == 1,
        "{}: one of error, same_grants_as and set",
        path.display()
    );
    case
}

fn sets(name: &str, case: &Case, all: &BTreeMap<String, Case>) -> Vec<String> {
    let workshop = case.workshop();
    let json = match (workshop.json(&case.args), &case.error) {
        (Ok(json), None) => json,
        (Ok(json), Some(_)) => {
            let mut faults = vec!["no error, but these sets:".to_owned()];
            faults.extend(json.endpoint_sets.iter().map(|set| format!("+ {}", found(set, None))));
            return faults;
        }
        (Err(run), Some(error)) => return run.error_faults(error),
        (Err(run), None) => return vec![run.describe()],
    };
    let mut faults = match &case.same_grants_as {
        Some(other) => {
            let Some(other) = all.get(other) else {
                return vec![format!("{name}: there is no case {other}")];
            };
            let expected: Vec<Expected> = other.set.iter().map(Expected::facts).collect();
            set_faults(&expected, &json.endpoint_sets)
        }
        None => set_faults(&case.set, &json.endpoint_sets),
    };
    if let Some(left_out) = &case.left_out {
        let found = json
            .left_out
            .iter()
            .map(|token| format!("{} {} {}", token.line, token.token, token.why))
            .collect();
        faults.extend(differences("left out", left_out.clone(), found));
    }
    for warning in &case.warnings {
        let (line, part) = warning.split_once(' ').unwrap();
        let line: u32 = line.parse().unwrap();
        if !json.warnings.iter().any(|warning| {
            warning.line == line && warning.text.to_lowercase().contains(&part.to_lowercase())
        }) {
            faults.push(format!("- warning: {warning}"));
            faults.extend(
                json.warnings
                    .iter()
                    .filter(|warning| warning.line == line)
                    .map(|warning| format!("  there is: {} {}", warning.line, warning.text)),
            );
        }
    }
    faults
}

fn set_faults(expected: &[Expected], sets: &[Set]) -> Vec<String> {
    let mut rest: Vec<&Set> = sets.iter().collect();
    let mut faults = Vec::new();
    let mut missing = Vec::new();
    for one in expected {
        match rest.iter().position(|set| one.is(set)) {
            Some(index) => drop(rest.remove(index)),
            None => missing.push(one),
        }
    }
    for one in missing {
        faults.push(format!("- {}", one.text()));
        // The most similar one that nobody expects stands beside it.
        let similar = rest
            .iter()
            .enumerate()
            .max_by_key(|(index, set)| (one.likeness(set), usize::MAX - index))
            .map(|(index, _)| index);
        if let Some(index) = similar.filter(|index| one.likeness(rest[*index]) > 0) {
            faults.push(format!("+ {}", found(rest.remove(index), Some(one))));
        }
    }
    faults.extend(rest.iter().map(|set| format!("+ {}", found(set, None))));
    faults
}

fn differences(what: &str, mut expected: Vec<String>, mut found: Vec<String>) -> Vec<String> {
    expected.retain(|one| match found.iter().position(|other| other == one) {
        Some(index) => {
            found.remove(index);
            false
        }
        None => true,
    });
    let expected = expected.iter().map(|one| format!("- {what}: {one}"));
    expected.chain(found.iter().map(|one| format!("+ {what}: {one}"))).collect()
}

fn policy(case: &Case) -> Vec<String> {
    let workshop = case.workshop();
    if case.error.is_some() {
        const BEFORE: &str = "# before\n";
        fs::write(workshop.policy_path(), BEFORE).unwrap();
        let _ = workshop.policy(&case.args);
        let mut faults = Vec::new();
        if fs::read_to_string(workshop.policy_path()).unwrap() != BEFORE {
            faults.push("the existing file was written over".to_owned());
        }
        if workshop.policy_files() != ["imported.toml"] {
            faults.push(format!("left behind: {}", workshop.policy_files().join(", ")));
        }
        return faults;
    }
    let (json, text) = match (workshop.json(&case.args), workshop.policy(&case.args)) {
        (Ok(json), Ok(text)) => (json, text),
        (Err(run), _) | (_, Err(run)) => return vec![run.describe()],
    };
    let mut faults = Vec::new();
    let check = workshop.check();
    if check.code != Some(0) {
        faults.push(format!("sluice check: {}", check.describe()));
    }
    match workshop.policy(&case.args) {
        Ok(again) if again == text => {}
        _ => faults.push("the second time the policy is another".to_owned()),
    }
    faults.extend(disagreements(&json, &text));
    faults
}

/// What the policy grants is what the sets grant, but for names that cover a public suffix.
fn disagreements(json: &Json, text: &str) -> Vec<String> {
    let (granted, disabled) = policy_grants(text);
    let expected = json.grants();
    let name = |((endpoint, protocol), ports): (&(String, &str), &BTreeSet<u16>)| {
        let first: Vec<String> = ports.iter().take(4).map(u16::to_string).collect();
        format!("{endpoint} {protocol} {}", first.join(" "))
    };
    let missing: Grants = expected
        .iter()
        .filter(|(key, ports)| granted.get(*key) != Some(ports) && !disabled.contains(&key.0))
        .map(|(key, ports)| (key.clone(), ports.clone()))
        .collect();
    let more: Grants = granted
        .iter()
        .filter(|(key, ports)| expected.get(*key).is_none_or(|all| !ports.is_subset(all)))
        .map(|(key, ports)| (key.clone(), ports.clone()))
        .collect();
    let missing =
        missing.iter().map(|one| format!("enabled, and not in the policy: {}", name(one)));
    let more = more.iter().map(|one| format!("in the policy, and in no set: {}", name(one)));
    missing.chain(more).collect()
}

/// A found set in one line, with what the expected one speaks of.
fn found(set: &Set, expected: Option<&Expected>) -> String {
    let mut text = line(
        set.id,
        &[&set.names[..], &set.prefixes[..]].concat(),
        (&set.tcp, &set.udp),
        &set.ports_from,
        set.enabled,
    );
    let says = |stated: fn(&Expected) -> bool| expected.is_none_or(stated);
    let mut add = |what: &str, value: String| text.push_str(&format!("; {what} {value}"));
    if expected.is_none_or(|one| one.section.is_some()) {
        add("section", set.section.clone());
    }
    if expected.is_some_and(|one| one.description.is_some()) {
        add("description", set.description.clone());
    }
    if says(|one| one.category.is_some()) {
        add("category", set.category.clone().unwrap_or("null".to_owned()));
    }
    if says(|one| one.required.is_some()) {
        add("required", set.required.map_or("null".to_owned(), |value| value.to_string()));
    }
    if says(|one| one.express_route.is_some()) {
        add(
            "express_route",
            set.express_route.map_or("null".to_owned(), |value| value.to_string()),
        );
    }
    if says(|one| one.group.is_some()) {
        add("group", set.group.clone().unwrap_or("null".to_owned()));
    }
    if says(|one| one.lines.is_some()) {
        add("lines", format!("{:?}", set.lines));
    }
    if expected.is_some_and(|one| !one.notes.is_empty()) {
        add("notes", format!("{:?}", set.notes));
    }
    text
}

fn line(
    id: Option<u32>,
    endpoints: &[String],
    (tcp, udp): (&[String], &[String]),
    from: &str,
    enabled: bool,
) -> String {
    let id = id.map_or("-".to_owned(), |id| id.to_string());
    let state = if enabled { "" } else { ", disabled" };
    let mut endpoints = endpoints.to_vec();
    endpoints.sort();
    let shown = endpoints.len().min(20);
    let more = endpoints.len() - shown;
    let mut endpoints = endpoints[..shown].join(" ");
    if more > 0 {
        endpoints.push_str(&format!(" and {more} more"));
    }
    format!("{id}: {endpoints} | tcp {} udp {} [{from}{state}]", tcp.join(","), udp.join(","))
}

fn same(a: &[String], b: &[String]) -> bool {
    // Nothing twice, and the same members.
    a.len() == b.len() && a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}

fn yes() -> bool {
    true
}

/// Whether a stated value is the found one; `"null"` for none.
fn is_stated(stated: Option<&Value>, found: Option<bool>) -> bool {
    match stated {
        None => true,
        Some(Value::Boolean(value)) => found == Some(*value),
        Some(_) => found.is_none(),
    }
}

fn is_text(stated: Option<&String>, found: Option<&String>) -> bool {
    match stated.map(String::as_str) {
        None => true,
        Some("null") => found.is_none(),
        Some(text) => found.is_some_and(|found| found == text),
    }
}

// === impl Case ===

impl Case {
    fn workshop(&self) -> Workshop {
        let mut workshop = Workshop::new();
        if let Some(bytes) = &self.bytes {
            workshop.add("page", bytes);
        }
        if let Some(page) = &self.page {
            workshop.add("page", &self.encode(page));
        }
        for input in &self.input {
            workshop.add(&input.name, &self.encode(&input.page));
        }
        workshop
    }

    fn encode(&self, page: &str) -> Vec<u8> {
        let page = if self.crlf { page.replace('\n', "\r\n") } else { page.to_owned() };
        let wide = |mark: &[u16], bytes: fn(u16) -> [u8; 2]| {
            mark.iter().copied().chain(page.encode_utf16()).flat_map(bytes).collect()
        };
        match self.encoding {
            Encoding::Utf8 => page.into_bytes(),
            Encoding::Utf8Bom => format!("\u{feff}{page}").into_bytes(),
            Encoding::Utf16leBom => wide(&[0xfeff], u16::to_le_bytes),
            Encoding::Utf16beBom => wide(&[0xfeff], u16::to_be_bytes),
            Encoding::Utf16le => wide(&[], u16::to_le_bytes),
        }
    }
}

// === impl Expected ===

impl Expected {
    /// What has to be the same in every form and language.
    fn facts(&self) -> Self {
        Self {
            section: None,
            description: None,
            group: None,
            lines: None,
            notes: Vec::new(),
            ..self.clone()
        }
    }

    fn is(&self, set: &Set) -> bool {
        self.id == set.id
            && same(&self.names, &set.names)
            && same(&self.prefixes, &set.prefixes)
            && same(&self.tcp, &set.tcp)
            && same(&self.udp, &set.udp)
            && self.ports_from == set.ports_from
            && self.enabled == set.enabled
            && is_text(self.section.as_ref(), Some(&set.section))
            && is_text(self.description.as_ref(), Some(&set.description))
            && is_text(self.category.as_ref(), set.category.as_ref())
            && is_stated(self.required.as_ref(), set.required)
            && is_stated(self.express_route.as_ref(), set.express_route)
            && is_text(self.group.as_ref(), set.group.as_ref())
            && self.lines.as_ref().is_none_or(|lines| *lines == set.lines)
            && self.notes.iter().all(|part| set.notes.iter().any(|note| note.contains(part)))
    }

    /// How many endpoints a set has in common with it.
    fn likeness(&self, set: &Set) -> usize {
        let common = self.names.iter().filter(|name| set.names.contains(name)).count()
            + self.prefixes.iter().filter(|prefix| set.prefixes.contains(prefix)).count();
        common * 2 + usize::from(self.id.is_some() && self.id == set.id)
    }

    fn text(&self) -> String {
        let mut text = line(
            self.id,
            &[&self.names[..], &self.prefixes[..]].concat(),
            (&self.tcp, &self.udp),
            &self.ports_from,
            self.enabled,
        );
        let mut add = |what: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("; {what} {value}"));
            }
        };
        add("section", self.section.clone());
        add("description", self.description.clone());
        add("category", self.category.clone());
        add("required", self.required.as_ref().map(ToString::to_string));
        add("express_route", self.express_route.as_ref().map(ToString::to_string));
        add("group", self.group.clone());
        add("lines", self.lines.as_ref().map(|lines| format!("{lines:?}")));
        add("notes", (!self.notes.is_empty()).then(|| format!("{:?}", self.notes)));
        text
    }
}

// === impl Run ===

impl Run {
    pub(crate) fn describe(&self) -> String {
        let code = self.code.map_or("a signal".to_owned(), |code| format!("exit {code}"));
        format!("{code}: {} {}", self.stderr.trim(), self.stdout.trim())
    }

    fn error_faults(&self, part: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.code != Some(1) {
            faults.push(format!("- exit 1\n    + {}", self.describe()));
        }
        if !self.stderr.to_lowercase().contains(&part.to_lowercase()) {
            faults.push(format!("- error: {part}\n    + {}", self.describe()));
        }
        if self.code == Some(1) && !self.stdout.is_empty() {
            faults.push(format!("+ output: {}", self.stdout));
        }
        faults
    }
}
