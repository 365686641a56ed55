// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds of the importer whatever bytes it is given.

use std::{collections::BTreeSet, sync::Arc};

use filter_user::{
    document::{
        self, Document, Options,
        select::{Optional, Selection, ports, select},
    },
    policy::{
        import::{self, Header, policy_file},
        load,
        render::BroadNames,
    },
};

/// A gateway for the policy.
const GATEWAY: &str = "[gateway]\ninside = [\"inside\"]\noutside = []\n\
                       [dns]\nupstream = [\"192.0.2.53\"]\n";

/// Imports the bytes in several ways.
///
/// # Errors
///
/// What should hold and doesn't: a token that its set doesn't have, a set that no token led to, or
/// a policy that can't be loaded.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    // An error is an answer.
    let Ok(text) = document::decode(bytes) else { return Ok(()) };
    let tags = vec!["*".to_owned()];
    let every_way = [
        Options::default(),
        Options { tags, ..Options::default() },
        Options { tenant: Some("contoso".to_owned()), ..Options::default() },
    ];
    for options in every_way {
        let Ok(parsed) = document::parse("input", &text, &options) else { continue };
        tokens(&parsed)?;
        let twice = Document::merge(vec![parsed.clone(), parsed.clone()]);
        tokens(&twice)?;
        policy(&twice, BroadNames::Refused)?;
        policy(&parsed, BroadNames::Refused)?;
        policy(&parsed, BroadNames::Allowed)?;
        for selection in selections(&parsed)? {
            let Ok(selected) = select(parsed.clone(), &selection) else { continue };
            tokens(&selected)?;
            policy(&selected, BroadNames::Refused)?;
        }
    }
    Ok(())
}

/// A choice by each thing that sets can be chosen by.
fn selections(document: &Document) -> Result<Vec<Selection>, String> {
    let default_ports = ports("tcp/443,udp/3478-3481").map_err(|error| error.to_string())?;
    let sets = &document.endpoint_sets;
    Ok(vec![
        Selection { default_ports: Some(default_ports), ..Selection::default() },
        Selection { optional: Optional::Unwanted, ..Selection::default() },
        Selection {
            ids: sets.iter().find_map(|set| set.id).into_iter().collect(),
            ..Selection::default()
        },
        Selection {
            groups: sets.iter().find_map(|set| set.group.clone()).into_iter().collect(),
            ..Selection::default()
        },
    ])
}

/// Each imported token is in its set, and each endpoint of a set was imported.
fn tokens(document: &Document) -> Result<(), String> {
    let mut held: Vec<BTreeSet<String>> = Vec::new();
    for set in &document.endpoint_sets {
        let prefixes = set.prefixes.iter().map(ToString::to_string);
        held.push(set.names.iter().cloned().chain(prefixes).collect());
    }
    let mut led = vec![BTreeSet::new(); held.len()];
    for token in &document.imported {
        match (held.get(token.set), led.get_mut(token.set)) {
            (Some(endpoints), Some(led)) if endpoints.contains(&token.token) => {
                led.insert(token.token.clone());
            }
            // One token for all names of a pattern: `#-a.example.com` for `0-a.example.com` and on.
            (Some(endpoints), Some(led)) if token.token.contains('#') => {
                let names = endpoints.iter().filter(|name| is_one_of(name, &token.token));
                let names: Vec<String> = names.cloned().collect();
                let found = names.len();
                led.extend(names);
                if found == 0 {
                    return Err(format!("line {}: no name is of {}", token.line, token.token));
                }
            }
            _ => {
                return Err(format!(
                    "line {}: {} is not in its set {}",
                    token.line, token.token, token.set
                ));
            }
        }
    }
    for (number, (endpoints, led)) in held.iter().zip(&led).enumerate() {
        if let Some(token) = endpoints.difference(led).next() {
            return Err(format!("set {number} has {token}, which no token led to"));
        }
    }
    Ok(())
}

/// Whether a name is a pattern with a number in place of its `#`.
fn is_one_of(name: &str, pattern: &str) -> bool {
    let Some((front, end)) = pattern.split_once('#') else { return false };
    let number = name.strip_prefix(front).and_then(|rest| rest.strip_suffix(end));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What is written can be loaded, and imported again it is the same.
fn policy(document: &Document, broad: BroadNames) -> Result<(), String> {
    let options = import::Options { prefix: None, broad };
    let header = Header { command: "sluice import input".to_owned() };
    let text = policy_file(document, &options, &header);
    let mut gateway = GATEWAY.to_owned();
    for group in import::groups(document) {
        gateway.push_str(&format!("[[source]]\nname = \"{group}\"\ncidr = [\"192.0.2.0/24\"]\n"));
    }
    let files: [(Arc<str>, String); 2] =
        [(Arc::from(load::GATEWAY_FILE), gateway), (Arc::from("imported"), text)];
    let loaded = load::parse(&files);
    let [_, (_, text)] = files;
    let loaded = loaded.map_err(|errors| format!("{errors}\n{text}"))?;
    let again = document::decode(text.as_bytes())
        .and_then(|text| document::parse("again", &text, &Options::default()))
        .map_err(|error| format!("it can't be imported again: {error}\n{text}"));
    let again = match again {
        // There is nothing in a policy without rules.
        Err(_) if loaded.policy.rules.is_empty() => return Ok(()),
        other => other?,
    };
    let twice = policy_file(&again, &options, &Header { command: "again".to_owned() });
    if rules_of(&twice) == rules_of(&text) {
        return Ok(());
    }
    Err(format!("imported again, this:\n{text}\nbecame this:\n{twice}"))
}

/// A policy file without the comment at its head.
fn rules_of(text: &str) -> &str {
    text.split_once("\n\n").map_or("", |(_, rules)| rules)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn it_holds_of_the_seeds() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/import-seeds");
        let mut count = 0;
        for entry in fs::read_dir(seeds).unwrap() {
            let path = entry.unwrap().path();
            check(&fs::read(&path).unwrap())
                .unwrap_or_else(|broken| panic!("{}: {broken}", path.display()));
            count += 1;
        }
        assert!(count >= 10, "only {count} seeds");
    }
}
