//! The result of the backup of one domain. Must not render it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::command::{quoted, typed};
use super::words::words;
use super::{HookResult, NotSaved, PointId};

/// The consistency of the saved contents, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consistency {
    /// Nothing could change: the guest was off, or cannot write to any of the disks.
    Offline,
    /// File systems were frozen while an operator's session locked the applications, which had written all of their
    /// data.
    Application,
    /// The guest's file systems were frozen when all disks were captured at one instant.
    Filesystem,
    /// All disks were captured at one instant, like after a power cut.
    Crash,
}

words!(Consistency { Offline = "offline", Application = "application", Filesystem = "filesystem", Crash = "crash" });

/// How a domain was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// An external snapshot, committed back afterwards.
    Snapshot,
    /// libvirt's backup API in pull mode.
    Pull,
    /// The images of a domain that is off, read directly.
    Direct,
}

words!(Method { Snapshot = "snapshot", Pull = "pull", Direct = "direct" });

/// Why a backup into a repository reads a whole disk and not only what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WholeRead {
    /// It is the first restore point of the guest.
    First,
    /// The configuration wants it.
    Never,
    /// The guest has internal snapshots.
    InternalSnapshot,
    /// Snapshots do not track changes.
    Method,
    /// The image cannot contain a bitmap, or the bitmap would not describe all changes.
    Format,
    /// Another guest may write to the disk.
    Shareable,
    /// The running guest cannot change the disk, so it was read without the guest's QEMU.
    Direct,
    /// The guest is off and has no checkpoint: libvirt can create one only for a running guest.
    Off,
    /// The checkpoint of the previous restore point is missing.
    NoCheckpoint,
    /// The disk has another image than at the previous restore point.
    Replaced,
    /// The disk has another size than at the previous restore point.
    Resized,
    /// QEMU could not use the bitmap.
    Refused,
}

words!(WholeRead {
    First = "first",
    Never = "never",
    InternalSnapshot = "internal_snapshot",
    Method = "method",
    Format = "format",
    Shareable = "shareable",
    Direct = "direct",
    Off = "off",
    NoCheckpoint = "no_checkpoint",
    Replaced = "replaced",
    Resized = "resized",
    Refused = "refused",
});

impl WholeRead {
    /// The reason for an operator; continues "read whole: ".
    pub fn text(self) -> &'static str {
        match self {
            WholeRead::First => "first restore point",
            WholeRead::Never => "`incremental: never`",
            WholeRead::InternalSnapshot => "the guest has internal snapshots",
            WholeRead::Method => "`method: snapshot` does not track changes",
            WholeRead::Format => "the image cannot track changes",
            WholeRead::Shareable => "the disk is shareable",
            WholeRead::Direct => "the guest cannot change the disk",
            WholeRead::Off => "the guest is off and has no checkpoint",
            WholeRead::NoCheckpoint => "the checkpoint of the previous restore point is missing",
            WholeRead::Replaced => "the image was replaced",
            WholeRead::Resized => "the disk was resized",
            WholeRead::Refused => "QEMU cannot use the bitmap in the image",
        }
    }
}

/// How a backup ended, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything that is configured is backed up.
    Success,
    /// Backed up, but a disk is missing, or the second of two stores.
    Partial,
    /// Skipped by a hook.
    Skipped,
    /// Not backed up.
    Failed,
}

words!(Outcome { Success = "success", Partial = "partial", Skipped = "skipped", Failed = "failed" });

impl Outcome {
    /// Whether the domain was not or only partly backed up.
    pub fn is_failure(self) -> bool {
        matches!(self, Outcome::Partial | Outcome::Failed)
    }

    /// Its word in reports, in capitals if an operator must act.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Success => "ok",
            Outcome::Partial => "PARTIAL",
            Outcome::Skipped => "skipped",
            Outcome::Failed => "FAILED",
        }
    }
}

/// What failed, from a fixed list, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureReason {
    /// A hook of the operator.
    Hook,
    /// The guest's file systems could not be frozen, or did not thaw.
    Quiesce,
    /// The snapshot or the backup job.
    Snapshot,
    /// Reading a disk or writing the archive; a disk could not be backed up.
    Copy,
    /// Committing a disk back to its base.
    Commit,
    /// A restore point is damaged.
    Verify,
    /// The target.
    Repository,
    /// A deadline passed.
    Timeout,
    /// Anything else.
    Other,
}

words!(FailureReason {
    Hook = "hook",
    Quiesce = "quiesce",
    Snapshot = "snapshot",
    Copy = "copy",
    Commit = "commit",
    Verify = "verify",
    Repository = "repository",
    Timeout = "timeout",
    Other = "other",
});

/// An error for an operator: the chain of causes, and a hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error and its causes, joined by `: `.
    pub message: String,
    /// What the operator can do.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "typed_hint", default)]
    pub hint: Option<String>,
}

impl Failure {
    /// Replaces the word `DOMAIN` in the commands of the hint, for errors that do not know the domain.
    pub fn name(&mut self, domain: &str) {
        self.hint = self.hint.take().map(|hint| hint.replace(" DOMAIN", &format!(" {}", quoted(domain))));
    }
}

/// Serializes a hint with commands that select the configuration, which a reader of the JSON may not know.
pub(super) fn typed_hint<S: Serializer>(hint: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    hint.as_deref().map(typed).serialize(to)
}

/// A disk that is in the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOutcome {
    /// Its target name in the guest.
    pub target: String,
    /// Its virtual size, in bytes.
    pub virtual_bytes: u64,
    /// Bytes of its allocated ranges: what a whole read reads.
    #[serde(default)]
    pub data_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes that the guest changed since the previous restore point, if only these were read; a multiple of the granularity
    /// of QEMU's bitmap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_bytes: Option<u64>,
    /// Why a backup into a repository read the whole disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_read: Option<WholeRead>,
    /// Bytes that were new to the repository, before compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    /// Bytes that were new to the repository, as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// It is encrypted on the host, but not in the archive.
    #[serde(default)]
    pub encrypted: bool,
    /// It is much smaller than in earlier restore points, or contains much less data. They stay until this is resolved.
    #[serde(default)]
    pub shrunk: bool,
}

/// A disk that is not in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedDisk {
    /// Its target name in the guest.
    pub target: String,
    /// Why it was skipped.
    pub reason: String,
    /// Whether it should have been saved, which makes the backup `Partial`.
    pub missed: bool,
    /// What the operator can do.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "typed_hint", default)]
    pub hint: Option<String>,
}

/// How the backup of one domain ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainOutcome {
    /// The domain's name, or an entry of the configuration that matched nothing.
    pub domain: String,
    /// Its UUID, if libvirt knew it.
    pub uuid: Option<Uuid>,
    /// Its job; empty for a name from the command line that no entry of the configuration covers.
    #[serde(default)]
    pub job: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How it was captured, once that is decided.
    pub method: Option<Method>,
    /// Why this method, if it is not the usual one.
    pub method_reason: Option<String>,
    /// The consistency that was reached.
    pub consistency: Option<Consistency>,
    /// The consistency that the configuration wants; `None` if the backup did not begin.
    #[serde(default)]
    pub wanted: Option<Consistency>,
    /// How long the guest's file systems were frozen, in milliseconds.
    pub frozen_ms: Option<u64>,
    /// How long the overlay or the backup job existed, in milliseconds.
    pub captured_ms: Option<u64>,
    /// The restore point that was written.
    pub point: Option<PointId>,
    /// The disks in the restore point.
    pub disks: Vec<DiskOutcome>,
    /// The disks not in it.
    pub skipped: Vec<SkippedDisk>,
    /// Other parts of the guest that are not in it.
    #[serde(default)]
    pub not_saved: Vec<NotSaved>,
    /// Bytes read: the allocated parts of disks, and other files.
    pub read_bytes: u64,
    /// Bytes of the archive.
    pub stored_bytes: u64,
    /// Wall time, in milliseconds.
    pub duration_ms: u64,
    /// Milliseconds by stage.
    pub stages_ms: BTreeMap<String, u64>,
    /// Restore points kept after rotation.
    pub restore_points: usize,
    /// Points that rotation removed.
    pub pruned: Vec<PointId>,
    /// Problems that did not prevent the backup.
    pub warnings: Vec<Failure>,
    /// What could not be cleaned up; the next run tries again.
    pub leftovers: Vec<Failure>,
    /// Why it failed, or was skipped.
    pub error: Option<Failure>,
    /// What failed; `None` if the run ended before the backup began.
    #[serde(default)]
    pub reason: Option<FailureReason>,
    /// The results of its hooks, in the order in which they ended.
    #[serde(default)]
    pub hooks: Vec<HookResult>,
}

impl DomainOutcome {
    /// Whether it has warnings, or something could not be cleaned up.
    pub fn warns(&self) -> bool {
        !self.warnings.is_empty() || !self.leftovers.is_empty()
    }

    /// Inserts the domain into the commands of all hints, see [`Failure::name`].
    pub fn name_in_hints(&mut self) {
        let failures = self.error.iter_mut().chain(&mut self.warnings).chain(&mut self.leftovers);
        failures.for_each(|failure| failure.name(&self.domain));
    }

    /// The outcome of a backup that has not begun.
    pub fn new(domain: &str, uuid: Option<Uuid>) -> DomainOutcome {
        DomainOutcome {
            domain: domain.to_owned(),
            uuid,
            job: String::new(),
            outcome: Outcome::Success,
            method: None,
            method_reason: None,
            consistency: None,
            wanted: None,
            frozen_ms: None,
            captured_ms: None,
            point: None,
            disks: Vec::new(),
            skipped: Vec::new(),
            not_saved: Vec::new(),
            read_bytes: 0,
            stored_bytes: 0,
            duration_ms: 0,
            stages_ms: BTreeMap::new(),
            restore_points: 0,
            pruned: Vec::new(),
            warnings: Vec::new(),
            leftovers: Vec::new(),
            error: None,
            reason: None,
            hooks: Vec::new(),
        }
    }
}
