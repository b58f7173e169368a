//! What the runs of this host have come to: `ledger.json` in the state directory.
//!
//! Owns: what must outlive a run to be told later: counters, the last result of every domain, a short history.
//! Must not: hold what can be seen by looking (that is the [`Survey`]), ask libvirt, or render anything.

mod ahead;
mod file;
mod fold;
pub mod standing;
mod survey;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use file::{Error, update};
pub use survey::{Seen, SeenJob, SeenPoints, SeenRepository, Survey};

use crate::model::words::words;
use crate::model::{Consistency, FailureReason, HookStatus, Outcome, PointId, Status};

/// What all runs of this host came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Whether the configuration could be read when that was last tried.
    pub config_ok: bool,
    /// Where the metrics were last asked to go: a configuration that cannot be read must be told there, too.
    pub textfile: Option<PathBuf>,
    /// By `job` of the configuration.
    pub jobs: BTreeMap<String, Job>,
    /// By name.
    pub domains: BTreeMap<String, Domain>,
    /// By name of the hook.
    pub hooks: BTreeMap<String, Hook>,
    /// By channel.
    pub reports: BTreeMap<Channel, Delivery>,
    /// What was mailed.
    pub mailed: Mailed,
    /// When old points were last removed without an error.
    pub last_prune: Option<DateTime<Utc>>,
    /// The latest time of the future that was removed from the ledger. The next run reports it and resets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<DateTime<Utc>>,
}

/// What the runs of one job came to. A run belongs to every job of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// When a run last began.
    pub last_start: Option<DateTime<Utc>>,
    /// When a run last ended, however it did.
    pub last_completion: Option<DateTime<Utc>>,
    /// When a run last ended with all of the job's due domains saved, but those that hooks left out.
    pub last_success: Option<DateTime<Utc>>,
    /// How long the last run took, in milliseconds.
    pub last_duration_ms: u64,
    /// The run that is on; one that is found here when the next begins was killed.
    pub running: Option<Uuid>,
    /// Runs, by how they ended.
    pub runs: BTreeMap<RunResult, u64>,
    /// Domains of the last run, by what became of them.
    pub domains: BTreeMap<DomainState, u64>,
}

/// What became of the backups of one domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Domain {
    /// The job it belonged to when it was last tried.
    pub job: String,
    /// When it was last tried.
    pub last_attempt: Option<DateTime<Utc>>,
    /// When it was first saved whole: nobody waits for a check of what is younger.
    #[serde(default)]
    pub first_success: Option<DateTime<Utc>>,
    /// When it was last saved whole: the time of the restore point.
    pub last_success: Option<DateTime<Utc>>,
    /// How the last attempt ended.
    pub last_result: Option<DomainResult>,
    /// The error of the last attempt, with its causes, where it failed.
    pub last_error: Option<String>,
    /// The first warning of the last attempt, and how many more there were.
    pub last_warning: Option<String>,
    /// Attempts that failed since the last that did not.
    pub consecutive_failures: u64,
    /// Failures ever, by reason.
    pub failures: BTreeMap<FailureReason, u64>,
    /// How long the last attempt took, in milliseconds.
    pub last_duration_ms: u64,
    /// The stages of the last attempt, in milliseconds.
    pub last_stages_ms: BTreeMap<Stage, u64>,
    /// Bytes read by the last attempt that wrote a restore point.
    pub last_read_bytes: u64,
    /// Bytes stored by the last attempt that wrote a restore point.
    pub last_stored_bytes: u64,
    /// Size of its disks as the guest sees them, in bytes.
    pub virtual_bytes: u64,
    /// What the last restore point reached.
    pub consistency: Option<Consistency>,
    /// What the configuration wanted of it.
    pub wanted: Option<Consistency>,
    /// When a restore point of it was last found good, every byte.
    pub last_verify: Option<DateTime<Utc>>,
    /// When a restore of it last succeeded.
    pub last_restore: Option<DateTime<Utc>>,
    /// The last durations of its hooks, in milliseconds, by name.
    pub hooks_ms: BTreeMap<String, u64>,
    /// The last attempts, oldest first; at most [`HISTORY`].
    pub history: VecDeque<Attempt>,
}

/// Attempts that are remembered of a domain.
pub const HISTORY: usize = 60;

/// One attempt to back up a domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub time: DateTime<Utc>,
    /// How it ended.
    pub result: DomainResult,
    /// What it wrote.
    pub point: Option<PointId>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes stored; 0 where no restore point was written.
    pub stored_bytes: u64,
}

/// What the runs of one hook came to, over all domains.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// How often it ended how.
    pub runs: BTreeMap<HookStatus, u64>,
    /// How long it last ran for the run as a whole, in milliseconds; for domains see [`Domain::hooks_ms`].
    pub last_ms: Option<u64>,
}

/// What became of the reports sent by one channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// When one was last delivered.
    pub last_success: Option<DateTime<Utc>>,
    /// How many could not be.
    pub failures: u64,
}

/// What those who read mail were told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mailed {
    /// When a mail was last made; it was sent, or waits in the spool.
    pub last: Option<DateTime<Utc>>,
    /// What that run came to.
    pub status: Option<Status>,
    /// Whom or what that was about.
    pub names: Vec<String>,
    /// When a good run was last mailed.
    pub last_ok: Option<DateTime<Utc>>,
    /// Runs since then that were not mailed, oldest first; at most [`HISTORY`].
    pub untold: VecDeque<Untold>,
    /// The damaged restore points that a mail has named, by domain, as long as they are damaged.
    pub damaged: BTreeMap<String, BTreeSet<PointId>>,
}

/// A run that was not mailed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Untold {
    /// When it began.
    pub time: DateTime<Utc>,
    /// What it came to.
    pub status: Status,
    /// What its subject would have been.
    pub subject: String,
}

/// How a run ended for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunResult {
    /// All that was due is saved.
    Success,
    /// Something was not saved, or not whole.
    Partial,
    /// Nothing was saved, or the run could not begin.
    Failure,
    /// A signal or a crash ended it.
    Aborted,
}

words!(RunResult { Success = "success", Partial = "partial", Failure = "failure", Aborted = "aborted" });

/// What became of a domain in a run of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DomainState {
    /// It was due.
    Selected,
    /// Saved whole.
    Success,
    /// Not saved, or not whole.
    Failure,
    /// Left out as a hook asked.
    Skipped,
    /// Due, and not reached before the run ended.
    NotRun,
}

words!(DomainState {
    Selected = "selected",
    Success = "success",
    Failure = "failure",
    Skipped = "skipped",
    NotRun = "not_run",
});

/// How an attempt ended, as it is watched: a domain that was not saved whole has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DomainResult {
    /// Saved whole.
    Success,
    /// Saved whole, and there is something to know, or to clean up.
    Warning,
    /// Not saved, or not whole.
    Failure,
    /// Left out as a hook asked.
    Skipped,
}

words!(DomainResult { Success = "success", Warning = "warning", Failure = "failure", Skipped = "skipped" });

/// A part of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Hooks, all together.
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

/// A way for reports to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A mail server.
    Smtp,
    /// The local `sendmail`.
    Sendmail,
}

words!(Channel { Smtp = "smtp", Sendmail = "sendmail" });

impl From<Outcome> for DomainState {
    fn from(outcome: Outcome) -> DomainState {
        match outcome {
            Outcome::Success => DomainState::Success,
            Outcome::Skipped => DomainState::Skipped,
            Outcome::Partial | Outcome::Failed => DomainState::Failure,
        }
    }
}
