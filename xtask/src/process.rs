// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes: cargo with a clean environment, and groups that don't outlive us.

use std::{
    env,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result};

use crate::paths;

/// A child in a process group of its own, with a watcher that ends the whole group when this
/// process goes away, for whatever reason.
///
/// A handler for Ctrl-C would need `unsafe` or a dependency, and wouldn't cover SIGKILL. The
/// watcher waits on a pipe from us instead: the kernel closes that however we end.
struct Group {
    child: Child,
    watcher: Child,
    line: Option<ChildStdin>,
}

/// Which of its two streams a child wrote a line to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Reads the group's number, then waits for `done` or for the end of the pipe. An interrupt comes
/// first, so that tests can remove their namespaces.
const WATCHER: &str = r#"
read -r group || exit 0
read -r word && [ "$word" = done ] && exit 0
for signal in INT TERM KILL; do
    kill -s "$signal" -- "-$group" 2>/dev/null || exit 0
    n=0
    while [ "$n" -lt 50 ]; do
        kill -s 0 -- "-$group" 2>/dev/null || exit 0
        sleep 0.1
        n=$((n + 1))
    done
done
"#;

/// A command for cargo at the root of the repository. What `cargo run` told this process about
/// the xtask package is taken out: build scripts that look at such variables would run again.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()?);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// Runs a command with our own output, and waits.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    Group::spawn(command.stdin(Stdio::null()))?.wait()
}

/// Runs a command, shows each line of its output as it comes, and hands it on as well.
pub(crate) fn run_scanned(
    command: &mut Command,
    mut scan: impl FnMut(Stream, &str),
) -> Result<ExitStatus> {
    run_silent(command, |stream, line| {
        match stream {
            Stream::Out => println!("{line}"),
            Stream::Err => eprintln!("{line}"),
        }
        scan(stream, line);
    })
}

/// Runs a command, and hands on each line of its output as it comes.
pub(crate) fn run_silent(
    command: &mut Command,
    mut scan: impl FnMut(Stream, &str),
) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command)?;
    let out = group.child.stdout.take().context("a child has no standard output")?;
    let err = group.child.stderr.take().context("a child has no standard error")?;
    let (lines, received) = mpsc::channel();
    let readers = [forward(Stream::Out, out, lines.clone()), forward(Stream::Err, err, lines)];
    for (stream, line) in received {
        scan(stream, &line);
    }
    for reader in readers {
        // A reader ends only at the end of its pipe; that it panicked is no news to hand on.
        drop(reader.join());
    }
    group.wait()
}

/// Becomes another program: its signals and its exit status are then ours.
pub(crate) fn become_program(command: &mut Command) -> anyhow::Error {
    let program = command.get_program().to_owned();
    anyhow::Error::new(command.exec())
        .context(format!("{} can't be started", program.to_string_lossy()))
}

// === impl Group ===

impl Group {
    fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut watcher = Command::new("/bin/sh")
            .args(["-c", WATCHER])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("/bin/sh can't be started")?;
        let mut line = watcher.stdin.take().context("the watcher has no standard input")?;
        let child = match command.process_group(0).spawn() {
            Ok(child) => child,
            Err(error) => {
                drop(line);
                watcher.wait()?;
                return Err(error).with_context(|| format!("{program} can't be started"));
            }
        };
        writeln!(line, "{}", child.id()).context("the watcher went away")?;
        Ok(Self { child, watcher, line: Some(line) })
    }

    fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("waiting for a child failed")?;
        if let Some(line) = &mut self.line {
            writeln!(line, "done").context("the watcher went away")?;
        }
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Closing the pipe without `done` makes the watcher end the group. Our child is waited for
        // first: as long as nobody does, it counts as a member.
        self.line = None;
        drop(self.child.wait());
        drop(self.watcher.wait());
    }
}

fn forward(
    stream: Stream,
    source: impl Read + Send + 'static,
    lines: mpsc::Sender<(Stream, String)>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut buffer = Vec::new();
        // An error on a pipe of ours is the end of the child's output like any other.
        while source.read_until(b'\n', &mut buffer).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&buffer);
            let line = line.trim_end_matches(['\n', '\r']).to_owned();
            if lines.send((stream, line)).is_err() {
                return;
            }
            buffer.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::*;

    #[test]
    fn output_is_scanned_with_its_stream_and_the_status_is_kept() {
        let mut seen = Vec::new();
        let status = run_scanned(
            Command::new("/bin/sh").args(["-c", "echo one; echo two >&2; printf three; exit 7"]),
            |stream, line| seen.push((stream, line.to_owned())),
        )
        .unwrap();
        seen.sort_by_key(|(_, line)| line.clone());
        assert_eq!(status.code(), Some(7));
        assert_eq!(
            seen,
            [
                (Stream::Out, "one".to_owned()),
                (Stream::Out, "three".to_owned()),
                (Stream::Err, "two".to_owned()),
            ]
        );
    }

    #[test]
    fn a_group_that_is_given_up_takes_its_grandchildren_along() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "/bin/sh -c 'echo $$; sleep 1000; :'; :"]).stdin(Stdio::null());
        let mut group = Group::spawn(command.stdout(Stdio::piped())).unwrap();
        let mut line = String::new();
        BufReader::new(group.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let grandchild = format!("/proc/{}/stat", line.trim());
        assert!(Path::new(&grandchild).exists());
        drop(group);
        for _ in 0..100 {
            // A zombie that init has yet to collect is as good as gone.
            match fs::read_to_string(&grandchild) {
                Ok(stat) if !stat.contains(") Z ") => thread::sleep(Duration::from_millis(50)),
                _ => return,
            }
        }
        panic!("process {} is still there", line.trim());
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }
}
