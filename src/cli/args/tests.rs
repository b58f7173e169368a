//! Tests command lines as operators type them.

use chrono::Local;

use std::collections::BTreeSet;

use super::*;
use crate::model::PointId;

fn parsed(line: &str) -> Args {
    parse(line.split(' ')).unwrap()
}

fn refused(line: &str) -> ErrorKind {
    parse(line.split(' ')).unwrap_err().kind()
}

fn backup(line: &str) -> Backup {
    match parsed(line).command {
        Command::Backup(backup) => backup,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_valid() {
    definition().debug_assert();
}

#[test]
fn legacy_command_line_means_backup() {
    let args = parsed("kvmbackup --config /etc/kvm.yml --force --domains a,b -v");
    assert_eq!(args.global.config, PathBuf::from("/etc/kvm.yml"));
    assert_eq!(args.global.verbose, 1);
    let same = "kvmbackup backup --config /etc/kvm.yml --force a b -v";
    assert_eq!(args, parsed(same));
    let Backup { domains, options } = backup(same);
    assert!(options.force && !options.dry_run && !options.json);
    assert_eq!(domains, ["a", "b"]);
    assert_eq!(parsed("kvmbackup").global.config, PathBuf::from("/etc/kvmbackup/config.yml"));
    assert!(backup("kvmbackup --dry-run --json").options.json);
}

#[test]
fn domains_as_arguments_and_options_are_combined() {
    assert_eq!(backup("kvmbackup backup a --domains b,,c").domains, ["a", "b", "c"]);
}

#[test]
fn global_options_work_in_any_position() {
    assert_eq!(parsed("kvmbackup -c /f -vv --host x list a"), parsed("kvmbackup list -vv a -c /f --host x"));
    assert_eq!(refused("kvmbackup -q -v"), ErrorKind::ArgumentConflict);
}

#[test]
fn invalid_combinations_and_values_are_rejected() {
    assert_eq!(refused("kvmbackup restore a --to /d --start"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("kvmbackup restore a --to /d --name b"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("kvmbackup restore a"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("kvmbackup restore a --disk vda"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("kvmbackup verify --all --at 2026-11-22"), ErrorKind::ArgumentConflict);
    assert_eq!(refused("kvmbackup verify --older-than 7d --at 2026-11-22"), ErrorKind::ArgumentConflict);
    assert_eq!(refused("kvmbackup verify --all --older-than 7"), ErrorKind::ValueValidation);
    assert_eq!(refused("kvmbackup --force list"), ErrorKind::ArgumentConflict);
    assert_eq!(refused("kvmbackup restore a --to /d --at yesterday"), ErrorKind::ValueValidation);
    assert_eq!(refused("kvmbackup restore a --disk vda=lv"), ErrorKind::ValueValidation);
    assert_eq!(refused("kvmbackup web-1"), ErrorKind::InvalidSubcommand);
}

#[test]
fn restore_options_are_parsed() {
    let line = "kvmbackup restore a --at 20261122T020000Z --define --name b --start --disk vda --disk vdb=/dev/x";
    let Command::Restore(restore) = parsed(line).command else { panic!() };
    assert_eq!(restore.at, Some(At::Id("20261122T020000Z".parse().unwrap())));
    assert_eq!((restore.name.as_deref(), restore.start, restore.define), (Some("b"), true, true));
    assert_eq!(restore.disks[0], DiskChoice { target: "vda".to_owned(), device: None });
    assert_eq!(restore.disks[1].device, Some(PathBuf::from("/dev/x")));
    assert!(parse("kvmbackup restore a --disk vdb=/dev/x".split(' ')).is_ok());
}

#[test]
fn incomplete_times_mean_their_last_second() {
    let local = |text: &str| match text.parse() {
        Ok(At::Time(time)) => time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(local("2026-11-22"), "2026-11-22 23:59:59");
    assert_eq!(local("2026-11-22 02:00"), "2026-11-22 02:00:59");
    assert_eq!(local("2026-11-22T02:00:07"), "2026-11-22 02:00:07");
    let zoned = "2026-11-22T02:00:00+01:00".parse::<At>().unwrap();
    assert_eq!(zoned, At::Time("20261122T010000Z".parse::<PointId>().unwrap().time()));
}

#[test]
fn every_help_ends_with_the_exit_status() {
    let mut definition = definition();
    definition.build();
    let all: Vec<_> = definition.get_subcommands().filter(|command| command.get_name() != "help").collect();
    for command in all.into_iter().chain([&definition]) {
        let help = command.clone().render_help().to_string();
        assert!(help.trim_end().ends_with(EXIT_STATUS), "{help}");
    }
}

#[test]
fn hints_know_every_command_that_reads_the_configuration() {
    let others = ["completions", "man", "help"];
    let commands = definition();
    let names = commands.get_subcommands().map(clap::Command::get_name).filter(|name| !others.contains(name));
    assert_eq!(BTreeSet::from_iter(names), BTreeSet::from(crate::model::command::COMMANDS));
}
