// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policies that were in force, so that one can go back to them.
//!
//! Each is a copy of its files in `policies/N` of the state directory, with `record.json` beside
//! them, which holds their digests. A policy is read from its copy, so that what is kept is what was
//! in force, whatever became of the files since. `current.json` names the last one, and says whether the
//! next start goes on with the copy or with the configuration directory.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    seal::{seal, sha256, unseal},
    state::{Saved, StateDirectory},
};
use crate::policy::load::{GATEWAY_FILE, Loaded, MAX_FILE, POLICY_FOLDER, load_copy, policy_files};

/// How many policies are kept.
pub(super) const KEPT: usize = 20;

/// The version of a record's layout.
const LAYOUT: u32 = 1;
const FOLDER: &str = "policies";
const INCOMING: &str = "incoming";
const RECORD: &str = "record.json";
const CURRENT: &str = "current.json";

/// The policies that are kept.
#[derive(Clone, Debug)]
pub(super) struct History {
    folder: PathBuf,
    current: Option<Current>,
}

/// Which policy is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    number: u64,
    next_start: NextStart,
}

/// What the next start reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NextStart {
    /// The configuration directory.
    Configuration,
    /// The copy of the policy that was applied.
    Copy,
}

/// What is known of a policy beside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// When it came, in seconds since the epoch.
    pub(super) since: u64,
    /// `start`, `reload`, `apply` or `rollback`.
    pub(super) how: String,
    /// The directory that it came from.
    pub(super) from: PathBuf,
    /// Who wanted it.
    pub(super) by: String,
    /// How many rules it has.
    pub(super) rules: usize,
    /// The digest of each file.
    digests: BTreeMap<String, String>,
}

/// What files are taken in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// They are to be put in force.
    Incoming,
    /// They are only looked at, maybe while others wait to be confirmed.
    Preview,
}

impl Place {
    fn folder(self) -> &'static str {
        match self {
            Self::Incoming => INCOMING,
            Self::Preview => "preview",
        }
    }
}

/// Files that may become a policy.
#[derive(Debug)]
pub(super) struct Incoming {
    folder: PathBuf,
    /// What relative paths in them are relative to.
    from: PathBuf,
    digests: BTreeMap<String, String>,
    /// The length of all files together.
    bytes: u64,
}

// === impl History ===

impl History {
    /// Opens the history; what can't be used of it is told.
    pub(super) fn open(state: &StateDirectory) -> (Self, Option<String>) {
        let folder = state.path().join(FOLDER);
        let (current, complaint) = match state.load::<Current>(CURRENT) {
            Saved::Found(current) => (Some(current), None),
            Saved::Missing => (None, None),
            Saved::Unusable(why) => (
                None,
                Some(format!("{why}; the policy is that of the configuration directory again")),
            ),
        };
        (Self { folder, current }, complaint)
    }

    /// The policy that the next start goes on with, if that isn't the configuration directory's.
    pub(super) fn applied(&self) -> Option<u64> {
        let current = self.current?;
        (current.next_start == NextStart::Copy).then_some(current.number)
    }

    /// The number of the last policy.
    pub(super) fn current(&self) -> Option<u64> {
        Some(self.current?.number)
    }

    /// Takes a copy of a configuration directory.
    ///
    /// # Errors
    ///
    /// A file can't be read or written.
    pub(super) fn copy(&self, directory: &Path) -> Result<Incoming> {
        let mut incoming = self.begin(directory, INCOMING)?;
        let mut take = |name: &str, path: &Path| -> Result<()> {
            let complaint = || format!("{} can't be read", path.display());
            let found = fs::metadata(path).with_context(complaint)?;
            // What reads the policy says so better.
            ensure!(found.is_file() && found.len() <= MAX_FILE, "{}", complaint());
            incoming.put(name, &fs::read(path).with_context(complaint)?)
        };
        take(GATEWAY_FILE, &directory.join(GATEWAY_FILE))?;
        for name in policy_files(&directory.join(POLICY_FOLDER))? {
            let path = directory.join(POLICY_FOLDER).join(&name);
            let name = name.to_str().with_context(|| format!("{} is no text", path.display()))?;
            take(&format!("{POLICY_FOLDER}/{name}"), &path)?;
        }
        Ok(incoming)
    }

    /// Takes files in that a client sent.
    ///
    /// # Errors
    ///
    /// A name is none of a configuration's, or a file can't be written.
    pub(super) fn take(
        &self,
        files: &BTreeMap<String, String>,
        from: &Path,
        place: Place,
    ) -> Result<Incoming> {
        for name in files.keys() {
            let plain = name.strip_prefix(POLICY_FOLDER).and_then(|rest| rest.strip_prefix('/'));
            let is_policy = plain.is_some_and(|file| {
                file.len() > ".toml".len()
                    && file.ends_with(".toml")
                    && !file.starts_with('.')
                    && !file.contains(['/', '\0'])
            });
            ensure!(
                is_policy || name == GATEWAY_FILE,
                "{name:?} is no file of a configuration; those are {GATEWAY_FILE} and \
                 {POLICY_FOLDER}/NAME.toml"
            );
        }
        let mut incoming = self.begin(from, place.folder())?;
        files.iter().try_for_each(|(name, text)| incoming.put(name, text.as_bytes()))?;
        Ok(incoming)
    }

    fn begin(&self, from: &Path, place: &str) -> Result<Incoming> {
        let folder = self.folder.join(place);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("{} can't be removed", folder.display()))?;
        }
        fs::create_dir_all(folder.join(POLICY_FOLDER))
            .with_context(|| format!("{} can't be made", folder.display()))?;
        Ok(Incoming { folder, from: from.to_owned(), digests: BTreeMap::new(), bytes: 0 })
    }

    /// Keeps what has just been put in force, and gives its number. Files that are those of the last
    /// policy get no new one.
    ///
    /// # Errors
    ///
    /// A file can't be written; the policy is in force all the same.
    pub(super) fn keep(
        &mut self,
        state: &StateDirectory,
        incoming: Incoming,
        how: &str,
        (by, since, rules): (&str, u64, usize),
        next_start: NextStart,
    ) -> Result<u64> {
        let last = self
            .current
            .and_then(|current| Some((current.number, self.record(current.number).ok()?)));
        let number = match last {
            Some((number, record))
                if record.digests == incoming.digests && record.from == incoming.from =>
            {
                number
            }
            _ => self.keep_new(incoming, how, (by, since, rules))?,
        };
        self.set_current(state, number, next_start)?;
        Ok(number)
    }

    fn keep_new(
        &self,
        incoming: Incoming,
        how: &str,
        (by, since, rules): (&str, u64, usize),
    ) -> Result<u64> {
        let numbers = self.numbers()?;
        let number = numbers.last().map_or(1, |last| last + 1);
        let Incoming { folder, from, digests, bytes: _ } = incoming;
        let record = Record { since, how: how.to_owned(), from, by: by.to_owned(), rules, digests };
        let text = seal(RECORD, LAYOUT, &serde_json::to_vec(&record)?);
        let place = self.folder.join(number.to_string());
        fs::write(folder.join(RECORD), text)
            .and_then(|()| fs::rename(&folder, &place))
            .with_context(|| format!("{} can't be written", place.display()))?;
        let kept = numbers.len() + 1;
        for old in numbers.into_iter().take(kept.saturating_sub(KEPT)) {
            let old = self.folder.join(old.to_string());
            fs::remove_dir_all(&old)
                .with_context(|| format!("{} can't be removed", old.display()))?;
        }
        Ok(number)
    }

    /// Makes a policy of the history the last one again.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub(super) fn set_current(
        &mut self,
        state: &StateDirectory,
        number: u64,
        next_start: NextStart,
    ) -> Result<()> {
        let current = Current { number, next_start };
        if self.current != Some(current) {
            state.save(CURRENT, &current)?;
            self.current = Some(current);
        }
        Ok(())
    }

    /// A policy of the history.
    ///
    /// # Errors
    ///
    /// It isn't there, isn't as it was kept, or doesn't hold any more.
    pub(super) fn load(&self, number: u64) -> Result<Loaded> {
        let record = self.record(number)?;
        let folder = self.folder.join(number.to_string());
        let mut found = BTreeMap::new();
        for name in record.digests.keys() {
            let path = folder.join(name);
            let text =
                fs::read(&path).with_context(|| format!("{} can't be read", path.display()))?;
            found.insert(name.clone(), sha256(&text));
        }
        let files = policy_files(&folder.join(POLICY_FOLDER))?.len() + 1;
        ensure!(
            found == record.digests && files == found.len(),
            "the files in {} are not those that were kept",
            folder.display()
        );
        load_copy(&folder, &record.from)
            .map_err(|errors| anyhow!("policy {number} of the history is broken by now:\n{errors}"))
    }

    /// What is known of a policy.
    ///
    /// # Errors
    ///
    /// It isn't there, or isn't as it was kept.
    pub(super) fn record(&self, number: u64) -> Result<Record> {
        let path = self.folder.join(number.to_string()).join(RECORD);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "there is no policy {number} in the history; `sluice rollback --list` has all"
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{} can't be read", path.display()));
            }
        };
        let complaint = || format!("{} can't be understood", path.display());
        let text = unseal(RECORD, LAYOUT, &bytes).with_context(complaint)?;
        serde_json::from_slice(text).with_context(complaint)
    }

    /// The one before the last.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(super) fn previous(&self) -> Result<u64> {
        let current = self.current.context("no policy is kept yet")?;
        let before = self.numbers()?.into_iter().rfind(|number| *number < current.number);
        before.context("there is no earlier policy in the history")
    }

    /// Every policy that is kept, the newest first.
    ///
    /// # Errors
    ///
    /// The folder can't be read.
    pub(super) fn list(&self) -> Result<Vec<(u64, Result<Record>)>> {
        let numbers = self.numbers()?;
        Ok(numbers.into_iter().rev().map(|number| (number, self.record(number))).collect())
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{} can't be read", self.folder.display()));
            }
        };
        let mut numbers = Vec::new();
        for entry in entries {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

// === impl Incoming ===

impl Incoming {
    fn put(&mut self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
        self.digests.insert(name.to_owned(), sha256(text));
        self.bytes += u64::try_from(text.len())?;
        Ok(())
    }

    /// The length of all files together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the files as a policy.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(super) fn load(&self) -> Result<Loaded, crate::policy::load::LoadErrors> {
        load_copy(&self.folder, &self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = "[gateway]\ninside = [\"eth1\"]\noutside = []\n";

    fn files(name: &str) -> BTreeMap<String, String> {
        let rule = format!("[[rule]]\nname = \"{name}\"\nto = [\"8.8.8.8\"]\ntcp = [443]\n");
        [(GATEWAY_FILE.to_owned(), GATEWAY.to_owned()), ("policy.d/a.toml".to_owned(), rule)].into()
    }

    fn keep(history: &mut History, state: &StateDirectory, name: &str) -> u64 {
        let incoming = history.take(&files(name), Path::new("/etc/x"), Place::Incoming).unwrap();
        incoming.load().unwrap();
        history.keep(state, incoming, "apply", ("root", 1, 1), NextStart::Copy).unwrap()
    }

    fn rule(history: &History, number: u64) -> String {
        history.load(number).unwrap().policy.rules[0].name.to_string()
    }

    #[test]
    fn policies_are_kept_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::create(directory.path()).unwrap();
        let (mut history, complaint) = History::open(&state);
        assert_eq!((complaint, history.current(), history.applied()), (None, None, None));
        assert!(history.previous().is_err());
        assert_eq!(keep(&mut history, &state, "one"), 1);
        assert_eq!(keep(&mut history, &state, "one"), 1, "the same policy again");
        assert_eq!(keep(&mut history, &state, "two"), 2);
        assert_eq!(history.previous().unwrap(), 1);
        assert_eq!(rule(&history, 1), "one");
        history.set_current(&state, 1, NextStart::Configuration).unwrap();

        let (mut history, complaint) = History::open(&state);
        assert_eq!((complaint, history.current(), history.applied()), (None, Some(1), None));
        for number in 3..=30 {
            assert_eq!(keep(&mut history, &state, &format!("rule-{number}")), number);
        }
        let list = history.list().unwrap();
        assert_eq!(list.len(), KEPT);
        assert_eq!(list.first().unwrap().0, 30);
        assert_eq!(rule(&history, 11), "rule-11");
        assert!(history.load(10).unwrap_err().to_string().contains("there is no policy 10"));
    }

    #[test]
    fn a_preview_leaves_alone_what_waits_to_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::create(directory.path()).unwrap();
        let (mut history, _) = History::open(&state);
        let from = Path::new("/etc/x");
        let waiting = history.take(&files("one"), from, Place::Incoming).unwrap();
        history.take(&files("two"), from, Place::Preview).unwrap();
        history.keep(&state, waiting, "apply", ("root", 1, 1), NextStart::Copy).unwrap();
        assert_eq!(rule(&history, 1), "one");
    }

    #[test]
    fn what_was_changed_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::create(directory.path()).unwrap();
        let (mut history, _) = History::open(&state);
        keep(&mut history, &state, "one");
        let folder = directory.path().join(FOLDER).join("1");
        let spoil = |file: &Path, how: &dyn Fn(&mut Vec<u8>)| {
            let whole = fs::read(file).unwrap();
            let mut changed = whole.clone();
            how(&mut changed);
            fs::write(file, changed).unwrap();
            let result = history.load(1);
            fs::write(file, whole).unwrap();
            result.is_err()
        };
        let (policy, record) = (folder.join("policy.d/a.toml"), folder.join(RECORD));
        assert!(spoil(&policy, &|text| text.extend(b"\n")));
        assert!(spoil(&record, &|text| text.truncate(text.len() - 1)));
        assert!(spoil(&record, &|text| *text.last_mut().unwrap() ^= 1));
        fs::write(folder.join("policy.d/b.toml"), "").unwrap();
        assert!(history.load(1).is_err());
        fs::remove_file(folder.join("policy.d/b.toml")).unwrap();
        assert!(history.load(1).is_ok());

        let current = directory.path().join(CURRENT);
        let whole = fs::read(&current).unwrap();
        for length in 0..whole.len() {
            fs::write(&current, &whole[..length]).unwrap();
            let (history, complaint) = History::open(&state);
            assert!(complaint.unwrap().contains("configuration directory"), "cut at {length}");
            assert_eq!(history.applied(), None);
        }
    }

    #[test]
    fn files_go_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::create(directory.path()).unwrap();
        let (history, _) = History::open(&state);
        for name in
            ["/etc/passwd", "../x.toml", "policy.d/../x.toml", "policy.d/.toml", "policy.d/a", ""]
        {
            let files = [(name.to_owned(), String::new())].into();
            let error =
                history.take(&files, Path::new("/"), Place::Incoming).unwrap_err().to_string();
            assert!(error.contains("no file of a configuration"), "{name}: {error}");
        }
    }
}
