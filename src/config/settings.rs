//! The settings and their defaults, valid by construction. Must not know YAML, or check anything again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Weekday;

use super::copies::CopySettings;
use super::hook::Hook;
use super::mail::Mail;
use super::repository::RepositorySettings;
use super::{STATE_DIR, glob};
use crate::model::{Codec, Consistency, Listen, Span, StoreKind};
use crate::retention::Policy;

/// The settings of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The section of the file: the short host name.
    pub host: String,
    /// Absolute path of the directory for archives. Either it or a repository is set, or both.
    pub backupdir: Option<PathBuf>,
    /// The repository.
    pub repository: Option<RepositorySettings>,
    /// Whether each target in a directory must be on a mounted file system other than the root file system.
    pub require_mount: bool,
    /// Free space that every run leaves on each target.
    pub min_free: MinFree,
    /// How long the target may neither respond nor accept data before the run abandons it.
    pub stall_timeout: Duration,
    /// Absolute path of the directory for the lock, the journal and the last report.
    pub state_dir: PathBuf,
    /// URI of the libvirt that manages the guests.
    pub libvirt_uri: String,
    /// Number of domains that are backed up at the same time; at least 1.
    pub parallel: usize,
    /// Where metrics are published.
    pub metrics: Metrics,
    /// How runs are mailed; `None` means not at all.
    pub mail: Option<Mail>,
    /// The hooks of `defaults` and of the host, in the order in which they run.
    pub hooks: Vec<Hook>,
    /// The entries of `domains` that are backed up, in the order of the file.
    pub rules: Vec<Rule>,
    /// The entries of `domains` with `exclude: true`.
    pub excluded: Vec<Exclusion>,
}

impl Settings {
    /// The defaults. Required values are empty.
    pub(super) fn usual() -> Settings {
        Settings {
            host: String::new(),
            backupdir: None,
            repository: None,
            require_mount: false,
            min_free: MinFree::Bytes(0),
            stall_timeout: Duration::from_secs(5 * 60),
            state_dir: STATE_DIR.into(),
            libvirt_uri: "qemu:///system".to_owned(),
            parallel: 1,
            metrics: Metrics::default(),
            mail: None,
            hooks: Vec::new(),
            rules: Vec::new(),
            excluded: Vec::new(),
        }
    }

    /// The stores of the host. Never empty; the first is the default of [`DomainSettings::store`].
    pub fn stores(&self) -> Vec<StoreKind> {
        let archives = self.backupdir.as_ref().map(|_| StoreKind::Archive);
        archives.into_iter().chain(self.repository.as_ref().map(|_| StoreKind::Repository)).collect()
    }

    /// Absolute path of a store. For a repository in a bucket, its URL, which is only for messages.
    pub fn path_of(&self, store: StoreKind) -> &Path {
        let path = match store {
            StoreKind::Archive => self.backupdir.as_deref(),
            StoreKind::Repository => self.repository.as_ref().map(|repository| repository.path.as_path()),
        };
        path.unwrap_or(Path::new(""))
    }

    /// The directory of a store; `None` if it is in a bucket.
    pub fn dir_of(&self, store: StoreKind) -> Option<&Path> {
        (store == StoreKind::Archive || !self.in_bucket()).then(|| self.path_of(store))
    }

    /// Whether the repository is in a bucket.
    pub(super) fn in_bucket(&self) -> bool {
        self.repository.as_ref().is_some_and(|repository| repository.bucket.is_some())
    }

    /// Path or URL of the default store, for messages and hooks.
    pub fn target(&self) -> &Path {
        self.stores().first().map_or(Path::new(""), |store| self.path_of(*store))
    }

    /// The copies of the repository.
    pub fn copies(&self) -> &[CopySettings] {
        self.repository.as_ref().map_or(&[], |repository| &repository.copies)
    }

    /// The jobs of all entries, sorted and without duplicates. If there are names or globs, only the jobs of the
    /// entries for these.
    pub fn jobs(&self, names: &[String]) -> Vec<String> {
        let leads = |rule: &Rule, name: &String| {
            glob::matches(name, &rule.pattern) || self.rule_for(name).is_some_and(|other| std::ptr::eq(other, rule))
        };
        let is_meant = |rule: &&Rule| names.is_empty() || names.iter().any(|name| leads(rule, name));
        let jobs: BTreeSet<_> = self.rules.iter().filter(is_meant).map(|rule| rule.domain.job.clone()).collect();
        jobs.into_iter().collect()
    }

    /// The entry for a domain: the one with exactly its name, or else the first one with a matching glob. `None` if
    /// there is no entry, or if it excludes the domain.
    pub fn rule_for(&self, domain: &str) -> Option<&Rule> {
        self.governing(domain).and_then(Result::ok)
    }

    /// The entry that excludes a domain.
    pub fn exclusion_of(&self, domain: &str) -> Option<&Exclusion> {
        self.governing(domain).and_then(Result::err)
    }

    fn governing(&self, domain: &str) -> Option<Result<&Rule, &Exclusion>> {
        let first = |matches: &dyn Fn(&str) -> bool| {
            let rule = self.rules.iter().position(|rule| matches(&rule.pattern));
            let exclusion = self.excluded.iter().find(|exclusion| matches(&exclusion.pattern));
            match exclusion {
                Some(exclusion) if rule.is_none_or(|rule| exclusion.after <= rule) => Some(Err(exclusion)),
                _ => rule.and_then(|rule| self.rules.get(rule)).map(Ok),
            }
        };
        first(&|pattern| pattern == domain).or_else(|| first(&|pattern| glob::matches(pattern, domain)))
    }
}

/// Where metrics are published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Absolute path of the file for the textfile collector of node_exporter.
    pub textfile: Option<PathBuf>,
    /// The address where they are served during a run.
    pub listen: Option<Listen>,
    /// Other names and addresses of this host that requests may use.
    pub hosts: Vec<String>,
}

/// Free space that must remain on the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinFree {
    /// Percentage of the file system's size, 0 to 100.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
}

/// One entry of `domains`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The name or glob, as written.
    pub pattern: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// How its domains are backed up.
    pub domain: DomainSettings,
}

/// An entry of `domains` that excludes its domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// The name or glob, as written.
    pub pattern: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// Number of [`Settings::rules`] before it.
    pub after: usize,
}

/// How a domain is backed up.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainSettings {
    /// The name that metrics and alerts use; 1 to 64 characters.
    pub job: String,
    /// The days when it is due, in the host's time zone; never empty.
    pub days: Vec<Weekday>,
    /// Whether it is also due if the last due day has no restore point.
    pub catch_up: bool,
    /// From 0 to 100: domains with a higher priority are backed up first.
    pub priority: u32,
    /// Where its restore points are stored.
    pub store: StoreChoice,
    /// Which restore points are kept; `None` keeps all.
    pub retention: Option<Policy>,
    /// How archives are compressed.
    pub compression: Codec,
    /// Whether the guest's file systems are frozen.
    pub quiesce: Quiesce,
    /// How long a freeze may take.
    pub freeze_timeout: Duration,
    /// How a running domain is captured.
    pub method: MethodChoice,
    /// Whether a repository's backup reads only what changed.
    pub incremental: Incremental,
    /// Targets of disks that are intentionally not backed up.
    pub exclude_disks: Vec<String>,
    /// Directory for overlays; `None` means next to each image.
    pub overlay_dir: Option<PathBuf>,
    /// Directory for the scratch files of pull; `None` means next to each image.
    pub scratch_dir: Option<PathBuf>,
    /// Whether encrypted disks are saved with decrypted contents, although the archive is not encrypted.
    pub allow_plaintext: bool,
    /// The hooks of all levels, including those of the run, in the order in which they run.
    pub hooks: Vec<Hook>,
}

impl DomainSettings {
    /// The defaults. Required values are empty, and so is the job, whose default is the host's name.
    pub(super) fn usual() -> DomainSettings {
        DomainSettings {
            job: String::new(),
            days: Vec::new(),
            catch_up: false,
            // In the middle, so that domains can be moved to the start or to the end.
            priority: 50,
            store: StoreChoice::Archive,
            retention: None,
            compression: Codec::Zstd(3),
            quiesce: Quiesce::Prefer,
            freeze_timeout: Duration::from_secs(30),
            method: MethodChoice::Auto,
            incremental: Incremental::Auto,
            exclude_disks: Vec::new(),
            overlay_dir: None,
            scratch_dir: None,
            allow_plaintext: false,
            hooks: Vec::new(),
        }
    }

    /// The wanted consistency of a running domain's backup. A session over the snapshot is assumed to quiesce
    /// applications.
    pub fn wanted(&self, domain: &str) -> Consistency {
        let is_held = |hook: &Hook| hook.is_for(domain) && hook.is_held_over(Span::Snapshot);
        match self.quiesce {
            _ if self.hooks.iter().any(is_held) => Consistency::Application,
            Quiesce::Require | Quiesce::Prefer => Consistency::Filesystem,
            Quiesce::Never => Consistency::Crash,
        }
    }
}

/// Where restore points of a domain are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreChoice {
    /// In the directory for archives.
    Archive,
    /// In the repository.
    Repository,
    /// In the repository, from which each is copied to an archive, so that the guest is read only once.
    Both,
}

impl StoreChoice {
    /// The store that the backup writes.
    pub fn first(self) -> StoreKind {
        match self {
            StoreChoice::Archive => StoreKind::Archive,
            StoreChoice::Repository | StoreChoice::Both => StoreKind::Repository,
        }
    }

    /// All stores that it needs.
    pub fn kinds(self) -> &'static [StoreKind] {
        match self {
            StoreChoice::Archive => &[StoreKind::Archive],
            StoreChoice::Repository => &[StoreKind::Repository],
            StoreChoice::Both => &StoreKind::ALL,
        }
    }
}

impl From<StoreKind> for StoreChoice {
    fn from(kind: StoreKind) -> StoreChoice {
        match kind {
            StoreKind::Archive => StoreChoice::Archive,
            StoreKind::Repository => StoreChoice::Repository,
        }
    }
}

/// Whether the guest's file systems are frozen for the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiesce {
    /// Fail if they cannot be frozen.
    Require,
    /// Try, and report a failure.
    Prefer,
    /// Do not try.
    Never,
}

/// Whether a guest gets a checkpoint, so that the next backup into a repository reads only what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incremental {
    /// Unless it has internal snapshots, to which libvirt cannot revert while there is a checkpoint.
    Auto,
    /// Even then.
    Always,
    /// Never: every backup reads the whole disks.
    Never,
}

/// How a running domain is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodChoice {
    /// Snapshot; pull if a snapshot is impossible or harmful.
    Auto,
    /// Always snapshot.
    Snapshot,
    /// Always pull.
    Pull,
}
