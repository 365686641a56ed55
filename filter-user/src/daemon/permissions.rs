// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who else could change what the gateway does: by the configuration's files, or by the socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::policy::load::{GATEWAY_FILE, POLICY_FOLDER, policy_files};

/// The bit by which everybody may write.
const OTHERS_WRITE: u32 = 0o002;
/// The bits by which everybody may do anything.
const OTHERS: u32 = 0o007;

/// Refuses a configuration that somebody else than root, or whom the daemon runs as, may change.
///
/// # Errors
///
/// Which file, and how to mend it. What can't be read is left to who reads it.
pub(super) fn check_configuration(directory: &Path) -> Result<()> {
    let folder = directory.join(POLICY_FOLDER);
    let mut files: Vec<PathBuf> =
        vec![directory.to_owned(), directory.join(GATEWAY_FILE), folder.clone()];
    if let Ok(names) = policy_files(&folder) {
        files.extend(names.into_iter().map(|name| folder.join(name)));
    }
    for path in files {
        let Ok(found) = fs::metadata(&path) else { continue };
        let path = path.display();
        let owner = found.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            bail!(
                "{path} belongs to user {owner}, who could change the policy; `chown root {path}`"
            );
        }
        if found.permissions().mode() & OTHERS_WRITE != 0 {
            bail!("{path} may be written by everybody; `chmod o-w {path}`");
        }
    }
    Ok(())
}

/// Why the socket isn't as it was made, if so.
pub(super) fn socket_problem(path: &Path) -> Option<String> {
    let shown = path.display();
    let mode = match fs::metadata(path).context("it is gone") {
        Ok(found) => found.permissions().mode(),
        Err(_) => {
            return Some(format!(
                "the control socket {shown} is gone; a restart of the daemon makes it anew"
            ));
        }
    };
    (mode & OTHERS != 0).then(|| {
        format!("the control socket {shown} may be opened by everybody; `chmod o= {shown}`")
    })
}
