//! The contents of `survey.json` in the state directory: the last observed state of libvirt, the configuration and the
//! target. Must not observe anything itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{Consistency, PointId, StoreKind};

/// The state at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// When it was observed.
    pub time: DateTime<Utc>,
    /// The host section of the configuration.
    pub host: String,
    /// Every domain that libvirt, the configuration (by its exact name) or the target knows.
    pub domains: BTreeMap<String, Seen>,
    /// The jobs of the configuration.
    pub jobs: BTreeMap<String, SeenJob>,
    /// The hooks of the configuration, by name.
    #[serde(default)]
    pub hooks: BTreeSet<String>,
    /// The planned seconds between two copies of the repository, by their name in the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copies: BTreeMap<String, u64>,
    /// The target; the default one, if there are two.
    pub repository: SeenRepository,
    /// The other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<SeenRepository>,
    /// Whether libvirt responded; if not, `defined` and `leftover_overlays` are those of the previous survey.
    pub libvirt_ok: bool,
}

impl Survey {
    /// All targets.
    pub fn targets(&self) -> impl Iterator<Item = &SeenRepository> {
        std::iter::once(&self.repository).chain(&self.other)
    }

    /// Whether the restore points of a domain store only what others lack.
    pub fn is_deduplicated(&self, domain: &str) -> bool {
        let store = self.domains.get(domain).and_then(|seen| seen.store);
        store.map_or(self.repository.deduplicated, |store| store == StoreKind::Repository)
    }
}

/// The state of a domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The job that covers it; `None` if no entry of the configuration does.
    pub job: Option<String>,
    /// The configuration excludes it from backups.
    #[serde(default)]
    pub excluded: bool,
    /// libvirt defines it.
    pub defined: bool,
    /// Disks on an overlay of kvmbackup.
    pub leftover_overlays: u64,
    /// Since when libvirt defines it and an entry covers it, as far as surveys know.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
    /// Longest time between two days of a week on which it is due, in seconds; 0 without a job.
    pub expected_interval_s: u64,
    /// Where its backups are stored; `None` without a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreKind>,
    /// The configured consistency; `None` without a job.
    pub wanted: Option<Consistency>,
    /// Its restore points.
    pub points: SeenPoints,
}

/// The restore points of a domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenPoints {
    /// Number of points.
    pub count: u64,
    /// Total size, in bytes.
    pub bytes: u64,
    /// Those of them in the other target, if there are two.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_bytes: u64,
    /// When the oldest was taken.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest was taken.
    pub newest: Option<DateTime<Utc>>,
    /// Those whose last verification found damage.
    #[serde(default)]
    pub damaged: Vec<PointId>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// A job of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenJob {
    /// Longest time between two days of a week on which any of its domains is due, in seconds.
    pub expected_interval_s: u64,
    /// Restore points per domain that retention keeps once there are enough; 0 if it keeps all.
    pub minimum_restore_points: u64,
}

/// The state of the target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenRepository {
    /// Its directory.
    pub path: PathBuf,
    /// It responded in time, is mounted if required, and is writable.
    pub up: bool,
    /// Size of its file system, in bytes.
    pub capacity_bytes: u64,
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Bytes of all restore points.
    pub stored_bytes: u64,
    /// Each restore point stores only what the others lack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deduplicated: bool,
}
