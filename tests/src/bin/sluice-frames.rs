// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames as files, one each, as fuzzing reads them: `sluice-frames CAPTURE... -o DIR` takes them
//! out of pcap and pcapng files, `sluice-frames --seeds -o DIR` writes our own.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use sluice_lab::{captures, seeds::seeds};

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let done = match arguments.as_slice() {
        [inputs @ .., option, directory] if option == Path::new("-o") && !inputs.is_empty() => {
            match inputs {
                [seeds] if seeds == Path::new("--seeds") => write_seeds(directory),
                captures => write_captures(captures, directory),
            }
        }
        _ => {
            eprintln!(
                "usage: sluice-frames CAPTURE... -o DIR\n       sluice-frames --seeds -o DIR"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-frames: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_seeds(directory: &Path) -> Result<()> {
    for seed in seeds() {
        write(directory, seed.name, &seed.frame)?;
    }
    Ok(())
}

fn write_captures(captures: &[PathBuf], directory: &Path) -> Result<()> {
    for path in captures {
        let file = fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
        let capture =
            captures::read(&file).with_context(|| format!("{} is no capture", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for (number, frame) in (1..).zip(&capture.frames) {
            write(directory, &format!("{stem}-{number:04}"), frame)?;
        }
        let others = match capture.left_out {
            0 => String::new(),
            packets => format!(", {packets} packets not of Ethernet left out"),
        };
        println!("{}: {} frames{others}", path.display(), capture.frames.len());
    }
    Ok(())
}

fn write(directory: &Path, name: &str, frame: &[u8]) -> Result<()> {
    let path = directory.join(name);
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&path, frame))
        .with_context(|| format!("{} can't be written", path.display()))
}
