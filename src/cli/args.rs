//! Parses the command line into [`Args`]. Must not read the configuration or run a command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use crate::engine::restore::DiskChoice;
use crate::model::{EXIT_STATUS, Listen, StoreKind};

#[cfg(test)]
mod tests;
mod values;

pub use values::{At, PhaseName};

/// The default configuration file.
pub const CONFIG: &str = "/etc/kvmbackup/config.yml";

/// The command line, parsed and validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Options that every command accepts.
    pub global: Global,
    /// The command to run.
    pub command: Command,
}

/// Options that every command accepts.
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
    /// Print only what needs attention
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Back up the domains that are due
    #[command(after_help = after("kvmbackup backup --force web-1    back up web-1 even if it is not due"))]
    Backup(Backup),
    /// List restore points
    #[command(after_help = after("kvmbackup list web-1"))]
    List(List),
    /// Restore a domain as files, or define it in libvirt
    #[command(after_help = after(RESTORE_EXAMPLES))]
    Restore(Restore),
    /// Write a restore point as an archive that can be read without a repository or a password
    #[command(after_help = after("kvmbackup export web-1 --to /mnt/usb"))]
    Export(Export),
    /// Copy archives into the configured target, for example when you switch to a repository
    #[command(after_help = after("kvmbackup import --from /srv/backups"))]
    Import(Import),
    /// Verify restore points by reading every byte
    #[command(after_help = after(VERIFY_EXAMPLES))]
    Verify(Verify),
    /// Keep a restore point until you unprotect it, whatever `rotate` or `keep` says
    #[command(after_help = after("kvmbackup protect web-1 --at 2026-11-22    the newest point of that day"))]
    Protect(Protect),
    /// Stop protecting a restore point
    #[command(after_help = after("kvmbackup unprotect web-1 --at 20261122T020000Z"))]
    Unprotect(Protect),
    /// Remove restore points that the retention policy does not keep, and show why
    #[command(after_help = after("kvmbackup prune --dry-run    show what would be removed, and why"))]
    Prune(Prune),
    /// Clean up after an interrupted run (every run does this first)
    #[command(after_help = after("kvmbackup recover --wait 300    at boot, when libvirt is slow to start"))]
    Recover(Recover),
    /// Check everything a backup needs, from configuration to guests, without changing anything
    #[command(after_help = after("kvmbackup check --offline    check only the configuration and its hooks"))]
    Check(Check),
    /// List the hooks of a domain, or test them without making a backup
    #[command(after_help = after("kvmbackup hooks test --domain db1    acquire and release locks, with timing"))]
    Hooks(Hooks),
    /// List or remove the checkpoints of incremental backups
    #[command(after_help = after("kvmbackup checkpoints remove web-1"))]
    Checkpoints(Checkpoints),
    /// Query libvirt and the target, and write the Prometheus textfile
    #[command(after_help = after("kvmbackup metrics --stdout"))]
    Metrics(Metrics),
    /// Create or check the configured repository, show its statistics, or change its passwords
    #[command(after_help = after("kvmbackup repository stats"))]
    Repository(Repository),
    /// Reclaim the space used by removed restore points in the repository, and check the repository (meant to be
    /// run by a weekly timer)
    #[command(after_help = after("kvmbackup maintain --json"))]
    Maintain(Maintain),
    /// Copy the repository's restore points to the destinations listed in `copies` (meant to be run by an hourly
    /// timer, with --due)
    #[command(after_help = after(COPY_EXAMPLES))]
    Copy(Copy),
    /// Show or mail the report of the last run
    #[command(after_help = after("kvmbackup report --format json"))]
    Report(Report),
    /// Serve Prometheus metrics and a status page over HTTP
    #[command(after_help = after("kvmbackup exporter --listen unix:/run/kvmbackup/exporter.sock"))]
    Exporter(Exporter),
    /// Print a shell completion script
    #[command(after_help = after("kvmbackup completions bash > /etc/bash_completion.d/kvmbackup"))]
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to a directory (for packages)
    #[command(hide = true, after_help = after("kvmbackup man /usr/share/man/man1"))]
    Man {
        /// An existing directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
}

/// `repository`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Repository {
    /// The subcommand.
    #[command(subcommand)]
    pub command: RepositoryCommand,
}

/// `repository …`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum RepositoryCommand {
    /// Create the repository, and its directory if it does not exist
    #[command(after_help = after("kvmbackup repository init"))]
    Init,
    /// Check the repository and read all of its data
    #[command(after_help = after("kvmbackup repository check"))]
    Check {
        /// Remove damaged packs, so that the data in them is stored again by the next backups if the guests still
        /// have it
        #[arg(long)]
        repair_from_guests: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Count restore points, packs and blobs, and show the stored size
    #[command(after_help = after("kvmbackup repository stats --json"))]
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List or change the keys of the repository (one key per password)
    #[command(after_help = after("kvmbackup repository key list"))]
    Key {
        /// The subcommand.
        #[command(subcommand)]
        command: KeyCommand,
    },
}

/// `repository key …`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum KeyCommand {
    /// List the keys, and show which one the configuration uses
    #[command(after_help = after("kvmbackup repository key list --json"))]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a key for another password
    #[command(after_help = after("kvmbackup repository key add --new-password-file /etc/kvmbackup/new.password"))]
    Add(NewPassword),
    /// Remove a key; its password no longer opens the repository
    #[command(after_help = after("kvmbackup repository key remove 3a7f21c9"))]
    Remove {
        /// ID of the key, from `list`
        #[arg(value_parser = values::key_id)]
        id: String,
    },
    /// Replace the key that the configuration uses with a key for another password
    #[command(after_help = after("kvmbackup repository key passwd --new-password-file /etc/kvmbackup/new.password"))]
    Passwd(NewPassword),
}

/// The file with a new password of a repository.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct NewPassword {
    /// File with the new password on one line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub new_password_file: PathBuf,
}

/// `maintain`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Maintain {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const COPY_EXAMPLES: &str = "\
kvmbackup copy                     every copy, now
  kvmbackup copy offsite --init      one copy, created if it does not exist
  kvmbackup copy --due               only the copies that are due, for use in a timer";

/// `copy`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Copy {
    /// Only these copies, named as in the configuration
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Only copies that last succeeded at least one `every` interval ago
    #[arg(long)]
    pub due: bool,
    /// Create copies that do not exist
    #[arg(long)]
    pub init: bool,
    /// Show what would be copied and removed, without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const RESTORE_EXAMPLES: &str = "\
kvmbackup restore web-1 --to /srv/restored                     files only
  kvmbackup restore web-1 --define --name web-1-copy --start     a running copy
  kvmbackup restore web-1 --at 2026-11-22 --disk vda --to /tmp   one disk, as of that day
  kvmbackup restore web-1 --disk vda=/dev/vg0/web-1              to a block device
  kvmbackup restore web-1 --salvage --to /srv/left               a damaged point";

const VERIFY_EXAMPLES: &str = "\
kvmbackup verify --all                            every restore point
  kvmbackup verify --all --older-than 7d --for 2h   what is overdue, for up to 2 h";

/// `backup`
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Backup {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Options that also work without the command's name.
    #[command(flatten)]
    pub options: BackupOptions,
}

/// Options of `backup` that also work without its name, so that command lines of the legacy script still work.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct BackupOptions {
    /// Back up domains even if they are not due
    #[arg(long)]
    pub force: bool,
    /// Accept disks that are much smaller or contain much less data than in the last restore point, and resume rotation
    #[arg(long)]
    pub accept_smaller: bool,
    /// Show what would be done and why, without changing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Only these domains, comma-separated
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
    /// Only restore points of this store, if the host has both
    #[arg(long, value_name = "KIND")]
    pub store: Option<StoreKind>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `restore`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Restore {
    /// Domain to restore
    pub domain: String,
    /// Restore point: an ID, or a time, which selects the newest point at or before it [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Only restore points of this store, if the host has both
    #[arg(long, value_name = "KIND")]
    pub store: Option<StoreKind>,
    /// Directory for the files or, with --define, for the disk images [default with --define: their original paths]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
    /// Define the domain in libvirt
    #[arg(long)]
    pub define: bool,
    /// Define the domain under another name, with a new UUID and new MAC addresses
    #[arg(long, requires = "define", value_name = "NEW")]
    pub name: Option<String>,
    /// Use this edited copy of the saved definition; the domain's name and UUID must be unchanged
    #[arg(long, requires = "define", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub xml: Option<PathBuf>,
    /// Change the machine type (see qemu-system-x86_64 -machine help)
    #[arg(long, requires = "define", value_name = "TYPE")]
    pub machine: Option<String>,
    /// Start the domain afterwards
    #[arg(long, requires = "define")]
    pub start: bool,
    /// Restore only this disk (repeatable); TARGET=DEVICE overwrites that block device, even without --overwrite
    #[arg(long = "disk", value_name = "TARGET[=DEVICE]", value_parser = values::disk)]
    pub disks: Vec<DiskChoice>,
    /// Replace existing files and an existing definition; with --define, also overwrite the domain's block devices
    #[arg(long)]
    pub overwrite: bool,
    /// Define the domain even if it uses host resources other than disks and networks; required for such a domain
    /// if restore cannot prompt on a terminal
    #[arg(long, requires = "define")]
    pub accept_host_access: bool,
    /// Show which files would be written and which host resources the definition uses, without writing anything
    #[arg(long)]
    pub dry_run: bool,
    /// Write the readable parts of a damaged restore point to the --to directory, with a list of the lost parts;
    /// incomplete files are named NAME.salvaged
    #[arg(long, requires = "to", conflicts_with_all = ["define", "name", "xml", "machine", "start", "disks", "overwrite", "dry_run"])]
    pub salvage: bool,
}

/// `verify`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Verify {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Restore point: an ID, or a time, which selects the newest point at or before it [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Only restore points of this store, if the host has both
    #[arg(long, value_name = "KIND")]
    pub store: Option<StoreKind>,
    /// Verify all restore points, not only the newest; those that have gone unverified the longest come first
    #[arg(long, conflicts_with = "at")]
    pub all: bool,
    /// Skip restore points that were verified as good in the last TIME (12h, 7d)
    #[arg(long, value_name = "TIME", conflicts_with = "at", value_parser = values::duration)]
    pub older_than: Option<Duration>,
    /// Stop starting new verifications after this long (30m, 2h), and print how many restore points are left
    #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
    pub limit: Option<Duration>,
    /// Check the structure, and read only this percentage (such as 5%) of the data, chosen at random; restore
    /// points checked this way do not count as verified
    #[arg(long, value_name = "PERCENT", value_parser = values::percent)]
    pub sample: Option<u32>,
    /// Read the same sample as the earlier verification that printed this number
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    pub seed: Option<u32>,
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
    /// Only restore points of this store, if the host has both
    #[arg(long, value_name = "KIND")]
    pub store: Option<StoreKind>,
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
    /// Check only the configuration and its hooks and templates, without accessing libvirt, guests, the target,
    /// directories or servers
    #[arg(long)]
    pub offline: bool,
    /// Send a test email the way a run would, and print the recipients
    #[arg(long, conflicts_with = "offline")]
    pub send_test: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `hooks`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Hooks {
    /// The subcommand.
    #[command(subcommand)]
    pub command: HooksCommand,
}

/// `hooks …`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum HooksCommand {
    /// List hooks in the order in which they run, without running them
    #[command(after_help = after("kvmbackup hooks list --domain db1"))]
    List {
        /// Hooks of this domain [default: the hooks that apply to the whole run]
        #[arg(long)]
        domain: Option<String>,
    },
    /// Run the hooks as they would run for a snapshot, but without taking one, and show how long the locks were held
    #[command(after_help = after("kvmbackup hooks test --domain db1 --phase pre-snapshot"))]
    Test {
        /// Run the hooks of this domain
        #[arg(long)]
        domain: String,
        /// Only hooks of this phase
        #[arg(long)]
        phase: Option<PhaseName>,
    },
}

/// `protect` and `unprotect`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Protect {
    /// Domain
    pub domain: String,
    /// Restore point: an ID, or a time, which selects the newest point at or before it [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Only restore points of this store, if the host has both
    #[arg(long, value_name = "KIND")]
    pub store: Option<StoreKind>,
}

/// `export`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Export {
    /// Domain to export
    pub domain: String,
    /// Restore point: an ID, or a time, which selects the newest point at or before it [default: the newest]
    #[arg(long, value_name = "ID|TIME")]
    pub at: Option<At>,
    /// Only restore points of this store, if the host has both
    #[arg(long, value_name = "KIND")]
    pub store: Option<StoreKind>,
    /// An existing directory; the archive is written into its subdirectory DOMAIN
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: PathBuf,
}

/// `import`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Import {
    /// Only these domains; patterns such as `web-*` are allowed
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Directory with archives: an earlier `backupdir`, or the target of an export
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub from: PathBuf,
}

/// `checkpoints`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Checkpoints {
    /// The subcommand.
    #[command(subcommand)]
    pub command: CheckpointsCommand,
}

/// `checkpoints …`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CheckpointsCommand {
    /// List kvmbackup's checkpoints for a domain
    #[command(after_help = after("kvmbackup checkpoints list web-1"))]
    List {
        /// Name of the domain
        domain: String,
    },
    /// Remove kvmbackup's checkpoints for a domain, whether it is running or off; the next backup will read the
    /// disks in full
    #[command(after_help = after("kvmbackup checkpoints remove web-1"))]
    Remove {
        /// Name of the domain
        domain: String,
    },
}

/// `exporter`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Exporter {
    /// Address to listen on: HOST:PORT or unix:/PATH [default: `metrics.listen` from the configuration, or
    /// 127.0.0.1:9763]
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
    /// Write the email to a new file instead of printing the report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "format")]
    pub render_to: Option<PathBuf>,
}

/// Output format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Plain text.
    Text,
    /// HTML, as in an email.
    Html,
    /// JSON, for programs.
    Json,
}

/// Unattended backups of libvirt guests
#[derive(Debug, Parser)]
#[command(name = "kvmbackup", version, after_help = after("kvmbackup --config /etc/kvmbackup/config.yml    back up due domains"))]
struct Words {
    #[command(flatten, next_help_heading = "Options when no command is given (same as for backup)")]
    options: BackupOptions,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Parses the command line, including the program's name.
///
/// Requests for help and version are clap errors too; the error knows its output stream and exit code.
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

/// The definition of the command line, for completions and manual pages.
pub fn definition() -> clap::Command {
    Words::command()
}

fn after(example: &str) -> String {
    format!("Example:\n  {example}\n\n{EXIT_STATUS}")
}
