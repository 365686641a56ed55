// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries of systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
//!
//! An entry has each field of an event as a field of its own, and all of them in its text: `journalctl`
//! shows people the text alone.

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
};

use nix::errno::Errno;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

const SOCKET: &str = "/run/systemd/journal/socket";

/// Who speaks, in the column before the colon.
const IDENTIFIER: &str = "sluice";

/// What the names of our fields begin with.
const PREFIX: &str = "SLUICE_";

/// The name of the text among the fields of an event.
const TEXT: &str = "message";

/// What is left of a value where an entry is too long for one datagram.
const SHORT: usize = 8 << 10;

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
}

/// An event's text, and its other fields in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    text: String,
    fields: Vec<(String, String)>,
}

// === impl Journal ===

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    ///
    /// It isn't there.
    pub(super) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Self { socket })
    }

    fn write(&self, level: Level, entry: &Entry) {
        let sent = match self.socket.send(&entry.datagram(level, usize::MAX)) {
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                self.socket.send(&entry.datagram(level, SHORT))
            }
            sent => sent,
        };
        // What the journal reads anyway is as good, but for the fields.
        if sent.is_err() {
            eprintln!("{}", entry.line());
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        self.write(*event.metadata().level(), &entry);
    }
}

// === impl Entry ===

impl Entry {
    /// The text with all fields, as on a terminal.
    fn line(&self) -> String {
        let mut line = self.text.clone();
        for (name, value) in &self.fields {
            let blank = if line.is_empty() { "" } else { " " };
            // Writing to a string doesn't fail.
            let _ = write!(line, "{blank}{name}={value}");
        }
        line
    }

    fn datagram(&self, level: Level, longest: usize) -> Vec<u8> {
        let mut datagram = Vec::new();
        add(&mut datagram, "PRIORITY", priority(level));
        add(&mut datagram, "SYSLOG_IDENTIFIER", IDENTIFIER);
        add(&mut datagram, "MESSAGE", cut(&self.line(), longest));
        for (name, value) in &self.fields {
            let name: String = name
                .chars()
                .map(|letter| match letter {
                    'a'..='z' | 'A'..='Z' | '0'..='9' => letter.to_ascii_uppercase(),
                    _ => '_',
                })
                .collect();
            add(&mut datagram, &format!("{PREFIX}{name}"), cut(value, longest));
        }
        datagram
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            TEXT => value.clone_into(&mut self.text),
            name => self.fields.push((name.to_owned(), value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// syslog(3)'s number.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// A field. A value of several lines stands behind its length.
fn add(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        let length = u64::try_from(value.len()).unwrap_or_default();
        datagram.extend(length.to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend(value.as_bytes());
    datagram.push(b'\n');
}

/// The beginning of a text, whole letters only.
fn cut(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;

    /// Keeps what is written instead of sending it.
    struct Kept(Arc<Mutex<Vec<(Level, Entry)>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut entry = Entry::default();
            event.record(&mut entry);
            self.0.lock().unwrap().push((*event.metadata().level(), entry));
        }
    }

    #[test]
    fn an_event_is_an_entry_with_its_fields() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        with_default(registry().with(Kept(Arc::clone(&kept))), || {
            tracing::info!(nic = %"eth1", load_ms = 7, ok = true, "attached");
            tracing::warn!("two\nlines");
        });
        let kept = kept.lock().unwrap();
        let (level, entry) = &kept[0];
        assert_eq!(entry.line(), "attached nic=eth1 load_ms=7 ok=true");
        assert_eq!(
            String::from_utf8(entry.datagram(*level, usize::MAX)).unwrap(),
            "PRIORITY=6\nSYSLOG_IDENTIFIER=sluice\nMESSAGE=attached nic=eth1 load_ms=7 ok=true\n\
             SLUICE_NIC=eth1\nSLUICE_LOAD_MS=7\nSLUICE_OK=true\n"
        );
        let (level, entry) = &kept[1];
        assert_eq!(
            entry.datagram(*level, usize::MAX),
            b"PRIORITY=4\nSYSLOG_IDENTIFIER=sluice\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n"
        );
    }

    #[test]
    fn a_long_entry_is_cut_and_not_lost() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let journal = Journal { socket: ours };
        let value = "\u{e4}".repeat(4 << 20);
        let entry = Entry { text: "long".to_owned(), fields: vec![("x".to_owned(), value)] };
        journal.write(Level::ERROR, &entry);
        let mut datagram = vec![0; 1 << 20];
        let length = theirs.recv(&mut datagram).unwrap();
        let text = std::str::from_utf8(&datagram[..length]).unwrap();
        assert!(text.starts_with("PRIORITY=3\nSYSLOG_IDENTIFIER=sluice\nMESSAGE=long x=\u{e4}"));
        assert!(length < 4 * SHORT, "{length}");
    }
}
