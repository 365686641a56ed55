// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: finds what the build and the tests need, and installs what is missing.
//!
//! Each thing is an [`Item`] that can tell whether it is there. Installing looks again under a
//! lock first, so it can run twice, or in several checkouts at once.

mod kernels;
mod machine;
mod packages;
mod toolchain;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result};

pub(crate) use self::kernels::{Guests, Kernel, guests};
use crate::{paths, process};

/// What a command can't do without. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Nothing: what is missing is only told.
    Nothing,
    /// The compilers.
    Build,
    /// The programs that the lab runs.
    Lab,
    /// Other kernels, and what boots them. No command insists on it here: the stage that boots
    /// them tells apart what is missing from what can't be had on this machine.
    Guests,
    /// What the running kernel should offer. No command insists on it here: the tests that need
    /// it say so themselves, with what they were about to do.
    Kernel,
}

/// One thing that has to be there.
struct Item {
    name: &'static str,
    need: Need,
    look: fn() -> Result<State>,
    remedy: Remedy,
}

/// How things stand with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It is there; the text says what was found.
    Found(String),
    /// It isn't; the text says what is missing and what for.
    Missing(String),
}

/// How an item comes to be there.
#[derive(Clone, Copy)]
enum Remedy {
    /// A Debian package; all missing ones are installed in one go.
    Package(&'static str),
    /// By a function of ours, which returns what has to be done by hand if it can't.
    Install(fn() -> Result<Outcome>),
    /// Not by us.
    Advice(&'static str),
}

/// How an installation went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It should be there now.
    Installed,
    /// It has to be done by hand, with these commands.
    ByHand(Vec<String>),
}

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// A line for each item.
    All,
    /// What is changed, and what is missing.
    Changes,
}

/// `cargo xtask setup --check`.
pub(crate) fn check() -> Result<ExitCode> {
    let mut missing = 0_usize;
    for item in items() {
        let state = (item.look)()?;
        print_state(&item, &state);
        if let State::Missing(_) = state {
            missing += 1;
        }
    }
    if missing == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{missing} missing: `cargo xtask setup` installs what can be installed");
    Ok(ExitCode::FAILURE)
}

/// `cargo xtask setup`.
pub(crate) fn install() -> Result<ExitCode> {
    let missing = ensure(Output::All)?;
    Ok(if missing.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What every other command does first. Fails where something that the command needs is missing
/// and couldn't be installed.
pub(crate) fn prepare(need: Need) -> Result<()> {
    let Some(least) = ensure(Output::Changes)? else { return Ok(()) };
    if least <= need {
        anyhow::bail!("set-up is incomplete (see above); `cargo xtask setup --check` shows all");
    }
    Ok(())
}

/// cargo-fuzz, built into the cache the first time that somebody fuzzes.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    for compiler in ["c++", "cargo"] {
        paths::program(compiler).with_context(|| {
            format!("{compiler} is missing (libFuzzer is C++): apt-get install g++")
        })?;
    }
    let _lock = lock()?;
    toolchain::cargo_fuzz()
}

/// Everything that is needed, in the order in which it is installed.
fn items() -> Vec<Item> {
    let mut items = packages::items();
    items.extend(toolchain::items());
    items.extend(machine::items());
    items.extend(kernels::items());
    items
}

/// Installs what is missing. Returns the first need that is still not met.
fn ensure(output: Output) -> Result<Option<Need>> {
    let items = items();
    if output == Output::Changes {
        // The usual case takes no lock: another checkout may be at a long installation.
        let mut complete = true;
        for item in &items {
            complete &= matches!((item.look)()?, State::Found(_));
        }
        if complete {
            return Ok(None);
        }
    }
    let _lock = lock()?;
    let mut by_hand = install_packages(&items, output)?;
    let mut least: Option<Need> = None;
    for item in &items {
        let mut state = (item.look)()?;
        if let (State::Missing(what), Remedy::Install(remedy)) = (&state, item.remedy) {
            println!("{:<12}{}: {what}", "installing", item.name);
            if let Outcome::ByHand(commands) = remedy()? {
                by_hand.extend(commands);
            }
            state = (item.look)()?;
        }
        let missing = matches!(state, State::Missing(_));
        if missing || output == Output::All {
            print_state(item, &state);
        }
        if missing {
            least = Some(least.map_or(item.need, |least| least.min(item.need)));
            if let Remedy::Advice(advice) = item.remedy {
                by_hand.push(advice.to_owned());
            }
        }
    }
    if least.is_some() && !by_hand.is_empty() {
        by_hand.dedup();
        println!("To be done by hand, then run `cargo xtask setup` again:");
        for line in by_hand {
            println!("    {line}");
        }
    }
    Ok(least)
}

fn install_packages(items: &[Item], output: Output) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for item in items {
        let Remedy::Package(package) = item.remedy else { continue };
        if let State::Missing(what) = (item.look)()? {
            missing.push(package);
            if output == Output::All || packages::can_install()? {
                println!("{:<12}{}: {what}", "installing", item.name);
            }
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    match packages::install(&missing)? {
        Outcome::Installed => Ok(Vec::new()),
        Outcome::ByHand(commands) => Ok(commands),
    }
}

fn print_state(item: &Item, state: &State) {
    match state {
        State::Found(what) => println!("{:<12}{}: {what}", "ok", item.name),
        State::Missing(what) => println!("{:<12}{}: {what}", "missing", item.name),
    }
}

/// One installation at a time per user, over all checkouts.
fn lock() -> Result<File> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("{} can't be made", cache.display()))?;
    let path = cache.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("{} can't be made", path.display()))?;
    if file.try_lock().is_err() {
        println!("{:<12}another set-up holds {}", "waiting", path.display());
        file.lock().with_context(|| format!("{} can't be locked", path.display()))?;
    }
    Ok(file)
}

/// Installs a tool from crates.io into a directory of the cache.
fn cargo_install(tool: &str, version: &str) -> Result<Outcome> {
    let directory = paths::cache()?.join(tool);
    let mut command = process::cargo()?;
    command.args(["install", "--locked", "--version", version, "--root"]).arg(&directory).arg(tool);
    // Settings for our own crates, which would only make the tool another one.
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    if process::run(&mut command)?.success() {
        return Ok(Outcome::Installed);
    }
    Ok(Outcome::ByHand(vec![format!(
        "cargo install --locked --version {version} --root {} {tool}",
        directory.display()
    )]))
}

/// The version of a tool in the cache, if it is there.
fn installed_version(tool: &str) -> Result<Option<String>> {
    let directory = paths::cache()?.join(tool);
    if !directory.join("bin").join(tool).exists() {
        return Ok(None);
    }
    let list = fs::read_to_string(directory.join(".crates.toml")).unwrap_or_default();
    Ok(version_in(&list, tool))
}

/// Cargo keeps a line `"tool 1.2.3 (registry+https://...)" = ["tool"]` for each installed tool.
fn version_in(list: &str, tool: &str) -> Option<String> {
    let start = format!("\"{tool} ");
    let line = list.lines().find_map(|line| line.strip_prefix(start.as_str()))?;
    Some(line.split(' ').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_installed_version_is_read_from_cargos_list() {
        let list = "[v1]\n\"bpf-linker 0.10.3 (registry+https://example.net/i)\" = [\"x\"]\n";
        assert_eq!(version_in(list, "bpf-linker").as_deref(), Some("0.10.3"));
        assert_eq!(version_in(list, "bpf"), None);
        assert_eq!(version_in("", "bpf-linker"), None);
    }

    #[test]
    fn each_item_has_a_name_of_its_own_and_can_be_looked_at() {
        let mut names = BTreeSet::new();
        for item in items() {
            assert!(names.insert(item.name), "{} stands there twice", item.name);
            (item.look)().unwrap();
        }
    }

    #[test]
    fn needs_are_ordered() {
        assert!(Need::Nothing < Need::Build && Need::Build < Need::Lab);
        assert!(Need::Lab < Need::Guests && Need::Guests < Need::Kernel);
    }
}
