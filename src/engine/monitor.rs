//! Passes progress of the engine to its caller. Must not render it.

use crate::model::DomainOutcome;

/// Receives progress. Called from several threads.
pub trait Monitor: Sync {
    /// A domain enters its next stage (`freeze`, `snapshot`, `read`, `commit`, …).
    fn stage(&self, domain: &str, stage: &str) {
        let _ = (domain, stage);
    }
    /// This many bytes of the domain's disks will be read.
    fn expect(&self, domain: &str, bytes: u64) {
        let _ = (domain, bytes);
    }
    /// This many more bytes were read.
    fn advance(&self, domain: &str, bytes: u64) {
        let _ = (domain, bytes);
    }
    /// The domain is done.
    fn done(&self, outcome: &DomainOutcome) {
        let _ = outcome;
    }
}

/// Ignores all progress.
pub struct Silent;

impl Monitor for Silent {}
