//! Owns: what the engine tells while it works. Must not: render; a terminal does.

use crate::model::DomainOutcome;

/// Hears of progress. Called from several threads.
pub trait Monitor: Sync {
    /// A domain goes on to its next stage (`freeze`, `snapshot`, `read`, `commit`, …).
    fn stage(&self, domain: &str, stage: &str) {
        let _ = (domain, stage);
    }
    /// So many bytes will be read of the domain's disks.
    fn expect(&self, domain: &str, bytes: u64) {
        let _ = (domain, bytes);
    }
    /// So many more bytes were read.
    fn advance(&self, domain: &str, bytes: u64) {
        let _ = (domain, bytes);
    }
    /// The domain is done.
    fn done(&self, outcome: &DomainOutcome) {
        let _ = outcome;
    }
}

/// Hears nothing.
pub struct Silent;

impl Monitor for Silent {}
