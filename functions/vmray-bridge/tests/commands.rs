//! The commands of the binary, as a person at a terminal finds them.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::process::{Command, Output};

fn bridge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmray-bridge")).args(arguments).env_clear().output().unwrap()
}

fn help(arguments: &[&str]) -> String {
    let output = bridge(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_has_help_and_stands_in_the_document() {
    let document = include_str!("../../../docs/one-machine.md");
    let help_of_all = help(&["--help"]);
    let listed = help_of_all.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"serve"), "{help_of_all}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        assert!(help(&[command, "--help"]).contains("Usage: vmray-bridge"), "{command}");
        assert!(document.contains(&format!("`{command}`")), "{command}");
    }
}

#[test]
fn wrong_arguments_end_with_exit_code_2() {
    for arguments in [&["ingst"][..], &["ingest", "--evry", "PT1M"], &["key", "new", "so ar"], &[]] {
        assert_eq!(bridge(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
