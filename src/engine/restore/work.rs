//! What all writers of one restore share: where to report progress, when to stop. Must not write.

use std::path::Path;

use crate::engine::{Error, Monitor};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub struct Work<'a> {
    /// For messages.
    pub archive: &'a Path,
    /// Time limit for reads of the archive.
    pub patience: &'a Patience,
    /// For the monitor.
    pub domain: &'a str,
    pub monitor: &'a dyn Monitor,
    pub cancel: &'a Cancel,
}

impl Work<'_> {
    /// Fails after a signal.
    pub fn go_on(&self) -> Result<(), Error> {
        self.cancel.signal().map_or(Ok(()), |signal| Err(Error::Cancelled(signal)))
    }

    /// Reports bytes read.
    pub fn advance(&self, bytes: u64) {
        self.monitor.advance(self.domain, bytes);
    }
}
