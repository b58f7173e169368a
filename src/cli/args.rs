//! Owns: the command line, from words to [`Args`]. Must not: read the configuration, or act.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use crate::model::PointId;
use crate::report::EXIT_STATUS;

/// The command line, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What holds for every command.
    pub global: Global,
    /// What to do.
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Global {
    /// Configuration file
    #[arg(short, long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(default_value = "/etc/kvmbackup/config.yml")]
    pub config: PathBuf,
    /// Section of the configuration, instead of this host's short name
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Option<String>,
    /// Tell more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Back up the domains that are due
    #[command(after_help = after("kvmbackup backup --force web-1    back up web-1 now, due or not"))]
    Backup(Backup),
    /// List restore points
    #[command(after_help = after("kvmbackup list web-1"))]
    List(List),
    /// Get a domain back, as files or as a defined domain
    #[command(after_help = after(RESTORE_EXAMPLES))]
    Restore(Restore),
    /// Read restore points back and check every byte
    #[command(after_help = after("kvmbackup verify --all    check every restore point of every domain"))]
    Verify(Verify),
    /// Remove the restore points that retention does not keep, saying why
    #[command(after_help = after("kvmbackup prune --dry-run    show what would go, and why"))]
    Prune(Prune),
    /// Put right what an interrupted run left; every run does so first
    #[command(after_help = after("kvmbackup recover"))]
    Recover,
    /// Show the report of the last run
    #[command(after_help = after("kvmbackup report --format json"))]
    Report(Report),
    /// Print a completion script for a shell
    #[command(after_help = after("kvmbackup completions bash > /etc/bash_completion.d/kvmbackup"))]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const RESTORE_EXAMPLES: &str = "\
kvmbackup restore web-1 --to /srv/restored                   files only
  kvmbackup restore web-1 --define --name web-1-copy --start   a copy, running
  kvmbackup restore web-1 --at 2026-11-22 --disk vda --to /tmp one disk, as it was that day
  kvmbackup restore web-1 --disk vda=/dev/vg0/web-1            straight into a block device";

/// `backup`
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Backup {
    /// Only these domains
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    #[command(flatten)]
    flags: BackupFlags,
}

impl Backup {
    /// Whether to back up what is not due, too.
    pub fn force(&self) -> bool {
        self.flags.force
    }

    /// Whether to show the plan and touch nothing.
    pub fn dry_run(&self) -> bool {
        self.flags.dry_run
    }

    /// Whether to print JSON.
    pub fn json(&self) -> bool {
        self.flags.json
    }
}

/// What `backup` takes with or without its name, so that the command line of the older script goes on working.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
struct BackupFlags {
    /// Back up whether due or not
    #[arg(long)]
    force: bool,
    /// Show what would be done and why; touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Only these domains
    #[arg(long = "domains", value_name = "A,B", value_delimiter = ',')]
    listed: Vec<String>,
}

/// `list`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct List {
    /// Only these domains
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `restore`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Restore {
    /// The domain to get back
    pub domain: String,
    /// Which restore point: its id, or the newest one at or before a time [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Folder for the files; with --define, the images [default with --define: where they were]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
    /// Define the domain in libvirt
    #[arg(long)]
    pub define: bool,
    /// Define it under another name, with a UUID and MAC addresses of its own
    #[arg(long, requires = "define", value_name = "NEW")]
    pub name: Option<String>,
    /// Start the domain afterwards
    #[arg(long, requires = "define")]
    pub start: bool,
    /// Only this disk; TARGET=DEVICE writes it straight into a block device (repeatable)
    #[arg(long = "disk", value_name = "TARGET[=DEVICE]")]
    pub disks: Vec<DiskChoice>,
    /// Replace files and a definition that exist, and the contents of block devices
    #[arg(long)]
    pub overwrite: bool,
}

/// `verify`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Verify {
    /// Only these domains
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Which restore point: its id, or the newest one at or before a time [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Every restore point, not only the newest
    #[arg(long, conflicts_with = "at")]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `prune`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Prune {
    /// Only these domains
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Show what would go and why; touch nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `report`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Report {
    /// How to show it
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReportFormat,
}

/// How a report is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Which restore point is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The one of this id.
    Id(PointId),
    /// The newest one that was taken no later than this.
    Time(DateTime<Utc>),
}

impl FromStr for At {
    type Err = String;

    /// An id (`20261122T020000Z`), or a time: RFC 3339, or `2026-11-22[ 02:00[:00]]` in the time zone of the host. A
    /// time that names no seconds, or no hour, is the last second of that minute or day.
    fn from_str(text: &str) -> Result<At, String> {
        if let Ok(id) = text.parse() {
            return Ok(At::Id(id));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(At::Time(time.to_utc()));
        }
        let last_second = TimeDelta::seconds(59);
        let local = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]
            .iter()
            .find_map(|layout| NaiveDateTime::parse_from_str(text, layout).ok())
            .or_else(|| {
                let minute = ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
                let minute = minute.iter().find_map(|layout| NaiveDateTime::parse_from_str(text, layout).ok());
                minute?.checked_add_signed(last_second)
            })
            .or_else(|| {
                let next = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.checked_add_days(Days::new(1))?;
                next.and_time(NaiveTime::MIN).checked_sub_signed(TimeDelta::seconds(1))
            });
        // An hour that a change of the clocks repeats is meant the second time; one that it skips does not exist.
        let time = local.and_then(|local| local.and_local_timezone(Local).latest());
        time.map(|time| At::Time(time.to_utc()))
            .ok_or_else(|| "not a restore point's id (20261122T020000Z) or a time (2026-11-22 02:00)".to_owned())
    }
}

/// A disk to restore, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChoice {
    /// The guest's name for it.
    pub target: String,
    /// The block device to write it into, instead of a file.
    pub device: Option<PathBuf>,
}

impl FromStr for DiskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskChoice, String> {
        let (target, device) = match text.split_once('=') {
            Some((target, device)) => (target, Some(PathBuf::from(device))),
            None => (text, None),
        };
        if target.is_empty() || device.as_ref().is_some_and(|device| !device.is_absolute()) {
            return Err("expected TARGET or TARGET=/dev/…, as vda or vda=/dev/vg0/web-1".to_owned());
        }
        Ok(DiskChoice { target: target.to_owned(), device })
    }
}

/// Unattended backups of libvirt guests
#[derive(Debug, Parser)]
#[command(name = "kvmbackup", version, after_help = after("kvmbackup --config /etc/kvmbackup/config.yml    back up what is due"))]
struct Words {
    #[command(flatten)]
    global: Global,
    #[command(flatten, next_help_heading = "Without a command, as for backup")]
    flags: BackupFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Reads the command line; the first word is the program's name.
///
/// The error is clap's: help and version are such errors, too, and it knows where to print itself and with which exit code.
pub fn parse<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Args, clap::Error> {
    let Words { global, flags, command } = Words::try_parse_from(words)?;
    let command = match command {
        Some(_) if flags != BackupFlags::default() => {
            let message = "options of backup stand behind the word 'backup', or without any command";
            return Err(Words::command().error(ErrorKind::ArgumentConflict, message));
        }
        Some(command) => command,
        None => Command::Backup(Backup { domains: Vec::new(), flags }),
    };
    Ok(Args { global, command: checked(command)? })
}

fn checked(command: Command) -> Result<Command, clap::Error> {
    match command {
        Command::Backup(mut backup) => {
            let listed = std::mem::take(&mut backup.flags.listed);
            backup
                .domains
                .extend(listed.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
            Ok(Command::Backup(backup))
        }
        Command::Restore(restore) => {
            let to_devices = !restore.disks.is_empty() && restore.disks.iter().all(|disk| disk.device.is_some());
            if restore.to.is_none() && !restore.define && !to_devices {
                let message = "restore needs --to DIR, --define, or --disk TARGET=DEVICE";
                return Err(Words::command().error(ErrorKind::MissingRequiredArgument, message));
            }
            Ok(Command::Restore(restore))
        }
        other => Ok(other),
    }
}

/// The definition of the command line, for completions and the manual page.
pub fn definition() -> clap::Command {
    Words::command()
}

fn after(example: &str) -> String {
    format!("Example:\n  {example}\n\n{EXIT_STATUS}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn the_seeds_command_line_is_backup() {
        let args = parsed("kvmbackup --config /etc/kvm.yml --force --domains a,b -v");
        assert_eq!(args.global.config, PathBuf::from("/etc/kvm.yml"));
        assert_eq!(args.global.verbose, 1);
        let same = "kvmbackup backup --config /etc/kvm.yml --force a b -v";
        assert_eq!(args, parsed(same));
        let backup = backup(same);
        assert!(backup.force() && !backup.dry_run() && !backup.json());
        assert_eq!(backup.domains, ["a", "b"]);
        assert_eq!(parsed("kvmbackup").global.config, PathBuf::from("/etc/kvmbackup/config.yml"));
        assert!(super::tests::backup("kvmbackup --dry-run --json").json());
    }

    #[test]
    fn domains_come_from_both_places() {
        assert_eq!(backup("kvmbackup backup a --domains b,,c").domains, ["a", "b", "c"]);
    }

    #[test]
    fn global_options_stand_anywhere() {
        assert_eq!(parsed("kvmbackup -c /f -vv --host x list a"), parsed("kvmbackup list -vv a -c /f --host x"));
        assert_eq!(refused("kvmbackup -q -v"), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn options_that_need_others_say_so() {
        assert_eq!(refused("kvmbackup restore a --to /d --start"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("kvmbackup restore a --to /d --name b"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("kvmbackup restore a"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("kvmbackup restore a --disk vda"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("kvmbackup verify --all --at 2026-11-22"), ErrorKind::ArgumentConflict);
        assert_eq!(refused("kvmbackup --force list"), ErrorKind::ArgumentConflict);
        assert_eq!(refused("kvmbackup restore a --to /d --at yesterday"), ErrorKind::ValueValidation);
        assert_eq!(refused("kvmbackup restore a --disk vda=lv"), ErrorKind::ValueValidation);
        assert_eq!(refused("kvmbackup web-1"), ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn restore_is_read_whole() {
        let line = "kvmbackup restore a --at 20261122T020000Z --define --name b --start --disk vda --disk vdb=/dev/x";
        let Command::Restore(restore) = parsed(line).command else { panic!() };
        assert_eq!(restore.at, Some(At::Id("20261122T020000Z".parse().unwrap())));
        assert_eq!((restore.name.as_deref(), restore.start, restore.define), (Some("b"), true, true));
        assert_eq!(restore.disks[0], DiskChoice { target: "vda".to_owned(), device: None });
        assert_eq!(restore.disks[1].device, Some(PathBuf::from("/dev/x")));
        assert!(parse("kvmbackup restore a --disk vdb=/dev/x".split(' ')).is_ok());
    }

    #[test]
    fn times_mean_their_last_second() {
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
}
