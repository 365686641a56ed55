// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice completions`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use clap_complete::{Shell, generate};

use super::{command, output};

const EXAMPLES: &str = "Examples:
  sluice completions bash > /usr/share/bash-completion/completions/sluice
  sluice completions zsh > /usr/share/zsh/vendor-completions/_sluice
  sluice completions fish > /usr/share/fish/vendor_completions.d/sluice.fish";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell that is to complete commands
    shell: ShellName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    output::text(&String::from_utf8(script(args.shell))?)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: ShellName) -> Vec<u8> {
    let shell = match shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut command(), "sluice", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn each_shell_gets_every_command() {
        for shell in ShellName::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for sub in command().get_subcommands() {
                assert!(script.contains(sub.get_name()), "{shell:?} lacks {}", sub.get_name());
            }
        }
    }

    /// What the shell itself makes of it, for the one shell that is everywhere.
    #[test]
    fn bash_completes_a_command_and_an_option() {
        let mut bash = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = script(ShellName::Bash);
        for words in ["sluice expl", "sluice explain --vl"] {
            let words: Vec<String> = words.split(' ').map(|word| format!("'{word}'")).collect();
            let last = words.len() - 1;
            let line = format!(
                "\nCOMP_WORDS=({}); COMP_CWORD={last}; COMPREPLY=(); \
                 _sluice sluice {} {}; echo \"${{COMPREPLY[*]}}\"\n",
                words.join(" "),
                words[last],
                words[last - 1],
            );
            input.extend(line.as_bytes());
        }
        bash.stdin.take().unwrap().write_all(&input).unwrap();
        let said = String::from_utf8(bash.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(said, "explain\n--vlan\n");
    }
}
