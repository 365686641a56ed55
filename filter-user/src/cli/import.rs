// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice import`: a vendor's page becomes a policy file.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::{
    document::{self, Document, EndpointSet, Note, PortSpan, SetState, Source},
    policy::import::{Header, Options, policy_file},
};

/// Turn a vendor's page into a policy file.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The page; "-" is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the policy to this file instead of standard output.
    #[arg(short, long, value_name = "OUT.toml")]
    output: Option<PathBuf>,
    /// What the rules' names begin with; from the page's title if not given.
    #[arg(long, value_name = "NAME")]
    prefix: Option<String>,
    /// Print the endpoint sets as JSON.
    #[arg(long, conflicts_with = "report")]
    json: bool,
    /// Print where each token of the page went, and why.
    #[arg(long)]
    report: bool,
}

/// Runs `sluice import`.
///
/// # Errors
///
/// Where the page can't be read, has no endpoints, or the policy can't be written; an existing
/// file is then as it was.
pub(super) fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let (name, bytes) = read(&args.file)?;
    let document = document::decode(&bytes)
        .and_then(|text| document::parse(&name, &text, &document::Options::default()))
        .with_context(|| name.clone())?;
    for warning in &document.warnings {
        eprintln!("{name}:{}: warning: {}", warning.line, warning.text);
    }
    let policy = || {
        let command = command(&name, &args);
        policy_file(&document, &Options { prefix: args.prefix.clone() }, &Header { command })
    };
    if let Some(output) = &args.output {
        replace(output, &policy()).with_context(|| format!("can't write {}", output.display()))?;
    }
    if args.json {
        let json = serde_json::to_string_pretty(&json(&document))?;
        print(&format!("{json}\n"))?;
    } else if args.report {
        print(&report(&document, &name))?;
    } else if args.output.is_none() {
        print(&policy())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("can't read standard input")?;
        return Ok(("-".to_owned(), bytes));
    }
    let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok((name.to_string_lossy().into_owned(), bytes))
}

/// The command, with the page's bare name: the file doesn't depend on where the page lay.
fn command(name: &str, args: &ImportArgs) -> String {
    let mut command = format!("sluice import {name}");
    if let Some(prefix) = &args.prefix {
        command.push_str(&format!(" --prefix {prefix}"));
    }
    if let Some(output) = &args.output {
        command.push_str(&format!(" -o {}", output.display()));
    }
    command
}

/// Writes beside the file and renames, so that there is never half a file.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let Some(name) = path.file_name() else { bail!("this is no file name") };
    let mut beside = name.to_os_string();
    beside.push(format!(".{}.new", process::id()));
    let beside = path.with_file_name(beside);
    let written = fs::File::create_new(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // What went wrong is reported; that the rest stays behind would only hide it.
        let _ = fs::remove_file(&beside);
    }
    Ok(written?)
}

/// Prints to standard output; a reader that has seen enough is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `LINE  TOKEN  where it went`, in the order of the page.
fn report(document: &Document, name: &str) -> String {
    let mut lines: Vec<(u32, &str, String)> = Vec::new();
    for token in &document.imported {
        let set = document.endpoint_sets.get(token.set);
        let set = set.map_or_else(String::new, |set| match (set.id, &set.group) {
            (Some(id), _) => format!("imported: {id} {}", set.description),
            (None, Some(group)) => format!("imported: {} ({group})", set.section),
            (None, None) => format!("imported: {}", set.section),
        });
        lines.push((token.line, &token.token, set));
    }
    for token in &document.left_out {
        lines.push((token.line, &token.token, format!("left out: {}", token.why)));
    }
    lines.sort();
    let width = lines.iter().map(|(_, token, _)| token.len()).max().unwrap_or(0).min(60);
    let mut text = String::new();
    for (line, token, went) in &lines {
        text.push_str(&format!("{name}:{line:<5} {token:<width$}  {went}\n"));
    }
    text.push_str(&format!("{} imported", document.imported.len()));
    for (why, count) in document.left_out_by_reason() {
        text.push_str(&format!(", {count} {why}"));
    }
    text.push('\n');
    text
}

// The names and the order of these fields are stable.

#[derive(Serialize)]
struct JsonDocument<'a> {
    format: &'a str,
    sources: Vec<JsonSource<'a>>,
    endpoint_sets: Vec<JsonSet<'a>>,
    left_out: Vec<JsonLeftOut<'a>>,
    warnings: Vec<JsonWarning<'a>>,
}

#[derive(Serialize)]
struct JsonSource<'a> {
    name: &'a str,
    format: &'a str,
    title: Option<&'a str>,
    date: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonSet<'a> {
    source: usize,
    id: Option<u32>,
    section: &'a str,
    description: &'a str,
    category: Option<&'a str>,
    required: Option<bool>,
    express_route: Option<bool>,
    group: Option<&'a str>,
    names: &'a [String],
    prefixes: &'a [ipnet::IpNet],
    tcp: Vec<String>,
    udp: Vec<String>,
    ports_from: &'a str,
    enabled: bool,
    lines: [u32; 2],
    notes: &'a [Note],
}

#[derive(Serialize)]
struct JsonLeftOut<'a> {
    source: usize,
    line: u32,
    token: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct JsonWarning<'a> {
    source: usize,
    line: u32,
    text: &'a str,
}

fn json(document: &Document) -> JsonDocument<'_> {
    let left_out = document.left_out.iter().map(|token| JsonLeftOut {
        source: token.source,
        line: token.line,
        token: &token.token,
        why: token.why.as_str(),
    });
    let warnings = document.warnings.iter().map(|warning| JsonWarning {
        source: warning.source,
        line: warning.line,
        text: &warning.text,
    });
    JsonDocument {
        format: format(document),
        sources: document.sources.iter().map(json_source).collect(),
        endpoint_sets: document.endpoint_sets.iter().map(json_set).collect(),
        left_out: left_out.collect(),
        warnings: warnings.collect(),
    }
}

/// The format of all inputs, if they have one in common.
fn format(document: &Document) -> &'static str {
    let mut formats = document.sources.iter().map(|source| source.format);
    let first = formats.next();
    match first {
        Some(first) if formats.all(|format| format == first) => first.as_str(),
        _ => "mixed",
    }
}

fn json_source(source: &Source) -> JsonSource<'_> {
    JsonSource {
        name: &source.name,
        format: source.format.as_str(),
        title: source.title.as_deref(),
        date: source.date.as_deref(),
    }
}

fn json_set(set: &EndpointSet) -> JsonSet<'_> {
    JsonSet {
        source: set.source,
        id: set.id,
        section: &set.section,
        description: &set.description,
        category: set.category.map(|category| category.as_str()),
        required: set.required.as_option(),
        express_route: set.express_route.as_option(),
        group: set.group.as_deref(),
        names: &set.names,
        prefixes: &set.prefixes,
        tcp: set.ports.tcp.iter().map(PortSpan::to_string).collect(),
        udp: set.ports.udp.iter().map(PortSpan::to_string).collect(),
        ports_from: set.ports_from.as_str(),
        enabled: set.state == SetState::Enabled,
        lines: [set.lines.0, set.lines.1],
        notes: &set.notes,
    }
}
