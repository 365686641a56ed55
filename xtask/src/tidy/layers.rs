// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may depend on whom.

use super::{
    File, Tree, Violation,
    lexer::{self, Part, Source},
    names::{self, Named},
};

/// A crate that belongs into one place, so that replacing it is work in one place.
struct Confined {
    /// Its name in code; with a trailing `*`, the start of it.
    name: &'static str,
    places: &'static [&'static str],
    why: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined {
        name: "aya",
        places: &[
            "filter-user/src/kernel.rs",
            "filter-user/src/kernel/",
            "filter-common/src/pod.rs",
            "tests/src/generator.rs",
            "tests/src/generator/",
            "tests/src/packet_bench/",
        ],
        why: "only `kernel` (and the lab, for programs of its own) talks to the kernel's BPF",
    },
    Confined {
        name: "aya_ebpf*",
        places: &["filter-ebpf/", "tests/generator-ebpf/"],
        why: "it is for programs that run in the kernel",
    },
    Confined {
        name: "aya_build",
        places: &["filter-user/build/ebpf.rs"],
        why: "it is for build scripts",
    },
    Confined {
        name: "hickory_*",
        places: &["filter-user/src/dns.rs", "filter-user/src/dns/"],
        why: "only `dns` speaks DNS",
    },
    Confined {
        name: "tokio_rustls",
        places: &["filter-user/src/dns.rs", "filter-user/src/dns/", "tests/"],
        why: "only `dns` speaks TLS, to resolvers (and the lab's resolver does)",
    },
    Confined {
        name: "clap*",
        places: &[
            "filter-user/src/cli.rs",
            "filter-user/src/cli/",
            "filter-user/src/main.rs",
            "xtask/",
        ],
        why: "only `cli` reads the command line",
    },
    Confined {
        name: "pulldown_cmark",
        places: &["filter-user/src/document.rs", "filter-user/src/document/"],
        why: "only `document` reads Markdown",
    },
];

/// A module of `filter-user` and the others that it may import.
struct Module {
    name: &'static str,
    imports: Imports,
    purity: Purity,
}

enum Imports {
    These(&'static [&'static str]),
    /// Everything but the command line.
    AllButCli,
    All,
}

/// Whether a module gets everything as arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purity {
    Pure,
    Impure,
}

/// `document <- policy <- compile <- kernel <- daemon <- cli`, with what stands beside that line.
/// A new module needs a row: where it belongs is a decision.
const MODULES: &[Module] = &[
    Module { name: "document", imports: Imports::These(&[]), purity: Purity::Pure },
    Module { name: "policy", imports: Imports::These(&["document"]), purity: Purity::Pure },
    Module { name: "diff", imports: Imports::These(&["document", "policy"]), purity: Purity::Pure },
    Module { name: "names", imports: Imports::These(&["policy"]), purity: Purity::Pure },
    Module { name: "compile", imports: Imports::These(&["policy", "names"]), purity: Purity::Pure },
    Module { name: "dns", imports: Imports::These(&["policy", "names"]), purity: Purity::Impure },
    Module {
        name: "kernel",
        imports: Imports::These(&["policy", "names", "compile"]),
        purity: Purity::Impure,
    },
    Module {
        name: "control",
        imports: Imports::These(&[
            "document", "policy", "diff", "names", "dns", "compile", "kernel",
        ]),
        purity: Purity::Impure,
    },
    Module { name: "daemon", imports: Imports::AllButCli, purity: Purity::Impure },
    Module { name: "cli", imports: Imports::All, purity: Purity::Impure },
];

/// Crates of ours that a crate of ours may name, by directory.
const CRATES: &[(&str, &[&str])] = &[
    ("filter-common/", &[]),
    ("filter-ebpf/", &["filter_common"]),
    ("filter-user/", &["filter_common", "filter_user"]),
    ("tests/", &["filter_common", "filter_user", "sluice_lab"]),
    ("xtask/", &[]),
];

const OURS: &[&str] = &["filter_common", "filter_ebpf", "filter_user", "sluice_lab", "xtask"];

/// What a pure module doesn't name: the start of a path, and what it should do instead.
const IMPURE: &[(&[&str], &str)] = &[
    (&["aya"], "the kernel is `kernel`'s"),
    (&["nix"], "system calls are for others"),
    (&["rtnetlink"], "system calls are for others"),
    (&["tokio"], "waiting is for others"),
    (&["std", "env"], "settings are arguments"),
    (&["std", "fs"], "text is an argument"),
    (&["std", "net", "TcpListener"], "sockets are for others"),
    (&["std", "net", "TcpStream"], "sockets are for others"),
    (&["std", "net", "ToSocketAddrs"], "it resolves names; answers are arguments"),
    (&["std", "net", "UdpSocket"], "sockets are for others"),
    (&["std", "os", "unix", "net"], "sockets are for others"),
    (&["std", "process"], "starting or ending processes is for others"),
    (&["std", "thread"], "threads are for others"),
];

/// The one pure module's file that reads files, because a configuration is a directory of them.
const READS_FILES: &str = "filter-user/src/policy/load.rs";

/// What xtask may depend on: a fresh clone builds it before anything else.
const XTASK_DEPENDENCIES: &[&str] = &["anyhow", "clap"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    let sources: Vec<_> = tree.rust().map(|file| (file, lexer::lex(&file.text))).collect();
    let tests: Vec<_> =
        sources.iter().flat_map(|(file, source)| test_modules(file, source)).collect();
    for (file, source) in &sources {
        // Tests may go the other way: that what the importer writes is a good policy, say.
        if tests.iter().any(|module| is_below(file, module)) {
            continue;
        }
        let mut named = names::named(&source.tokens);
        named.retain(|named| named.part == Part::Product);
        for named in &named {
            violations.extend(confined(file, named));
            violations.extend(crates(file, named));
        }
        if let Some(place) = Place::of(file) {
            violations.extend(module(tree, file, &place, source, &named));
        }
    }
    violations.extend(xtask_dependencies(tree));
    violations
}

/// The paths, without `.rs`, of the modules that a file declares by `#[cfg(test)] mod name;`.
fn test_modules(file: &File, source: &Source<'_>) -> Vec<String> {
    let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
    let directory = match stem.rsplit_once('/') {
        Some((directory, "lib" | "main")) => directory,
        _ => stem,
    };
    let mut modules = Vec::new();
    for window in source.tokens.windows(3) {
        let [keyword, name, end] = window else { continue };
        if (keyword.text, end.text, keyword.part) == ("mod", ";", Part::Test) {
            modules.push(format!("{directory}/{}", name.text));
        }
    }
    modules
}

/// Whether a file is that of a module, or one below it.
fn is_below(file: &File, module: &str) -> bool {
    let rest = file.path.strip_prefix(module);
    rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn confined(file: &File, named: &Named<'_>) -> Option<Violation> {
    let root = named.components.first()?;
    let rule = CONFINED.iter().find(|rule| match rule.name.strip_suffix('*') {
        Some(start) => root.starts_with(start),
        None => *root == rule.name,
    })?;
    if file.is_in(rule.places) {
        return None;
    }
    let message = format!("{root} doesn't belong here: {}", rule.why);
    Some(file.violation(named.line, message))
}

fn crates(file: &File, named: &Named<'_>) -> Option<Violation> {
    let root = named.components.first()?;
    let (directory, allowed) =
        CRATES.iter().find(|(directory, _)| file.path.starts_with(directory))?;
    if !OURS.contains(root) || allowed.contains(root) {
        return None;
    }
    let own = directory.trim_end_matches('/');
    Some(file.violation(named.line, format!("{own} may not depend on {root}")))
}

/// Where in `filter-user` a file stands.
struct Place<'a> {
    /// Its module path; empty for the roots.
    path: Vec<&'a str>,
}

impl<'a> Place<'a> {
    fn of(file: &'a File) -> Option<Self> {
        let path = file.path.strip_prefix("filter-user/src/")?.strip_suffix(".rs")?;
        let path = match path {
            "lib" | "main" => Vec::new(),
            path => path.split('/').collect(),
        };
        Some(Self { path })
    }

    /// The top module of this crate that a path leads to.
    fn target(&self, named: &Named<'a>) -> Option<&'a str> {
        let components = &named.components;
        if matches!(components.first(), Some(&"crate" | &"filter_user")) {
            return components.get(1).copied();
        }
        let supers = components.iter().take_while(|component| **component == "super").count();
        if supers == 0 {
            return None;
        }
        let left = self.path.len().checked_sub(supers)?;
        self.path.iter().take(left).chain(components.iter().skip(supers)).next().copied()
    }
}

fn module(
    tree: &Tree,
    file: &File,
    place: &Place<'_>,
    source: &Source<'_>,
    named: &[Named<'_>],
) -> Vec<Violation> {
    let Some(top) = place.path.first() else { return Vec::new() };
    let Some(rule) = MODULES.iter().find(|module| module.name == *top) else {
        let message = format!("the module {top} isn't in tidy's table (xtask/src/tidy/layers.rs)");
        return vec![file.violation(1, message)];
    };
    let mut violations = Vec::new();
    for named in named {
        if let Some(target) = place.target(named)
            && target != *top
            && is_module(tree, target)
            && !rule.imports.allows(target)
        {
            let message = format!("`{top}` may not import `{target}`");
            violations.push(file.violation(named.line, message));
        }
        if rule.purity == Purity::Pure {
            violations.extend(impure_name(file, top, named));
        }
    }
    if rule.purity == Purity::Pure {
        violations.extend(clock(file, top, source));
    }
    violations
}

fn is_module(tree: &Tree, name: &str) -> bool {
    MODULES.iter().any(|module| module.name == name)
        || tree.has(&format!("filter-user/src/{name}.rs"))
}

fn impure_name(file: &File, module: &str, named: &Named<'_>) -> Option<Violation> {
    let (path, why) = IMPURE.iter().find(|(path, _)| named.components.starts_with(path))?;
    if file.path == READS_FILES && *path == ["std", "fs"] {
        return None;
    }
    let message = format!("`{module}` is pure, so no {}: {why}", path.join("::"));
    Some(file.violation(named.line, message))
}

/// `Instant::now` and `SystemTime::now`, however they were imported, and `.elapsed()`.
fn clock(file: &File, module: &str, source: &Source<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for window in source.tokens.windows(3) {
        let [first, second, third] = window else { continue };
        let reads = matches!(
            (first.text, second.text, third.text),
            ("Instant" | "SystemTime", "::", "now") | (".", "elapsed", "(")
        );
        if reads && second.part == Part::Product {
            let message = format!("`{module}` is pure and reads no clock: time is an argument");
            violations.push(file.violation(second.line, message));
        }
    }
    violations
}

fn xtask_dependencies(tree: &Tree) -> Vec<Violation> {
    let Some(file) = tree.files.iter().find(|file| file.path == "xtask/Cargo.toml") else {
        return Vec::new();
    };
    let mut violations = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(file.text.lines()) {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside
            && let Some(name) = line.split(['=', '.', ' ']).next().filter(|name| !name.is_empty())
            && !name.starts_with('#')
            && !XTASK_DEPENDENCIES.contains(&name)
        {
            let message = format!("xtask may not depend on {name}: a fresh clone builds it first");
            violations.push(file.violation(number, message));
        }
    }
    violations
}

// === impl Imports ===

impl Imports {
    fn allows(&self, module: &str) -> bool {
        match self {
            Self::These(modules) => modules.contains(&module),
            Self::AllButCli => module != "cli",
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    fn good(path: &str, text: &str) {
        assert_eq!(said(check, &[(path, text)]), Vec::<String>::new(), "{path}: {text}");
    }

    fn bad(path: &str, text: &str, message: &str) {
        let said = said(check, &[(path, text)]);
        let start = format!("{path}:");
        assert!(
            said.iter().any(|line| line.starts_with(&start) && line.contains(message)),
            "{said:?}"
        );
    }

    #[test]
    fn confined_crates_stay_in_their_place() {
        for (name, place, elsewhere) in [
            ("aya", "filter-user/src/kernel/load.rs", "filter-user/src/daemon.rs"),
            ("aya", "filter-common/src/pod.rs", "filter-common/src/wire.rs"),
            ("aya", "tests/src/generator.rs", "tests/src/lib.rs"),
            ("aya_ebpf", "filter-ebpf/src/main.rs", "filter-user/src/kernel.rs"),
            ("aya_build", "filter-user/build/ebpf.rs", "filter-user/src/kernel.rs"),
            ("hickory_resolver", "filter-user/src/dns/client.rs", "filter-user/src/daemon.rs"),
            ("tokio_rustls", "filter-user/src/dns/tls.rs", "filter-user/src/control.rs"),
            ("clap", "filter-user/src/cli/run.rs", "filter-user/src/daemon.rs"),
            ("clap", "filter-user/src/main.rs", "filter-user/src/lib.rs"),
            ("pulldown_cmark", "filter-user/src/document/page.rs", "filter-user/src/cli.rs"),
        ] {
            let message = format!("{name} doesn't belong here");
            for text in [format!("use {name}::X;"), format!("fn f() {{ {name}::g() }}")] {
                good(place, &text);
                bad(elsewhere, &text, &message);
            }
            bad(elsewhere, &format!("use {{std::fmt, {name}::X}};"), &message);
            good(elsewhere, &format!("// use {name}::X;\nconst A: &str = \"{name}::X\";"));
            good(elsewhere, &format!("use crate::{name}x::Y; fn {name}() {{}}"));
        }
    }

    #[test]
    fn crates_of_ours_depend_one_way() {
        bad("filter-common/src/wire.rs", "use filter_user::policy;", "filter-common may not");
        bad("filter-ebpf/src/main.rs", "use filter_user::policy;", "filter-ebpf may not");
        bad("filter-user/src/lib.rs", "use sluice_lab::x;", "filter-user may not");
        bad("xtask/src/main.rs", "use filter_common::wire;", "xtask may not");
        good("filter-ebpf/src/main.rs", "use filter_common::decide;");
        good("tests/src/lib.rs", "use filter_user::policy; use sluice_lab::x;");
    }

    #[test]
    fn modules_depend_one_way() {
        for (module, target) in [
            ("document", "policy"),
            ("policy", "names"),
            ("policy", "compile"),
            ("names", "compile"),
            ("compile", "kernel"),
            ("dns", "compile"),
            ("kernel", "daemon"),
            ("control", "daemon"),
            ("control", "cli"),
            ("daemon", "cli"),
        ] {
            let message = format!("`{module}` may not import `{target}`");
            let path = format!("filter-user/src/{module}.rs");
            bad(&path, &format!("use crate::{target}::X;"), &message);
            bad(&path, &format!("use crate::{{self, {target}}};"), &message);
            bad(&path, &format!("fn f() {{ super::{target}::g() }}"), &message);
            let below = format!("filter-user/src/{module}/x/y.rs");
            bad(&below, &format!("use super::super::super::{target};"), &message);
            good(&below, &format!("use super::super::{target};"));
            good(&path, &format!("#[cfg(test)] mod tests {{ use crate::{target}; }}"));
            if module != "document" {
                good(&format!("filter-user/src/{target}.rs"), "use crate::policy::X;");
            }
        }
        good("filter-user/src/main.rs", "use filter_user::cli;");
        good("filter-user/src/cli/run.rs", "use crate::daemon;");
        good("filter-user/src/kernel.rs", "use crate::{compile::Tables, policy::Policy};");
    }

    #[test]
    fn modules_that_are_only_for_tests_are_free() {
        let user = "use crate::cli; fn f() { Instant::now() }";
        for (declared, path) in [
            ("filter-user/src/names.rs", "filter-user/src/names/properties.rs"),
            ("filter-user/src/names.rs", "filter-user/src/names/properties/model.rs"),
            ("filter-user/src/lib.rs", "filter-user/src/properties.rs"),
        ] {
            let files = [(declared, "#[cfg(test)]\nmod properties;"), (path, user)];
            assert_eq!(said(check, &files), Vec::<String>::new());
            let files = [(declared, "mod properties;"), (path, user)];
            assert_ne!(said(check, &files), Vec::<String>::new());
        }
    }

    #[test]
    fn a_new_module_needs_a_row() {
        bad("filter-user/src/misc/x.rs", "", "misc isn't in tidy's table");
    }

    #[test]
    fn pure_modules_touch_nothing() {
        for module in ["document", "policy", "names", "compile"] {
            let path = format!("filter-user/src/{module}/x.rs");
            for (text, message) in [
                ("use tokio::time;", "no tokio"),
                ("#[tokio::main] async fn f() {}", "no tokio"),
                ("use std::{fmt, fs};", "no std::fs"),
                ("fn f() { std::fs::read(x) }", "no std::fs"),
                ("use std::net::{IpAddr, UdpSocket};", "no std::net::UdpSocket"),
                ("use std::os::unix::net::UnixStream;", "no std::os::unix::net"),
                ("use std::process::Command;", "no std::process"),
                ("use nix::unistd;", "no nix"),
                ("fn f() { Instant::now() }", "reads no clock"),
                ("fn f() { std::time::SystemTime::now() }", "reads no clock"),
                ("fn f() { start.elapsed() }", "reads no clock"),
            ] {
                bad(&path, text, message);
                good(&path, &format!("#[cfg(test)] mod tests {{ {text} }}"));
            }
            good(&path, "use std::{net::{IpAddr, SocketAddr}, time::{Duration, Instant}};");
        }
        good("filter-user/src/daemon.rs", "use std::time::Instant; fn f() { Instant::now() }");
        good(READS_FILES, "use std::fs;");
        bad(READS_FILES, "use std::net::UdpSocket;", "UdpSocket");
    }

    #[test]
    fn xtask_stays_small() {
        let path = "xtask/Cargo.toml";
        good(
            path,
            "[package]\nname = \"x\"\n[dependencies]\nanyhow.workspace = true\nclap = \"4\"\n",
        );
        bad(path, "[dependencies]\nserde = \"1\"\n", "xtask may not depend on serde");
        bad(path, "[dev-dependencies]\ntempfile.workspace = true\n", "tempfile");
        good(path, "[dependencies]\n# why\n\n[lints]\nworkspace = true\n");
    }
}
