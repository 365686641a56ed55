// SPDX-License-Identifier: MIT OR Apache-2.0
//! Putting a file in another one's place, so that there is never half a file.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
    process,
};

use anyhow::{Context as _, bail};

/// Writes beside the file and renames. A link stays one: what it points to is replaced. An
/// existing file's permissions and owner are kept.
pub(super) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.is_symlink() {
                bail!("it is a link to a file that isn't there; remove it, or name the file");
            }
            path.to_owned()
        }
        Err(error) => return Err(error.into()),
    };
    let old = match fs::metadata(&path) {
        Ok(old) if old.is_dir() => bail!("it is a directory; name a file in it"),
        Ok(old) if !old.is_file() => {
            // A pipe or a device is written to; a file in its place would be in the way.
            let mut file = fs::OpenOptions::new().write(true).open(&path)?;
            return Ok(file.write_all(text.as_bytes())?);
        }
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let Some(name) = path.file_name() else { bail!("this is no file name") };
    // What begins with a dot is never taken for a policy file.
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", process::id()));
    let beside = path.with_file_name(beside);
    let written = fs::File::create_new(&beside).and_then(|mut file| {
        if let Some(old) = &old {
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                chown(&beside, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    if written.is_err() {
        // What went wrong is reported; that the rest stays behind would only hide it.
        let _ = fs::remove_file(&beside);
    }
    written.context("nothing was changed")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_a_link_and_its_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        replace(&file, "one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link.toml");
        symlink("policy.toml", &link).unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let dangling = directory.path().join("dangling");
        symlink("nowhere", &dangling).unwrap();
        for path in [directory.path(), &dangling, &directory.path().join("no/such/file")] {
            assert!(replace(path, "text").is_err(), "{}", path.display());
        }
        assert!(dangling.is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
