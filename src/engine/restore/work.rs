//! Owns: what all writing of one restore shares: whom to tell, when to stop. Must not: write.

use std::path::Path;

use crate::engine::{Error, Monitor};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

/// What all writing of one restore shares.
pub struct Work<'a> {
    /// The archive, for messages.
    pub archive: &'a Path,
    /// How long the archive may keep it waiting.
    pub patience: &'a Patience,
    /// The domain's name, for the monitor.
    pub domain: &'a str,
    /// Who hears of progress.
    pub monitor: &'a dyn Monitor,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

impl Work<'_> {
    /// Fails when a signal asks for the end.
    pub fn go_on(&self) -> Result<(), Error> {
        self.cancel.signal().map_or(Ok(()), |signal| Err(Error::Cancelled(signal)))
    }

    /// Tells of bytes that were read.
    pub fn advance(&self, bytes: u64) {
        self.monitor.advance(self.domain, bytes);
    }
}
