// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands that build something of the lab and then become it: demo, benchmarks, fuzzing.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{paths, process, setup};

/// Builds everything for release and becomes the demo.
pub(crate) fn demo(arguments: &[OsString]) -> Result<ExitCode> {
    let program = build("sluice-demo")?;
    Err(process::become_program(Command::new(program).args(arguments)))
}

/// Names a build with another layout of the tables to the lab.
pub(crate) const NEXT_LAYOUT: &str = "SLUICE_NEXT_LAYOUT_BIN";

/// How something is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

/// Builds everything for release and becomes a benchmark.
pub(crate) fn bench(name: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let mut next = None;
    if name == "gap" {
        next = Some(next_layout(Profile::Release)?);
    }
    let program = build("sluice-bench")?;
    let mut command = Command::new(program);
    command.arg(name).args(arguments);
    if let Some(next) = next {
        command.env(NEXT_LAYOUT, next);
    }
    Err(process::become_program(&mut command))
}

/// Builds `sluice` with another layout of its tables, for the lab to upgrade to, and gives its path. It is built
/// where the usual one is, so that what both depend on is built once; who needs that one builds it afterwards.
pub(crate) fn next_layout(profile: Profile) -> Result<PathBuf> {
    let (options, folder): (&[&str], _) = match profile {
        Profile::Debug => (&[], "debug"),
        Profile::Release => (&["--release"], "release"),
    };
    let mut command = process::cargo()?;
    command.args(["build", "--locked", "--package", "filter-user", "--bin", "sluice"]);
    command.args(["--features", "next-layout"]).args(options);
    if !process::run(&mut command)?.success() {
        bail!("the build with the next layout failed");
    }
    let target = paths::target()?;
    let place = target.join("next-layout").join(folder);
    fs::create_dir_all(&place)?;
    let path = place.join("sluice");
    // Over a binary that runs, nothing can be written.
    let fresh = place.join("sluice.new");
    fs::copy(target.join(folder).join("sluice"), &fresh)?;
    fs::rename(&fresh, &path)?;
    Ok(path)
}

/// Runs a fuzz target for some time; new inputs go to `tests/fuzz/corpus/TARGET`.
pub(crate) fn fuzz(target: &str, seconds: u32, further: &[PathBuf]) -> Result<ExitCode> {
    let root = paths::root()?;
    let directory = root.join("tests/fuzz");
    if !directory.join("Cargo.toml").exists() {
        bail!("{} is missing: there is nothing to fuzz", directory.join("Cargo.toml").display());
    }
    let tool = setup::cargo_fuzz()?;
    let mut corpora = vec![directory.join("corpus").join(target)];
    for corpus in further {
        if !corpus.is_dir() {
            bail!("--corpus {}: no such directory", corpus.display());
        }
        corpora.push(fs::canonicalize(corpus)?);
    }
    let corpus = corpora.first().context("a fuzz run needs a corpus")?;
    fs::create_dir_all(corpus).with_context(|| format!("{} can't be made", corpus.display()))?;
    match target {
        // Its inputs are frames.
        "decide" => {
            corpora.push(directory.join("seeds"));
            corpora.extend(captured_frames(&root, &directory)?);
        }
        "import" => corpora.push(directory.join("import-seeds")),
        _ => {}
    }
    Err(process::become_program(&mut fuzz_command(&tool, &directory, target, seconds, &corpora)?))
}

/// The frames of other people's captures, as files, where captures lie beside the repository.
fn captured_frames(root: &Path, directory: &Path) -> Result<Option<PathBuf>> {
    let captures = root.join("../shared/pcaps");
    if !captures.is_dir() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in captures.read_dir().context("the captures can't be read")? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "pcap" || kind == "pcapng") {
            files.push(path);
        }
    }
    files.sort();
    let frames = directory.join("corpus/decide-pcaps");
    let mut command = process::cargo()?;
    command.args(["run", "--locked", "--quiet", "--package", "sluice-lab"]);
    command.args(["--bin", "sluice-frames", "--"]).args(files).arg("-o").arg(&frames);
    if !process::run(&mut command)?.success() {
        bail!("the captures in {} can't be taken apart", captures.display());
    }
    Ok(Some(frames))
}

/// The filter has no `unsafe`, so no sanitizer: the run is several times faster, and a compiler
/// without the sanitizers' libraries can do it. `RUSTC_BOOTSTRAP` lets the stable one.
fn fuzz_command(
    tool: &Path,
    directory: &Path,
    target: &str,
    seconds: u32,
    corpora: &[PathBuf],
) -> Result<Command> {
    // cargo-fuzz calls cargo by itself; the environment is what matters of this one.
    let clean = process::cargo()?;
    let mut command = Command::new(tool);
    for (name, value) in clean.get_envs() {
        if value.is_none() {
            command.env_remove(name);
        }
    }
    command
        .current_dir(paths::root()?)
        .env("RUSTC_BOOTSTRAP", "1")
        // What is built with instrumentation is of no use to anything else.
        .env("CARGO_TARGET_DIR", directory.join("target"))
        .args(["run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(directory)
        .arg(target)
        .args(corpora)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"));
    Ok(command)
}

fn build(program: &str) -> Result<PathBuf> {
    let status = process::run(process::cargo()?.args([
        "build",
        "--locked",
        "--release",
        "--package",
        "filter-user",
        "--package",
        "sluice-lab",
    ]))?;
    if !status.success() {
        bail!("the build failed");
    }
    let path = paths::target()?.join("release").join(program);
    if !path.exists() {
        bail!("the build left no {}: is it still a binary of the lab's crate?", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuzz_run_is_bounded_and_reads_every_corpus() {
        let corpora = [PathBuf::from("/r/corpus/decide"), PathBuf::from("/pcaps")];
        let command =
            fuzz_command(Path::new("/c/cargo-fuzz"), Path::new("/r"), "decide", 5, &corpora)
                .unwrap();
        let arguments: Vec<_> = command.get_args().map(|text| text.to_string_lossy()).collect();
        assert_eq!(
            arguments.join(" "),
            "run --sanitizer none --fuzz-dir /r decide /r/corpus/decide /pcaps -- \
             -max_total_time=5"
        );
    }
}
