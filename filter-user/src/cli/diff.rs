// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice diff`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::output;
use crate::{
    control::{
        DEFAULT_SOCKET,
        client::ask,
        protocol::{Request, RuleStatus},
    },
    diff::{Change, Counts, Difference, Granted, Moved, SetDifference, SetView, View, compare},
    document::{self, Document, Format},
    policy::{
        Destination, Echo, IpProtocol, NamePattern, PortRange, PortRanges, Ports, RuleState,
        load::load_rules,
    },
};

/// The word for the daemon's policy.
const RUNNING: &str = "running";

const EXAMPLES: &str = "Examples:
  sluice diff page-of-june.md page-of-july.md
  sluice diff running /etc/sluice                what a reload would change";

/// What differs between two pages, feeds or policies: the exit status is 0 if nothing, else 1.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffArgs {
    /// A page or feed ("-" is standard input), a policy file (*.toml), a folder of those, or
    /// "running": the policy in force
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// What it is compared with
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Print JSON with stable field names
    #[arg(long)]
    json: bool,
    /// The service tags to compare in files of service tags
    #[arg(long, value_name = "TAG,...", value_delimiter = ',')]
    tags: Vec<String>,
    /// What stands in for `<tenant>` and its like on pages
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The daemon's control socket, for "running"
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

pub(super) fn run(args: &DiffArgs) -> Result<ExitCode> {
    let difference = compare(&view(&args.old, args)?, &view(&args.new, args)?);
    if args.json {
        output::json(&difference)?;
    } else {
        output::text(&render(&difference))?;
    }
    Ok(if difference.equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn view(path: &Path, args: &DiffArgs) -> Result<View> {
    // A file of that name can be written as ./running.
    if path == Path::new(RUNNING) {
        let rules: Vec<RuleStatus> = ask(&args.socket, &Request::Rules)?;
        let sets = rules.iter().map(running_rule).collect::<Result<_>>();
        return Ok(View { sets: sets.context(OTHER_VERSION)? });
    }
    if path.is_dir() || path.extension().is_some_and(|extension| extension == "toml") {
        return match load_rules(path) {
            Ok(rules) => Ok(rules.iter().collect()),
            Err(errors) => bail!("{} can't be read\n{errors}", path.display()),
        };
    }
    Ok(View::from(&page(path, args)?))
}

fn page(path: &Path, args: &DiffArgs) -> Result<Document> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes).context("can't read standard input")?;
    } else {
        bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let options = document::Options {
        tags: args.tags.clone(),
        tenant: args.tenant.clone(),
        ..document::Options::default()
    };
    let page = document::decode(&bytes)
        .and_then(|text| document::parse(&name, &text, &options))
        .with_context(|| path.display().to_string())?;
    if page.sources.iter().any(|source| source.format == Format::Policy) {
        bail!("{} is a policy file; save it under a name that ends in .toml", path.display());
    }
    Ok(page)
}

const OTHER_VERSION: &str =
    "the daemon's answer can't be read; client and daemon are of different versions";

/// A rule of the policy in force, out of the daemon's words.
fn running_rule(rule: &RuleStatus) -> Result<SetView> {
    let mut to = Vec::new();
    for text in &rule.to {
        to.push(match text.parse() {
            Ok(prefix) => Destination::Prefix(prefix),
            Err(_no_prefix) if text == "self" => Destination::SelfAddresses,
            Err(_no_prefix) => Destination::Name(NamePattern::try_from(text.as_str())?),
        });
    }
    let mut ports = Ports {
        tcp: running_ports(&rule.tcp)?,
        udp: running_ports(&rule.udp)?,
        echo: if rule.icmp { Echo::Allowed } else { Echo::Denied },
        ..Ports::default()
    };
    for text in &rule.proto {
        ports.protocols.insert(match text.parse::<u8>() {
            Ok(number) => IpProtocol::try_from(number)?,
            Err(_no_number) => IpProtocol::try_from(text.as_str())?,
        });
    }
    let state = if rule.enabled { RuleState::Enabled } else { RuleState::Disabled };
    let from = rule.from.iter().cloned().collect();
    Ok(SetView::rule(&rule.name, rule.origin.clone(), from, to.into_iter(), ports, state))
}

fn running_ports(text: &str) -> Result<PortRanges> {
    let ranges = text.split(',').filter(|range| !range.is_empty()).map(PortRange::try_from);
    Ok(ranges.collect::<Result<Vec<_>, _>>()?.into_iter().collect())
}

// === text ===

pub(super) fn render(difference: &Difference) -> String {
    if difference.equal {
        return format!("no difference in {}\n", several(difference.counts.sets_new, "set"));
    }
    let mut text = String::new();
    for set in &difference.sets {
        block(&mut text, set, difference);
        text.push('\n');
    }
    let partly = partly_moved(difference);
    if !partly.is_empty() {
        line(&mut text, "moved, as part of a prefix above:");
        for moved in partly {
            line(&mut text, &format!("  {}: {} -> {}", moved.endpoint, moved.from, moved.to));
        }
        text.push('\n');
    }
    for (side, granted) in
        [("OLD", &difference.granted_only_by_old), ("NEW", &difference.granted_only_by_new)]
    {
        if !granted.is_empty() {
            line(&mut text, &format!("granted only by {side}, over all sets:"));
            for granted in granted {
                let sign = if side == "OLD" { '-' } else { '+' };
                grants(&mut text, sign, granted);
            }
            text.push('\n');
        }
    }
    text.push_str(&summary(&difference.counts));
    text
}

fn block(text: &mut String, set: &SetDifference, difference: &Difference) {
    let what = match set.change {
        Change::Added => format!("only in NEW ({})", set.new.join(", ")),
        Change::Removed => format!("only in OLD ({})", set.old.join(", ")),
        Change::Changed => format!("({} -> {})", set.old.join(", "), set.new.join(", ")),
    };
    line(text, &format!("{} {what}", set.set));
    facts(text, set);
    for (sign, tcp, udp, protocols) in [
        ('-', &set.tcp_removed, &set.udp_removed, &set.protocols_removed),
        ('+', &set.tcp_added, &set.udp_added, &set.protocols_added),
    ] {
        let ports = allowed(tcp, udp, protocols);
        if !ports.is_empty() {
            line(text, &format!("  {sign} {ports}"));
        }
    }
    let remark = |endpoint: &str, side: Change| {
        let mut remarks = Vec::new();
        if let Ok(place) =
            set.covered.binary_search_by(|covered| covered.name.as_str().cmp(endpoint))
            && let Some(covered) = set.covered.get(place)
        {
            let word = if side == Change::Removed { "still" } else { "already" };
            remarks.push(format!("{word} covered by {}", covered.by));
        }
        let start = difference.moved.partition_point(|moved| moved.endpoint.as_str() < endpoint);
        for moved in difference.moved.iter().skip(start) {
            match side {
                _ if moved.endpoint != endpoint => break,
                Change::Removed if moved.from == set.set => {
                    remarks.push(format!("moved to {}", moved.to));
                }
                Change::Added if moved.to == set.set => {
                    remarks.push(format!("moved from {}", moved.from));
                }
                _ => {}
            }
        }
        if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join("; ")) }
    };
    for (sign, side, names, prefixes) in [
        ('-', Change::Removed, &set.names_removed, &set.prefixes_removed),
        ('+', Change::Added, &set.names_added, &set.prefixes_added),
    ] {
        for name in names {
            line(text, &format!("  {sign} {name}{}", remark(name, side)));
        }
        for prefix in prefixes {
            let prefix = prefix.to_string();
            line(text, &format!("  {sign} {prefix}{}", remark(&prefix, side)));
        }
    }
    for (sign, parts) in [('-', &set.parts_removed), ('+', &set.parts_added)] {
        for granted in parts {
            grants(text, sign, granted);
        }
    }
}

/// What changed about the set itself; of a set that only one side has, what is worth knowing.
fn facts(text: &mut String, set: &SetDifference) {
    let word = |value: Option<bool>, yes, no| value.map(|value| if value { yes } else { no });
    let clients = |groups: &Option<Vec<String>>| match groups.as_deref() {
        Some([]) => Some("every client".to_owned()),
        Some(groups) => Some(groups.join(", ")),
        None => None,
    };
    let mut fact = |name: &str, old: Option<&str>, new: Option<&str>| match (old, new) {
        (Some("optional"), Some("required")) => line(text, "  ~ newly required"),
        (Some("required"), Some("optional")) => line(text, "  ~ no longer required"),
        (Some(old), Some(new)) => line(text, &format!("  ~ {name}{old} -> {new}")),
        (Some(only), None) | (None, Some(only)) => line(text, &format!("    {name}{only}")),
        (None, None) => {}
    };
    if let Some(required) = &set.required {
        let [old, new] = [required.old, required.new].map(|is| word(is, "required", "optional"));
        fact("", old, new);
    }
    if let Some(enabled) = &set.enabled
        && (set.change == Change::Changed || enabled.old.or(enabled.new) == Some(false))
    {
        let [old, new] = [enabled.old, enabled.new].map(|is| word(is, "enabled", "disabled"));
        fact("", old, new);
    }
    if let Some(category) = &set.category {
        fact("category ", category.old.as_deref(), category.new.as_deref());
    }
    if let Some(route) = &set.express_route {
        fact("ExpressRoute ", word(route.old, "yes", "no"), word(route.new, "yes", "no"));
    }
    if let Some(from) = &set.from {
        fact("from ", clients(&from.old).as_deref(), clients(&from.new).as_deref());
    }
}

/// Moves that no line of a block tells: of a part of the prefix that stands there.
fn partly_moved(difference: &Difference) -> Vec<&Moved> {
    let mut told: BTreeSet<(&str, Change, String)> = BTreeSet::new();
    for set in &difference.sets {
        for (side, names, prefixes) in [
            (Change::Removed, &set.names_removed, &set.prefixes_removed),
            (Change::Added, &set.names_added, &set.prefixes_added),
        ] {
            let prefixes = prefixes.iter().map(ToString::to_string);
            let endpoints = names.iter().cloned().chain(prefixes);
            told.extend(endpoints.map(|endpoint| (set.set.as_str(), side, endpoint)));
        }
    }
    let untold = |moved: &&Moved| {
        let endpoint = || moved.endpoint.clone();
        !told.contains(&(moved.from.as_str(), Change::Removed, endpoint()))
            && !told.contains(&(moved.to.as_str(), Change::Added, endpoint()))
    };
    difference.moved.iter().filter(untold).collect()
}

/// `  + tcp 80,443 at`, and the endpoints below.
fn grants(text: &mut String, sign: char, granted: &Granted) {
    let ports = allowed(&granted.tcp, &granted.udp, &granted.protocols);
    line(text, &format!("  {sign} {ports} at"));
    for name in &granted.names {
        line(text, &format!("      {name}"));
    }
    for prefix in &granted.prefixes {
        line(text, &format!("      {prefix}"));
    }
}

/// `tcp 80,443, udp 3478, icmp`
fn allowed(tcp: &[String], udp: &[String], protocols: &[String]) -> String {
    let mut parts = Vec::new();
    for (protocol, ports) in [("tcp", tcp), ("udp", udp)] {
        if !ports.is_empty() {
            parts.push(format!("{protocol} {}", ports.join(",")));
        }
    }
    parts.extend(protocols.iter().cloned());
    parts.join(", ")
}

fn summary(counts: &Counts) -> String {
    format!(
        "{} changed, {} added, {} removed (of {} and {}); names +{} -{}; prefixes +{} -{}; {} moved\n",
        several(counts.sets_changed, "set"),
        counts.sets_added,
        counts.sets_removed,
        counts.sets_old,
        counts.sets_new,
        counts.names_added,
        counts.names_removed,
        counts.prefixes_added,
        counts.prefixes_removed,
        counts.moved
    )
}

fn several(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A line for a terminal: titles come from pages, and may hold anything.
fn line(text: &mut String, line: &str) {
    let shown = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    // Writing to a string can't fail.
    let _ = writeln!(text, "{}", shown.collect::<String>());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::control::protocol::Count;

    /// What the daemon says of a rule is the rule.
    #[test]
    fn rules_of_the_daemon() {
        let text = "[[rule]]\nname = \"a\"\nfrom = [\"g\"]\nto = [\"self\", \"*.x.com\", \"20.1.0.0/16\"]\n\
                    tcp = \"any\"\nudp = [53, \"3478-3481\"]\nicmp = true\nproto = [\"esp\", 200]\nenabled = false\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, text).unwrap();
        let status = RuleStatus {
            name: "a".to_owned(),
            origin: "a.toml:1".to_owned(),
            enabled: false,
            from: vec!["g".to_owned()],
            to: ["self", "*.x.com", "20.1.0.0/16"].map(str::to_owned).to_vec(),
            tcp: "any".to_owned(),
            udp: "53,3478-3481".to_owned(),
            icmp: true,
            proto: ["esp", "200"].map(str::to_owned).to_vec(),
            note: None,
            allow: None,
            count: Count::default(),
        };
        let rules = load_rules(&file).unwrap();
        let view: View = rules.iter().collect();
        assert_eq!(view, View { sets: vec![running_rule(&status).unwrap()] });
        assert_eq!(view.sets[0].from, Some(BTreeSet::from(["g".to_owned()])));
        let odd = RuleStatus { tcp: "80..90".to_owned(), ..status };
        assert!(running_rule(&odd).is_err());
    }
}
