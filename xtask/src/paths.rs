// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are: the repository, the per-user cache, cargo's output.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The root of the repository.
pub(crate) fn root() -> Result<PathBuf> {
    // `cargo run` says at run time where the package is, which also holds when one target
    // directory serves several checkouts.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = package.parent().context("the xtask crate has no parent directory")?;
    Ok(root.to_path_buf())
}

/// The per-user directory for tools that a fresh clone shouldn't have to build again.
/// `filter-user/build.rs` looks for bpf-linker in the same place.
pub(crate) fn cache() -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("sluice"))
}

/// Cargo's target directory, whichever setting it comes from.
pub(crate) fn target() -> Result<PathBuf> {
    let output = process::cargo()?
        .args(["metadata", "--locked", "--no-deps", "--format-version", "1"])
        .output()
        .context("cargo metadata can't be started")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata = String::from_utf8_lossy(&output.stdout);
    let path = json_string(&metadata, "target_directory")
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(path))
}

/// The first file of a name in the directories of `PATH` and in those of the system's
/// administration programs, which a plain user's `PATH` leaves out on Debian.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The value of the first string member with a key. Enough for cargo's one-line output, and no
/// reason for a JSON parser in a crate that a fresh clone has to build first.
fn json_string(json: &str, key: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{key}\":\""))?;
    let mut value = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(value),
            '\\' => value.push(characters.next()?),
            character => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_member_is_found_and_unescaped() {
        let json = r#"{"packages":[],"target_directory":"/a \"b\"/c","version":1}"#;
        assert_eq!(json_string(json, "target_directory").as_deref(), Some("/a \"b\"/c"));
        assert_eq!(json_string(json, "absent"), None);
        assert_eq!(json_string(r#"{"key":"unfinished"#, "key"), None);
    }

    #[test]
    fn a_program_is_found_and_a_wrong_name_is_not() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-anywhere").is_none());
    }
}
