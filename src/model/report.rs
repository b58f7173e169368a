//! Owns: what one run did, as a value that text, JSON, mail and metrics are made from. Must not: render anything.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DomainOutcome, Failure, HookResult, Outcome, PointId};

/// What one run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Version of this structure; raised when a field changes its meaning or goes away.
    pub schema: u32,
    /// The version of the program.
    pub version: String,
    /// This run.
    pub run_id: Uuid,
    /// The host section of the configuration.
    pub host: String,
    /// The jobs that the run is one of: those of the configuration, or of the domains that the command line names.
    #[serde(default)]
    pub jobs: Vec<String>,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// Every domain that was tried, or should have been.
    pub domains: Vec<DomainOutcome>,
    /// Domains that are configured and were not due, by name.
    pub not_due: Vec<String>,
    /// What this run put right of an earlier, interrupted one.
    pub recovered: Vec<String>,
    /// What concerns the run and no single domain.
    pub errors: Vec<Failure>,
    /// What an earlier run left and this one could not put right; the next one tries again.
    #[serde(default)]
    pub leftovers: Vec<Failure>,
    /// The signal that ended it early.
    pub signal: Option<i32>,
    /// What became of the hooks of the run, in the order in which they ended.
    #[serde(default)]
    pub hooks: Vec<HookResult>,
    /// What to know although it went well.
    #[serde(default)]
    pub warnings: Vec<Failure>,
    /// The restore points whose last check found damage.
    #[serde(default)]
    pub damaged: Vec<DamagedPoint>,
}

/// A restore point whose last check found damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPoint {
    /// The domain.
    pub domain: String,
    /// The point.
    pub id: PointId,
    /// What is known of the damage.
    #[serde(flatten)]
    pub failure: Failure,
}

/// Sums over a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Domains saved whole.
    pub success: usize,
    /// Domains saved in part.
    pub partial: usize,
    /// Domains left out as a hook asked.
    pub skipped: usize,
    /// Domains not saved.
    pub failed: usize,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes of archives.
    pub stored_bytes: u64,
}

impl RunReport {
    /// The version of this structure that this program writes.
    pub const SCHEMA: u32 = 1;

    /// The report of a run that has done nothing yet.
    pub fn new(host: String, run_id: Uuid, started: DateTime<Utc>) -> RunReport {
        RunReport {
            schema: RunReport::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run_id,
            host,
            jobs: Vec::new(),
            started,
            finished: started,
            domains: Vec::new(),
            not_due: Vec::new(),
            recovered: Vec::new(),
            errors: Vec::new(),
            leftovers: Vec::new(),
            signal: None,
            hooks: Vec::new(),
            warnings: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        self.domains.iter().fold(Totals::default(), |mut totals, domain| {
            match domain.outcome {
                Outcome::Success => totals.success += 1,
                Outcome::Partial => totals.partial += 1,
                Outcome::Skipped => totals.skipped += 1,
                Outcome::Failed => totals.failed += 1,
            }
            // Without a restore point nothing was stored, so the bytes read would distort the ratio.
            if domain.point.is_some() {
                totals.read_bytes += domain.read_bytes;
                totals.stored_bytes += domain.stored_bytes;
            }
            totals
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::version;
    use super::*;

    #[test]
    fn every_version_that_was_written_is_read() {
        let read = |bytes: &[u8]| version::parse::<RunReport>(bytes, RunReport::SCHEMA);
        version::history::assert_read("report", read, |report| serde_json::to_vec(report).unwrap());
    }
}
