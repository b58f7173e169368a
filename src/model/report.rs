//! The result of one run, from which text, JSON, mail and metrics are made. Must not render anything.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DomainOutcome, Failure, HookResult, Outcome, PointId, RunResult};

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Version of this structure; raised when a field changes its meaning or is removed.
    pub schema: u32,
    /// The version of the program.
    pub version: String,
    /// Identifies the run.
    pub run_id: Uuid,
    /// The host section of the configuration.
    pub host: String,
    /// The jobs of the configuration, or those of the domains that the command line names.
    #[serde(default)]
    pub jobs: Vec<String>,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// Every domain that was due.
    pub domains: Vec<DomainOutcome>,
    /// The names of configured domains that were not due.
    pub not_due: Vec<String>,
    /// What this run recovered from an interrupted one.
    pub recovered: Vec<String>,
    /// Errors of the run, not of a single domain.
    pub errors: Vec<Failure>,
    /// What this run could not recover from an interrupted one; the next run tries again.
    #[serde(default)]
    pub leftovers: Vec<Failure>,
    /// The signal that ended it early.
    pub signal: Option<i32>,
    /// The results of the hooks of the run, in the order in which they ended.
    #[serde(default)]
    pub hooks: Vec<HookResult>,
    /// Problems that did not prevent the backups.
    #[serde(default)]
    pub warnings: Vec<Failure>,
    /// The restore points whose last check found damage.
    #[serde(default)]
    pub damaged: Vec<DamagedPoint>,
    /// What a maintenance of the repository did, one line per step, if the report is about one instead of a run. Only
    /// for emails.
    #[serde(skip)]
    pub maintenance: Option<Vec<String>>,
}

/// A restore point whose last check found damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPoint {
    /// Its name.
    pub domain: String,
    /// The damaged restore point.
    pub id: PointId,
    /// The damage, with a hint.
    #[serde(flatten)]
    pub failure: Failure,
}

/// Sums over a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Domains that were backed up.
    pub success: usize,
    /// Domains that were only partly backed up.
    pub partial: usize,
    /// Domains that hooks skipped.
    pub skipped: usize,
    /// Domains that were not backed up.
    pub failed: usize,
    /// Bytes read from domains with a restore point.
    pub read_bytes: u64,
    /// Bytes of their archives.
    pub stored_bytes: u64,
}

impl RunReport {
    /// The version that this program writes.
    pub const SCHEMA: u32 = 1;

    /// The report of a run that has just begun.
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
            maintenance: None,
        }
    }

    /// The worst result; a signal takes precedence.
    pub fn result(&self) -> RunResult {
        match self.signal {
            Some(signal) => RunResult::Signal(signal),
            None if !self.errors.is_empty() => RunResult::Failed,
            None if self.domains.iter().any(|domain| domain.outcome.is_failure()) => RunResult::Failed,
            None if self.is_untidy() => RunResult::Untidy,
            None => RunResult::Good,
        }
    }

    /// Whether this run or an earlier one left something that must be cleaned up.
    pub fn is_untidy(&self) -> bool {
        !self.leftovers.is_empty() || self.domains.iter().any(|domain| !domain.leftovers.is_empty())
    }

    /// Why the result is not good, in one line.
    pub fn failure(&self) -> Option<Failure> {
        if self.result() == RunResult::Good {
            return None;
        }
        let failed = self.domains.iter().filter(|domain| domain.outcome.is_failure());
        let names: Vec<&str> = failed.map(|domain| domain.domain.as_str()).collect();
        let message = match self.signal {
            Some(signal) => format!("stopped by signal {signal}"),
            None if names.is_empty() => "cleanup incomplete".to_owned(),
            None => format!("not (fully) backed up: {}", names.join(", ")),
        };
        Some(self.errors.first().cloned().unwrap_or(Failure { message, hint: None }))
    }

    /// The sums of all domains.
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
    fn worst_outcome_decides_the_result() {
        let failure = || Failure { message: "x".to_owned(), hint: None };
        let mut report = crate::report::sample::good();
        assert_eq!((report.result(), report.failure()), (RunResult::Good, None));
        report.domains[0].leftovers.push(failure());
        assert_eq!(report.result(), RunResult::Untidy);
        report.domains[0].outcome = Outcome::Partial;
        assert_eq!(report.result(), RunResult::Failed);
        report.domains.clear();
        assert_eq!(report.result(), RunResult::Good);
        report.errors.push(failure());
        assert_eq!((report.result(), report.failure()), (RunResult::Failed, Some(failure())));
        report.signal = Some(15);
        assert_eq!(report.result(), RunResult::Signal(15));
    }

    #[test]
    fn every_released_version_is_readable() {
        let read = |bytes: &[u8]| version::parse::<RunReport>(bytes, RunReport::SCHEMA);
        version::history::assert_read("report", read, |report| serde_json::to_vec(report).unwrap());
    }
}
