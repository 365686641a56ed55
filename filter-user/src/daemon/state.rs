// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the daemon keeps on disk: which counter belongs to which rules, the addresses of names, and
//! what the modules beside this one keep. Each file is written beside and renamed, and tells whether
//! it is whole.
//!
//! The addresses of names change all the time, and a daemon that is killed must not forget those
//! that clients have been told. So each change is a line in a log, written before it is in force,
//! and once in a while all names are written anew: `names.json` says with which log to go on.
//! What is written has left the process; it isn't forced to the disk, as the tables in the kernel
//! don't outlive a power cut either.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::seal::{seal, seal_line, unseal, unseal_line};
use crate::{compile::CounterLedger, names};

/// Where state is unless the command line says otherwise.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/sluice";

/// The version of the files' layout.
const LAYOUT: u32 = 1;

/// The state directory, locked by this process.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    log: Log,
    _lock: File,
}

/// Where changes of names are noted.
#[derive(Debug, Default)]
struct Log {
    number: u64,
    /// Opened with the first note.
    file: Option<File>,
    bytes: u64,
}

/// `names.json`.
#[derive(Serialize, Deserialize)]
struct SavedNames {
    /// The number of the first log with what is newer.
    log: u64,
    #[serde(flatten)]
    state: names::State,
}

/// All names, about to be written.
#[derive(Debug)]
pub struct NamesFile {
    path: PathBuf,
    log: u64,
    state: names::State,
}

/// A log that is longer than this is worth writing all names anew.
const LONG_LOG: u64 = 4 << 20;

/// What was found of a file.
#[derive(Debug)]
pub enum Saved<T> {
    /// It is there and can be read.
    Found(T),
    /// It is not there.
    Missing,
    /// It is there and can't be used: why, in a sentence.
    Unusable(String),
}

// === impl StateDirectory ===

impl StateDirectory {
    /// Makes the directory where it is missing, for root only, and locks it.
    ///
    /// # Errors
    ///
    /// It can't be made, or another daemon keeps its state there.
    pub fn create(path: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).with_context(|| {
            let path = path.display();
            format!("the state directory {path} can't be made; name another with --state-dir")
        })?;
        let lock = File::open(path)
            .with_context(|| format!("the state directory {} can't be opened", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), log: Log::default(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another sluice is running with the state directory {}; stop it first, or give this one \
                 its own with --state-dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} can't be locked", path.display()))
            }
        }
    }

    /// Which counter belongs to which rules.
    #[must_use]
    pub fn ledger(&self) -> Saved<CounterLedger> {
        self.load("counters.json")
    }

    /// Saves which counter belongs to which rules. It comes before the tables that count there.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn save_ledger(&self, ledger: &CounterLedger) -> Result<()> {
        self.save("counters.json", ledger)
    }

    /// The addresses of names, with all that was noted since they were written. What is noted from
    /// now on comes after it.
    ///
    /// What can't be used of it is told beside.
    pub fn names(&mut self) -> (Saved<names::State>, Vec<String>) {
        let mut complaints = Vec::new();
        let (first, mut found) = match self.load::<SavedNames>(NAMES) {
            Saved::Found(SavedNames { log, state }) => (log, Some(state)),
            Saved::Missing => (0, None),
            // What was noted since may well be good.
            Saved::Unusable(why) => {
                complaints.push(why);
                (0, None)
            }
        };
        let logs = match self.logs() {
            Ok(logs) => logs,
            Err(error) => {
                complaints.push(format!("{error:#}"));
                Vec::new()
            }
        };
        self.log.number = logs.last().map_or(first, |last| last.saturating_add(1)).max(first);
        for number in logs.into_iter().filter(|number| *number >= first) {
            let path = self.log_path(number);
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) => {
                    complaints.push(format!("{} can't be read: {error}", path.display()));
                    continue;
                }
            };
            let state = found.get_or_insert_with(names::State::empty);
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for (place, line) in lines.enumerate() {
                let added = unseal_line(line)
                    .map_err(|error| error.to_string())
                    .and_then(|line| {
                        serde_json::from_slice::<names::Note>(line)
                            .map_err(|error| error.to_string())
                    })
                    .and_then(|note| state.add(note).map_err(|error| error.to_string()));
                if let Err(why) = added {
                    let path = path.display();
                    complaints.push(format!(
                        "{path}:{}: {why}; what is noted from there on is ignored",
                        place + 1
                    ));
                    break;
                }
            }
        }
        (found.map_or(Saved::Missing, Saved::Found), complaints)
    }

    /// Notes what changed of names.
    ///
    /// # Errors
    ///
    /// The log can't be written.
    pub fn note_names(&mut self, notes: &[names::Note]) -> Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let path = self.log_path(self.log.number);
        let mut lines = Vec::new();
        for note in notes {
            lines.extend(seal_line(&serde_json::to_vec(note)?));
        }
        let mut write = || -> io::Result<()> {
            let file = match &mut self.log.file {
                Some(file) => file,
                None => {
                    let file = File::options().append(true).create(true).open(&path)?;
                    self.log.file.insert(file)
                }
            };
            file.write_all(&lines)
        };
        let result = write();
        if result.is_err() {
            // A line may be there in part: what comes next begins a log of its own.
            self.log.file = None;
            self.log.number += 1;
        }
        result.with_context(|| format!("{} can't be written", path.display()))?;
        self.log.bytes += u64::try_from(lines.len())?;
        Ok(())
    }

    /// Whether the log is so long that all names should be written anew.
    #[must_use]
    pub fn is_log_long(&self) -> bool {
        self.log.bytes > LONG_LOG
    }

    /// Begins a new log, which all names come before. Writing them takes as long as the disk does,
    /// so that it is left to the caller when and where.
    pub fn begin_names(&mut self, state: names::State) -> NamesFile {
        self.log = Log { number: self.log.number + 1, file: None, bytes: 0 };
        NamesFile { path: self.path.clone(), log: self.log.number, state }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of the logs that are there, in order.
    fn logs(&self) -> Result<Vec<u64>> {
        logs_in(&self.path)
    }

    fn log_path(&self, number: u64) -> PathBuf {
        log_path(&self.path, number)
    }

    /// What a file holds.
    pub(super) fn load<T: DeserializeOwned>(&self, name: &str) -> Saved<T> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let text = unseal(name, LAYOUT, &bytes).map_err(|broken| broken.to_string());
                let value = text.and_then(|text| {
                    serde_json::from_slice(text).map_err(|error| error.to_string())
                });
                match value {
                    Ok(value) => Saved::Found(value),
                    Err(why) => {
                        Saved::Unusable(format!("{} can't be understood: {why}", path.display()))
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::Missing,
            Err(error) => Saved::Unusable(format!("{} can't be read: {error}", path.display())),
        }
    }

    /// Writes a file beside and renames it.
    pub(super) fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        save(&self.path, name, value)
    }
}

// === impl NamesFile ===

impl NamesFile {
    /// Writes the file and removes the logs that it makes superfluous.
    ///
    /// # Errors
    ///
    /// A file can't be written or removed. Nothing is lost then: the logs are read again.
    pub fn write(self) -> Result<()> {
        let Self { path, log, state } = self;
        save(&path, NAMES, &SavedNames { log, state })?;
        for number in logs_in(&path)?.into_iter().filter(|number| *number < log) {
            let path = log_path(&path, number);
            fs::remove_file(&path)
                .with_context(|| format!("{} can't be removed", path.display()))?;
        }
        Ok(())
    }
}

const NAMES: &str = "names.json";

fn log_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("names.{number}.log"))
}

fn logs_in(directory: &Path) -> Result<Vec<u64>> {
    let complaint = || format!("{} can't be read", directory.display());
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).with_context(complaint)? {
        let name = entry.with_context(complaint)?.file_name();
        let number = name.to_str().and_then(|name| {
            name.strip_prefix("names.")?.strip_suffix(".log")?.parse::<u64>().ok()
        });
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn save<T: Serialize>(directory: &Path, name: &str, value: &T) -> Result<()> {
    let path = directory.join(name);
    let fresh = directory.join(format!("{name}.new"));
    let bytes = seal(name, LAYOUT, &serde_json::to_vec(value)?);
    let write = || -> io::Result<()> {
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        // Without it, a power cut may leave the new name with none of the content.
        file.sync_all()?;
        fs::rename(&fresh, &path)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::Arc,
        time::{Duration, Instant, SystemTime},
    };

    use super::*;
    use crate::{
        names::{Answer, NameCache, Settings, Wanted},
        policy::{Dns, Fqdn, SpecialPurpose},
    };

    fn cache() -> NameCache {
        let mut cache = NameCache::new(Settings::from(&Dns::default()), 1);
        let wanted = Wanted::only_exact(&BTreeMap::new())
            .with_wildcards(&[("*.w.example.com", SpecialPurpose::Refused)]);
        cache.set_wanted(Arc::new(wanted), Instant::now());
        cache
    }

    fn learn(cache: &mut NameCache, name: &str) {
        let answer = Answer {
            records: vec![("8.8.8.8".parse().unwrap(), 600)],
            chain: Vec::new(),
            resolver: "192.0.2.53".parse().unwrap(),
            missing: None,
        };
        let name = Fqdn::try_from(name).unwrap();
        assert!(cache.learn(&name, answer, Instant::now()).refused.is_empty());
    }

    fn note(state: &mut StateDirectory, cache: &mut NameCache) {
        let notes = cache.take_notes(Instant::now(), SystemTime::now());
        state.note_names(&notes).unwrap();
    }

    /// What a daemon finds that starts now, and how often it complains.
    fn found(path: &Path) -> (Vec<String>, usize) {
        let mut state = StateDirectory::create(path).unwrap();
        let (saved, complaints) = state.names();
        let mut cache = cache();
        if let Saved::Found(saved) = saved {
            cache.restore(&saved, Instant::now(), SystemTime::now()).unwrap();
        }
        let names = cache.snapshot().addresses.into_keys();
        (names.map(|name| name.as_str().to_owned()).collect(), complaints.len())
    }

    #[test]
    fn what_was_noted_is_found_whatever_was_written_of_all_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = StateDirectory::create(&path).unwrap();
        let mut cache = cache();
        learn(&mut cache, "a.w.example.com");
        note(&mut state, &mut cache);
        drop(state);
        assert_eq!(found(&path), (vec!["a.w.example.com".to_owned()], 0));

        // A daemon that goes on, and is killed before all names are written.
        let mut state = StateDirectory::create(&path).unwrap();
        state.names();
        learn(&mut cache, "b.w.example.com");
        note(&mut state, &mut cache);
        let file = state.begin_names(cache.to_state(Instant::now(), SystemTime::now()));
        learn(&mut cache, "c.w.example.com");
        note(&mut state, &mut cache);
        let three = ["a", "b", "c"].map(|label| format!("{label}.w.example.com"));
        drop(state);
        assert_eq!(found(&path), (three.to_vec(), 0));

        file.write().unwrap();
        assert_eq!(logs_in(&path).unwrap().len(), 1);
        assert_eq!(found(&path), (three.to_vec(), 0));

        // What is forgotten stays forgotten.
        let mut state = StateDirectory::create(&path).unwrap();
        state.names();
        cache.flush(|name| name.as_str().starts_with('b'), Instant::now());
        note(&mut state, &mut cache);
        drop(state);
        assert_eq!(found(&path).0.len(), 2);
        cache.tick(Instant::now() + Duration::from_secs(7 * 24 * 3600));
    }

    #[test]
    fn a_log_that_was_cut_short_is_good_up_to_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = StateDirectory::create(&path).unwrap();
        let mut cache = cache();
        for label in ["a", "b"] {
            learn(&mut cache, &format!("{label}.w.example.com"));
            note(&mut state, &mut cache);
        }
        drop(state);
        let log = log_path(&path, 0);
        let whole = fs::read(&log).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in 0..whole.len() {
            fs::write(&log, &whole[..length]).unwrap();
            let (names, complaints) = found(&path);
            let whole_lines =
                usize::from(length + 1 >= first) + usize::from(length + 1 >= whole.len());
            assert_eq!(names.len(), whole_lines, "cut to {length} bytes");
            let is_cut = length != 0 && length + 1 != first && length != first;
            assert_eq!(
                complaints > 0,
                is_cut && length + 1 != whole.len(),
                "cut to {length} bytes"
            );
        }
        fs::write(path.join(NAMES), "{").unwrap();
        fs::write(&log, &whole).unwrap();
        assert_eq!(
            found(&path),
            (vec!["a.w.example.com".to_owned(), "b.w.example.com".to_owned()], 1)
        );
    }
}
