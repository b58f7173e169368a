//! Owns: the command line, from words to [`Args`]. Must not: read the configuration, or act.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use crate::engine::restore::DiskChoice;
use crate::model::{EXIT_STATUS, Listen};

#[cfg(test)]
mod tests;
mod values;

pub use values::{At, PhaseName};

/// The configuration where the command line names none.
pub const CONFIG: &str = "/etc/kvmbackup/config.yml";

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
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file
    #[arg(short, long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(default_value = CONFIG)]
    pub config: PathBuf,
    /// Host section of the configuration [default: this host's short name]
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Option<String>,
    /// Increase verbosity (repeatable)
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
    /// Restore a domain, as files or as a defined domain
    #[command(after_help = after(RESTORE_EXAMPLES))]
    Restore(Restore),
    /// Read restore points and verify every byte
    #[command(after_help = after(VERIFY_EXAMPLES))]
    Verify(Verify),
    /// Remove restore points that retention does not keep, and show why
    #[command(after_help = after("kvmbackup prune --dry-run    show what would be removed, and why"))]
    Prune(Prune),
    /// Clean up after an interrupted run (every run does this first)
    #[command(after_help = after("kvmbackup recover --wait 300    at boot, when libvirt may need minutes to start"))]
    Recover(Recover),
    /// Check everything a backup needs, from configuration to guests, without changing anything
    #[command(after_help = after("kvmbackup check --offline    check only the configuration and its hooks"))]
    Check(Check),
    /// List the hooks of a domain, or test them without a backup
    #[command(after_help = after("kvmbackup hooks test --domain db1    acquire and release locks, and show how long that took"))]
    Hooks(Hooks),
    /// Survey libvirt and the target, and write the Prometheus textfile
    #[command(after_help = after("kvmbackup metrics --stdout"))]
    Metrics(Metrics),
    /// Show or mail the report of the last run
    #[command(after_help = after("kvmbackup report --format json"))]
    Report(Report),
    /// Serve Prometheus metrics and a status page over HTTP
    #[command(after_help = after("kvmbackup exporter --listen unix:/run/kvmbackup/exporter.sock"))]
    Exporter(Exporter),
    /// Print a completion script for a shell
    #[command(after_help = after("kvmbackup completions bash > /etc/bash_completion.d/kvmbackup"))]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to a directory (for packages)
    #[command(hide = true, after_help = after("kvmbackup man /usr/share/man/man1"))]
    Man {
        /// An existing directory
        #[arg(value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
}

const RESTORE_EXAMPLES: &str = "\
kvmbackup restore web-1 --to /srv/restored                     files only
  kvmbackup restore web-1 --define --name web-1-copy --start     a copy, running
  kvmbackup restore web-1 --at 2026-11-22 --disk vda --to /tmp   one disk, as of that day
  kvmbackup restore web-1 --disk vda=/dev/vg0/web-1              directly to a block device
  kvmbackup restore web-1 --salvage --to /srv/left               what can be read of a damaged restore point";

const VERIFY_EXAMPLES: &str = "\
kvmbackup verify --all                            verify every restore point of every domain
  kvmbackup verify --all --older-than 7d --for 2h   for two hours, those not verified this week";

/// `backup`
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Backup {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// The rest.
    #[command(flatten)]
    pub options: BackupOptions,
}

/// What `backup` takes with or without its name, so that the command line of the older script goes on working.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct BackupOptions {
    /// Back up domains even if they are not due
    #[arg(long)]
    pub force: bool,
    /// Accept disks that are much smaller, or hold much less data, than in the last restore point, and resume rotation
    #[arg(long)]
    pub accept_smaller: bool,
    /// Show what would be done and why, without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Only these domains, separated by commas
    #[arg(long = "domains", value_name = "A,B", value_delimiter = ',')]
    pub listed: Vec<String>,
}

/// `recover`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Recover {
    /// How long to wait for libvirt to respond
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub wait: u64,
}

/// `list`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct List {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `restore`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Restore {
    /// The domain to restore
    pub domain: String,
    /// Restore point: its ID, or the newest at or before a time [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Directory for the files, or with --define for the images [default with --define: their original paths]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
    /// Define the domain in libvirt
    #[arg(long)]
    pub define: bool,
    /// Define it under another name, with a new UUID and new MAC addresses
    #[arg(long, requires = "define", value_name = "NEW")]
    pub name: Option<String>,
    /// Use this definition: an edited copy of the saved one, with the same name and UUID
    #[arg(long, requires = "define", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub xml: Option<PathBuf>,
    /// Change the machine type (see qemu-system-x86_64 -machine help)
    #[arg(long, requires = "define", value_name = "TYPE")]
    pub machine: Option<String>,
    /// Start the domain afterwards
    #[arg(long, requires = "define")]
    pub start: bool,
    /// Only this disk; TARGET=DEVICE overwrites that block device, even without --overwrite (repeatable)
    #[arg(long = "disk", value_name = "TARGET[=DEVICE]", value_parser = values::disk)]
    pub disks: Vec<DiskChoice>,
    /// Replace existing files and an existing definition; with --define, also the contents of the domain's block devices
    #[arg(long)]
    pub overwrite: bool,
    /// Define the domain even if its definition uses more of this host than disks and networks; required for such a domain
    /// when there is no terminal for the question
    #[arg(long, requires = "define")]
    pub accept_host_access: bool,
    /// Show what would be written where, and what the definition uses of this host, without writing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Save what can be read of a damaged restore point to --to DIR, with a list of what is lost; incomplete files are
    /// named NAME.salvaged
    #[arg(long, requires = "to", conflicts_with_all = ["define", "name", "xml", "machine", "start", "disks", "overwrite", "dry_run"])]
    pub salvage: bool,
}

/// `verify`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Verify {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Restore point: its ID, or the newest at or before a time [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Every restore point, not only the newest; the longest unverified first
    #[arg(long, conflicts_with = "at")]
    pub all: bool,
    /// Only restore points not verified as good within this time (12h, 7d)
    #[arg(long, value_name = "TIME", conflicts_with = "at", value_parser = values::duration)]
    pub older_than: Option<Duration>,
    /// Start no more verifications after this time (30m, 2h), and print how many restore points are left
    #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
    pub limit: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `prune`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Prune {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Show what would be removed and why, without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `check`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Check {
    /// Check only the configuration, its hooks and templates; access no libvirt, guest, target, directory or server
    #[arg(long)]
    pub offline: bool,
    /// Send a test mail as a run would, and print its recipients
    #[arg(long, conflicts_with = "offline")]
    pub send_test: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `hooks`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Hooks {
    /// What to do with them.
    #[command(subcommand)]
    pub command: HooksCommand,
}

/// `hooks …`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum HooksCommand {
    /// List hooks in the order in which they run, without running them
    #[command(after_help = after("kvmbackup hooks list --domain db1"))]
    List {
        /// Hooks of this domain [default: hooks of the run]
        #[arg(long)]
        domain: Option<String>,
    },
    /// Run the hooks around a snapshot without a snapshot, and show how long locks were held
    #[command(after_help = after("kvmbackup hooks test --domain db1 --phase pre-snapshot"))]
    Test {
        /// The domain
        #[arg(long)]
        domain: String,
        /// Only hooks of this phase
        #[arg(long)]
        phase: Option<PhaseName>,
    },
}

/// `exporter`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Exporter {
    /// Address to listen on: HOST:PORT or unix:/PATH [default: `metrics.listen` of the configuration, else 127.0.0.1:9763]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<Listen>,
}

/// `metrics`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Metrics {
    /// Print the metrics instead of writing the textfile
    #[arg(long)]
    pub stdout: bool,
}

/// `report`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Report {
    /// Output format: text, html or json
    #[arg(long, value_enum, default_value = "text", hide_possible_values = true)]
    pub format: ReportFormat,
    /// Mail the report now, even if it is not due
    #[arg(long, conflicts_with_all = ["format", "render_to"])]
    pub send: bool,
    /// Write the mail to a new file instead of printing the report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "format")]
    pub render_to: Option<PathBuf>,
}

/// How a report is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For people, as a mail shows it.
    Html,
    /// For programs.
    Json,
}

/// Unattended backups of libvirt guests
#[derive(Debug, Parser)]
#[command(name = "kvmbackup", version, after_help = after("kvmbackup --config /etc/kvmbackup/config.yml    back up \
the domains that are due"))]
struct Words {
    #[command(flatten, next_help_heading = "Options without a command (same as for backup)")]
    options: BackupOptions,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Reads the command line; the first word is the program's name.
///
/// The error is clap's: help and version are such errors, too, and it knows where to print itself and with which exit code.
pub fn parse<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Args, clap::Error> {
    let Words { global, options, command } = Words::try_parse_from(words)?;
    let command = match command {
        Some(_) if options != BackupOptions::default() => {
            let message = "options must follow `backup`";
            return Err(Words::command().error(ErrorKind::ArgumentConflict, message));
        }
        Some(command) => command,
        None => Command::Backup(Backup { domains: Vec::new(), options }),
    };
    Ok(Args { global, command: checked(command)? })
}

fn checked(command: Command) -> Result<Command, clap::Error> {
    match command {
        Command::Backup(mut backup) => {
            let listed = std::mem::take(&mut backup.options.listed);
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
