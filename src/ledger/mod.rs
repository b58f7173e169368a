//! The results of the runs of this host: `ledger.json` in the state directory.
//!
//! It contains what outlives a run: counters, the last result of every domain, a short history. It must not contain
//! what can be observed again (that is the [`Survey`]), query libvirt, or render anything.

mod ahead;
mod copies;
mod file;
mod fold;
pub mod standing;
mod survey;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use copies::CopyRecord;
pub use file::{Error, update};
pub use survey::{Seen, SeenJob, SeenPoints, SeenRepository, Survey};

use crate::model::words::words;
use crate::model::{Consistency, FailureReason, HookStatus, Outcome, PointId, Status, WholeRead};

/// The results of all runs of this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Whether the configuration could be read at the last attempt.
    pub config_ok: bool,
    /// The last configured textfile, for reporting a configuration that cannot be read.
    pub textfile: Option<PathBuf>,
    /// Jobs, by `job` of the configuration.
    pub jobs: BTreeMap<String, JobRecord>,
    /// Domains, by name.
    pub domains: BTreeMap<String, DomainRecord>,
    /// Hooks, by name.
    pub hooks: BTreeMap<String, HookRecord>,
    /// Deliveries, by channel.
    pub reports: BTreeMap<Channel, Delivery>,
    /// What was last mailed.
    pub mailed: Mailed,
    /// What was last mailed about the maintenance of the repository. Its `untold` stays empty: the emails of runs list
    /// maintenances that were not mailed.
    pub mailed_maintenance: Mailed,
    /// When old points were last removed without an error.
    pub last_prune: Option<DateTime<Utc>>,
    /// The maintenance of the repository; `None` if there was none.
    pub maintenance: Option<MaintenanceRecord>,
    /// The copies of the repository, by their name in the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub copies: BTreeMap<String, CopyRecord>,
    /// The latest future time that was removed from the ledger. The next run reports it and resets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<DateTime<Utc>>,
}

/// The results of the maintenance of a repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MaintenanceRecord {
    /// Directory of the repository. With another one, it is the record of another repository.
    pub repository: PathBuf,
    /// When the last one ended, with any result.
    pub last: Option<DateTime<Utc>>,
    /// Why the last one failed.
    pub last_error: Option<String>,
    /// When unused data was last removed.
    pub last_prune: Option<DateTime<Utc>>,
    /// When a check last found no damage.
    pub last_check: Option<DateTime<Utc>>,
    /// The unused part of its data after unused data was last removed, 0 to 1.
    pub unused_ratio: Option<f64>,
    /// What the repository contained when it was last measured.
    pub stored: Option<StoredObjects>,
}

/// The contents of a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredObjects {
    /// Bytes of all objects.
    pub bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Number of blobs.
    pub blobs: u64,
}

/// The results of one job. A run belongs to every job of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobRecord {
    /// When a run last began.
    pub last_start: Option<DateTime<Utc>>,
    /// When a run last ended, with any result.
    pub last_completion: Option<DateTime<Utc>>,
    /// When a run last ended with all due domains of the job backed up, except those that hooks skipped.
    pub last_success: Option<DateTime<Utc>>,
    /// How long the last run took, in milliseconds.
    pub last_duration_ms: u64,
    /// The run in progress. One that is still here when the next run starts was killed.
    pub running: Option<Uuid>,
    /// Number of runs, by result.
    pub runs: BTreeMap<JobResult, u64>,
    /// Number of domains of the last run, by state.
    pub domains: BTreeMap<Tally, u64>,
}

/// The results of the backups of one domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainRecord {
    /// The job it belonged to at the last attempt.
    pub job: String,
    /// When the last attempt began.
    pub last_attempt: Option<DateTime<Utc>>,
    /// When it was first backed up completely; until then, no verification is expected.
    #[serde(default)]
    pub first_success: Option<DateTime<Utc>>,
    /// When it was last backed up completely: the time of the restore point.
    pub last_success: Option<DateTime<Utc>>,
    /// How the last attempt ended.
    pub last_result: Option<DomainResult>,
    /// The error of the last attempt with its causes, if it failed.
    pub last_error: Option<String>,
    /// The first warning of the last attempt, and how many more there were.
    pub last_warning: Option<String>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u64,
    /// All failures, by reason.
    pub failures: BTreeMap<FailureReason, u64>,
    /// How long the last attempt took, in milliseconds.
    pub last_duration_ms: u64,
    /// The stages of the last attempt, in milliseconds.
    pub last_stages_ms: BTreeMap<Stage, u64>,
    /// Bytes read by the last attempt that wrote a restore point.
    pub last_read_bytes: u64,
    /// Bytes stored by the last attempt that wrote a restore point.
    pub last_stored_bytes: u64,
    /// The total virtual size of its disks, in bytes.
    pub virtual_bytes: u64,
    /// The disks of the last restore point, by target, if the point is in a repository.
    pub disks: BTreeMap<String, DiskRecord>,
    /// Restore points in a row for which a disk was read whole even though only its changes should have been read.
    pub consecutive_whole_reads: u64,
    /// The consistency of the last restore point.
    pub consistency: Option<Consistency>,
    /// The consistency that the configuration wants.
    pub wanted: Option<Consistency>,
    /// When a restore point of it was last verified as good.
    pub last_verify: Option<DateTime<Utc>>,
    /// When a restore of it last succeeded.
    pub last_restore: Option<DateTime<Utc>>,
    /// The last durations of its hooks, in milliseconds, by name.
    pub hooks_ms: BTreeMap<String, u64>,
    /// The last attempts, oldest first; at most [`HISTORY`].
    pub history: VecDeque<Attempt>,
}

/// What the last backup of a disk into a repository read and stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskRecord {
    /// Bytes of its allocated ranges.
    pub data_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes that the guest changed since the previous restore point, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_bytes: Option<u64>,
    /// Bytes that were new to the repository, before compression.
    pub new_bytes: u64,
    /// Bytes that were new to the repository, as stored.
    pub stored_bytes: u64,
    /// Why the whole disk was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_read: Option<WholeRead>,
}

/// Maximum number of remembered attempts per domain.
pub const HISTORY: usize = 60;

/// One attempt to back up a domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub time: DateTime<Utc>,
    /// How it ended.
    pub result: DomainResult,
    /// The restore point it wrote.
    pub point: Option<PointId>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes stored; 0 without a restore point.
    pub stored_bytes: u64,
}

/// The results of one hook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookRecord {
    /// Number of runs, by result.
    pub runs: BTreeMap<HookStatus, u64>,
    /// How long it last ran around a whole run, in milliseconds; for domains see [`DomainRecord::hooks_ms`].
    pub last_ms: Option<u64>,
}

/// The deliveries of reports by one channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// When one was last delivered.
    pub last_success: Option<DateTime<Utc>>,
    /// Number of failed deliveries.
    pub failures: u64,
}

/// What the recipients of mail already know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mailed {
    /// When the last email was created; it was sent, or waits in the spool.
    pub last: Option<DateTime<Utc>>,
    /// The status of its run.
    pub status: Option<Status>,
    /// The names in its subject.
    pub names: Vec<String>,
    /// When a good run was last mailed.
    pub last_ok: Option<DateTime<Utc>>,
    /// Runs since then that were not mailed, oldest first; at most [`HISTORY`].
    pub untold: VecDeque<Untold>,
    /// The damaged restore points that an email has named, by domain, as long as they are damaged.
    pub damaged: BTreeMap<String, BTreeSet<PointId>>,
}

/// A run that was not mailed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Untold {
    /// When it began.
    pub time: DateTime<Utc>,
    /// Its status.
    pub status: Status,
    /// What its subject would have been.
    pub subject: String,
}

/// How a run ended for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobResult {
    /// Everything that was due is backed up.
    Success,
    /// Something was not backed up, or only in part.
    Partial,
    /// Nothing was backed up, or the run could not begin.
    Failure,
    /// A signal or a crash ended it.
    Aborted,
}

words!(JobResult { Success = "success", Partial = "partial", Failure = "failure", Aborted = "aborted" });

/// The states that are counted for the domains of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tally {
    /// It was due.
    Selected,
    /// Backed up.
    Success,
    /// Not backed up, or only in part.
    Failure,
    /// Skipped by a hook.
    Skipped,
    /// Due, but the run ended before its turn.
    NotRun,
}

words!(Tally {
    Selected = "selected",
    Success = "success",
    Failure = "failure",
    Skipped = "skipped",
    NotRun = "not_run",
});

/// How an attempt ended, for monitoring: a partial backup is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DomainResult {
    /// Backed up.
    Success,
    /// Backed up, with a warning or something left to clean up.
    Warning,
    /// Not backed up, or only in part.
    Failure,
    /// Skipped by a hook.
    Skipped,
}

words!(DomainResult { Success = "success", Warning = "warning", Failure = "failure", Skipped = "skipped" });

/// A stage of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// All hooks together.
    Hooks,
    /// The guest's file systems were frozen.
    Frozen,
    /// The overlay, or the backup job, existed.
    Snapshot,
    /// Reading the disks and writing the archive.
    Copy,
    /// Committing overlays back.
    Commit,
    /// Removing old points.
    Prune,
}

words!(Stage {
    Hooks = "hooks",
    Frozen = "frozen",
    Snapshot = "snapshot",
    Copy = "copy",
    Commit = "commit",
    Prune = "prune",
});

/// How reports are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A mail server.
    Smtp,
    /// The local `sendmail`.
    Sendmail,
}

words!(Channel { Smtp = "smtp", Sendmail = "sendmail" });

impl From<Outcome> for Tally {
    fn from(outcome: Outcome) -> Tally {
        match outcome {
            Outcome::Success => Tally::Success,
            Outcome::Skipped => Tally::Skipped,
            Outcome::Partial | Outcome::Failed => Tally::Failure,
        }
    }
}
