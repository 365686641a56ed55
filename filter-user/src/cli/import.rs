// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice import`: vendors' pages and feeds become a policy file.

mod output;
mod replace;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;

use self::{output::source_name, replace::replace};
use super::{check, progress};
use crate::{
    compile::{CounterLedger, compile},
    document::{
        self, Category, Document, Format, PortSet,
        select::{self, Optional, Selection, select},
    },
    names::Snapshot,
    policy::{
        import::{Header, Options, groups, policy_file},
        load,
        render::BroadNames,
    },
};

const EXAMPLES: &str = "Examples:
  sluice import page.md --group eu -o /etc/sluice/policy.d/intune.toml
  sluice import page.md --report                 where each name and prefix went, and why
  sluice import ServiceTags.json --tags AzureFrontDoor.MicrosoftSecurity --default-ports tcp/80,tcp/443
  sluice import - --ids 163,172 --required-only";

/// Turn vendors' pages and feeds into a policy file.
///
/// Pages (Markdown, rendered or plain text), the Microsoft 365 endpoints JSON, Azure service tags,
/// plain lists and policy files are told apart by their content. Several inputs become one policy.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// The pages and feeds; "-" is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// What the inputs are
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = FormatName::Auto)]
    format: FormatName,
    /// Only the endpoint sets with these IDs
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    ids: Vec<u32>,
    /// Only the endpoint sets that the vendor calls required
    #[arg(long)]
    required_only: bool,
    /// Only the endpoint sets of these categories: optimize, allow, default
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = category)]
    category: Vec<Category>,
    /// Only these regions, tenant units or clouds (eu, na, ap, AMSUB0101, ...), and what is for all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    group: Vec<String>,
    /// What stands in for `<tenant>` in names
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The service tags to take; '*' is all of them
    #[arg(long, value_name = "TAG,...", value_delimiter = ',')]
    tags: Vec<String>,
    /// The ports of endpoints that are listed without any, as in tcp/80,tcp/443,udp/3478-3481;
    /// else their rules are written disabled
    #[arg(long, value_name = "PORTS", value_parser = select::ports)]
    default_ports: Option<PortSet>,
    /// Grant patterns that cover a whole public suffix, in rules with `broad = true`; else they are
    /// written disabled
    #[arg(long)]
    allow_broad: bool,
    /// What the rules' names begin with; from the page's title if not given. Rules of policy files
    /// keep their names
    #[arg(long, value_name = "NAME")]
    prefix: Option<String>,
    /// Write the policy to this file instead of standard output
    #[arg(short, long, value_name = "OUT.toml")]
    output: Option<PathBuf>,
    /// Print the endpoint sets as JSON with stable field names
    #[arg(long, conflicts_with = "report")]
    json: bool,
    /// Print where each token of the inputs went, and why
    #[arg(long)]
    report: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// Told by the content
    Auto,
    /// A documentation page: Markdown, rendered or plain text
    IntuneDoc,
    /// What the Microsoft 365 endpoints web service answers
    M365Json,
    /// A file of Azure service tags
    ServiceTags,
    /// One name, address or prefix a line
    List,
    /// A file of policy rules, as this command writes it
    Policy,
}

/// The largest input that is read: many times the largest feed, and little enough that a wrong
/// path (a disk image, a device) does no harm.
const MAX_INPUT: u64 = 64 << 20;

/// The configuration around the policy for the check of it.
const GATEWAY: &str = "[gateway]\ninside = [\"inside\"]\noutside = []\n\
                       [dns]\nupstream = [\"192.0.2.53\"]\n";

/// Runs `sluice import`.
///
/// # Errors
///
/// Where an input can't be read, has no endpoints, or the policy can't be used or written; an
/// existing file is then as it was.
pub(super) fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    if let Some(output) = &args.output
        && args.files.iter().any(|file| is_same_file(file, output))
    {
        bail!("{}: this is an input; write the policy to another file", output.display());
    }
    let document = progress::show("reading", || document(&args))?;
    for warning in &document.warnings {
        let name = source_name(&document, warning.source);
        eprintln!("{name}:{}: warning: {}", warning.line, warning.text);
    }
    let policy = || -> anyhow::Result<String> {
        let broad = if args.allow_broad { BroadNames::Allowed } else { BroadNames::Refused };
        let options = Options { prefix: args.prefix.clone(), broad };
        let header = Header { command: command(&document, &args) };
        let policy = policy_file(&document, &options, &header);
        check_policy(&policy, &groups(&document))?;
        Ok(policy)
    };
    let to_file = args.output.as_deref().filter(|output| *output != Path::new("-"));
    if let Some(output) = to_file {
        replace(output, &policy()?).with_context(|| format!("can't write {}", output.display()))?;
    }
    if args.json {
        super::output::json(&output::json(&document))?;
    } else if args.report {
        super::output::text(&output::report(&document))?;
    } else if to_file.is_none() {
        super::output::text(&policy()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All inputs as one document, and of that what is wanted.
fn document(args: &ImportArgs) -> anyhow::Result<Document> {
    if args.files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        bail!("\"-\" stands there twice; standard input can be read once");
    }
    let options = document::Options {
        format: args.format.format(),
        tags: args.tags.iter().map(|tag| tag.trim().to_owned()).collect(),
        tenant: args.tenant.as_ref().map(|tenant| tenant.to_ascii_lowercase()),
    };
    let mut documents = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let (name, bytes) = read(file)?;
        let text = document::decode(&bytes).with_context(|| name.clone())?;
        drop(bytes);
        documents.push(document::parse(&name, &text, &options).with_context(|| name.clone())?);
    }
    let all = Document::merge(documents);
    if !args.tags.is_empty() && !all.sources.iter().any(|one| one.format == Format::ServiceTags) {
        bail!("--tags: no input is a file of service tags");
    }
    let names: Vec<&str> = all.sources.iter().map(|source| source.name.as_str()).collect();
    let names = names.join(", ");
    select(
        all,
        &Selection {
            ids: args.ids.clone(),
            optional: if args.required_only { Optional::Unwanted } else { Optional::Wanted },
            categories: args.category.clone(),
            groups: args.group.clone(),
            default_ports: args.default_ports.clone(),
        },
    )
    .context(names)
}

fn read(path: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let text = path.to_string_lossy();
    if path.as_os_str() == "-" {
        let bytes = read_all(io::stdin().lock()).context("can't read standard input")?;
        return Ok(("-".to_owned(), bytes));
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("https://") || lower.starts_with("http://") {
        bail!(
            "{text}: nothing is downloaded here; fetch it and pass it on: \
             curl -fsSL '{text}' | sluice import -"
        );
    }
    let bytes = fs::File::open(path)
        .map_err(anyhow::Error::from)
        .and_then(read_all)
        .with_context(|| format!("can't read {text}"))?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    Ok((name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(), bytes))
}

fn read_all(input: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        bail!("it is larger than {} MiB, which no page or feed is", MAX_INPUT >> 20);
    }
    Ok(bytes)
}

/// What is written can be loaded and put in force, once its groups are defined.
fn check_policy(text: &str, groups: &BTreeSet<&str>) -> anyhow::Result<()> {
    if text.len() as u64 > load::MAX_FILE {
        bail!(
            "the policy would be {} MiB long, and `sluice` reads files up to {} MiB; choose fewer \
             endpoint sets (--ids, --group, --tags)",
            text.len() >> 20,
            load::MAX_FILE >> 20
        );
    }
    let mut gateway = GATEWAY.to_owned();
    for group in groups {
        gateway.push_str(&format!("[[source]]\nname = \"{group}\"\ncidr = [\"192.0.2.0/24\"]\n"));
    }
    let files: [(Arc<str>, String); 2] =
        [(Arc::from(load::GATEWAY_FILE), gateway), (Arc::from("the policy"), text.to_owned())];
    let loaded = load::parse(&files)
        .map_err(|errors| anyhow!("what would be written can't be used: {errors}"))?;
    drop(files);
    let policy = loaded.policy;
    let host = check::host(&policy);
    compile(&policy, &Snapshot::default(), &host, &mut CounterLedger::default())
        .context("the policy would not fit")?;
    Ok(())
}

/// The command, with the inputs' bare names: the file doesn't depend on where they lay.
fn command(document: &Document, args: &ImportArgs) -> String {
    let mut words = vec!["sluice".to_owned(), "import".to_owned()];
    words.extend(document.sources.iter().map(|source| source.name.clone()));
    let mut option = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            words.extend([name.to_owned(), values.join(",")]);
        }
    };
    let format = args.format.format().map(|format| format.as_str().to_owned());
    option("--format", format.into_iter().collect());
    option("--ids", args.ids.iter().map(u32::to_string).collect());
    option("--category", args.category.iter().map(|one| one.as_str().to_owned()).collect());
    option("--group", args.group.clone());
    option("--tenant", args.tenant.clone().into_iter().collect());
    option("--tags", args.tags.clone());
    option("--default-ports", args.default_ports.iter().map(PortSet::to_string).collect());
    option("--prefix", args.prefix.clone().into_iter().collect());
    for (flag, given) in
        [("--required-only", args.required_only), ("--allow-broad", args.allow_broad)]
    {
        words.extend(given.then(|| flag.to_owned()));
    }
    if let Some(output) = &args.output {
        words.extend(["-o".to_owned(), output.display().to_string()]);
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./,:+@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn category(text: &str) -> Result<Category, String> {
    Category::named(text).ok_or_else(|| "write optimize, allow or default".to_owned())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other && one.is_file(),
        _ => false,
    }
}

// === impl FormatName ===

impl FormatName {
    fn format(self) -> Option<Format> {
        match self {
            Self::Auto => None,
            Self::IntuneDoc => Some(Format::Page),
            Self::M365Json => Some(Format::M365Json),
            Self::ServiceTags => Some(Format::ServiceTags),
            Self::List => Some(Format::List),
            Self::Policy => Some(Format::Policy),
        }
    }
}

#[cfg(test)]
mod tests;
