//! Owns: `survey.json` in the state directory: what was found when libvirt, the configuration and the target were last
//! looked at. Must not: look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{Consistency, PointId};

/// What was found at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// When.
    pub time: DateTime<Utc>,
    /// The section of the configuration.
    pub host: String,
    /// Every domain that libvirt, the configuration (by its exact name) or the target knows.
    pub domains: BTreeMap<String, Seen>,
    /// The jobs of the configuration.
    pub jobs: BTreeMap<String, SeenJob>,
    /// The hooks of the configuration, by name.
    #[serde(default)]
    pub hooks: BTreeSet<String>,
    /// The target.
    pub repository: SeenRepository,
    /// Whether libvirt answered: if not, `defined` and `leftover_overlays` are those of the survey before.
    pub libvirt_ok: bool,
}

/// A domain as it was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The job that covers it; `None` if no entry of the configuration does.
    pub job: Option<String>,
    /// The configuration says that it is not backed up.
    #[serde(default)]
    pub excluded: bool,
    /// libvirt has it.
    pub defined: bool,
    /// Disks that are on an overlay of ours.
    pub leftover_overlays: u64,
    /// Since when libvirt has it and an entry covers it, by the surveys since then.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
    /// Seconds between the days it is due, the longest gap of a week; 0 without a job.
    pub expected_interval_s: u64,
    /// What its backups should reach; `None` without a job.
    pub wanted: Option<Consistency>,
    /// Its restore points.
    pub points: SeenPoints,
}

/// The restore points of a domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenPoints {
    /// How many.
    pub count: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// When the oldest was taken.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest was taken.
    pub newest: Option<DateTime<Utc>>,
    /// Those whose last check found damage.
    #[serde(default)]
    pub damaged: Vec<PointId>,
}

/// A job of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenJob {
    /// Seconds between the days on which any of its domains is due, the longest gap of a week.
    pub expected_interval_s: u64,
    /// The fewest restore points that retention keeps of a domain once there are enough; 0 if it keeps all.
    pub minimum_restore_points: u64,
}

/// The target as it was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenRepository {
    /// Its folder.
    pub path: PathBuf,
    /// It answered in time, it is mounted where that is asked for, and may be written to.
    pub up: bool,
    /// Size of its file system, in bytes.
    pub capacity_bytes: u64,
    /// What may still be written, in bytes.
    pub available_bytes: u64,
    /// Bytes of all restore points.
    pub stored_bytes: u64,
}
