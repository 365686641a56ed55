// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of a guest, as the archive (cpio, "newc") that a kernel unpacks into its first file
//! system. The same files give the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// What the guest needs beside what is built into the kernels.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// An archive in the making.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// Makes the archive for the kernel that is unpacked in `tree`.
pub(super) fn build(tree: &Path, program: &Path, cases: &Path) -> Result<Vec<u8>> {
    let busybox = paths::program("busybox").context("busybox is gone")?;
    let mut archive = Archive::default();
    for directory in ["bin", "cases", "dev", "modules", "proc", "sys", "tmp"] {
        archive.add(directory, DIRECTORY, &[])?;
    }
    archive.add("init", PROGRAM, &read(&paths::root()?.join("tests/guest/init"))?)?;
    archive.add("bin/busybox", PROGRAM, &read(&busybox)?)?;
    archive.add("bin/sh", LINK, b"busybox")?;
    archive.add("bin/sluice-guest", PROGRAM, &read(program)?)?;
    for path in case_files(cases)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("cases/{name}"), FILE, &read(&path)?)?;
    }
    // `init` inserts them in the order of their names.
    for (number, (name, content)) in modules(tree)?.into_iter().enumerate() {
        archive.add(&format!("modules/{number:02}-{name}.ko"), FILE, &content)?;
    }
    archive.add("TRAILER!!!", 0, &[])?;
    Ok(archive.bytes)
}

/// The files of the case table.
pub(super) fn case_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        directory.read_dir().with_context(|| format!("{} can't be read", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The modules with what they need, each after that.
fn modules(tree: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut directories = vec![tree.join("lib/modules")];
    while let Some(directory) = directories.pop() {
        let entries = directory
            .read_dir()
            .with_context(|| format!("{} can't be read", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    let mut modules = Vec::new();
    for name in MODULES {
        add_module(name, &files, &mut modules)?;
    }
    Ok(modules)
}

/// The kernel refuses modules that need each other in a circle, so this comes to an end.
fn add_module(name: &str, files: &[PathBuf], modules: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    if modules.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let is_it = |path: &&PathBuf| module_name(path).as_deref() == Some(name);
    let path = files.iter().find(is_it).with_context(|| format!("there is no module {name}"))?;
    let content = if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output();
        let output = output.context("xz can't be started")?;
        if !output.status.success() {
            bail!("{} can't be unpacked", path.display());
        }
        output.stdout
    } else {
        read(path)?
    };
    for needed in needs(&content) {
        add_module(&needed, files, modules)?;
    }
    modules.push((name.to_owned(), content));
    Ok(())
}

/// The name by which modules call each other, from a file `NAME.ko` or `NAME.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// What a module needs: a list with commas behind `depends=`, between two zero bytes.
fn needs(module: &[u8]) -> Vec<String> {
    let fields = module.split(|byte| *byte == 0);
    let lists = fields.filter_map(|field| field.strip_prefix(b"depends="));
    let list = lists.map(String::from_utf8_lossy).next().unwrap_or_default();
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} can't be read", path.display()))
}

// === impl Archive ===

impl Archive {
    /// Adds an entry, owned by root and of the year 1970.
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file is too big for the archive")?;
        let name_size = u32::try_from(name.len() + 1)?;
        self.bytes.extend_from_slice(b"070701");
        // Number, mode, user, group, links, time, size, two devices of two numbers, check sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_headers_and_stand_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"abcde").unwrap();
        archive.add("TRAILER!!!", 0, &[]).unwrap();
        let text = String::from_utf8(archive.bytes).unwrap();
        // The form is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
        let first = "070701\
                     00000001000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
                     0000000500000000init\0\0abcde\0\0\0";
        assert_eq!(&text[..first.len()], first);
        assert!(text[first.len()..].starts_with("07070100000002"));
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn modules_say_what_they_need() {
        assert_eq!(needs(b"\x7fELF\0license=GPL\0depends=llc,x-y\0name=z\0"), ["llc", "x_y"]);
        assert_eq!(needs(b"\0depends=\0"), [""; 0]);
        assert_eq!(module_name(Path::new("/m/nf-x.ko.xz")).as_deref(), Some("nf_x"));
        assert_eq!(module_name(Path::new("/m/modules.dep")), None);
    }
}
