//! Copies a new restore point from the repository to an archive, for `store: both`. Must not read the guest: the copy has
//! the same instant as the point.

use std::path::Path;

use super::Backup;
use crate::engine::journal::Record;
use crate::engine::transfer::{Copying, Transfer};
use crate::engine::{Error, points, target};
use crate::model::StoreKind;
use crate::store::Point;

impl Backup<'_> {
    /// Copies the point of this run. The journal names the unfinished archive.
    pub(super) fn copy_to_archive(&mut self, record: &mut Record) -> Result<(), Error> {
        self.expect_usable(StoreKind::Archive)?;
        let run = self.context.run;
        let missing = |kind| move || Error::NoStore { kind };
        let from = self.store.only(StoreKind::Repository).ok_or_else(missing(StoreKind::Repository))?;
        let to = self.store.only(StoreKind::Archive).ok_or_else(missing(StoreKind::Archive))?;
        target::expect_room(run.settings, &to)?;
        let Some(id) = self.outcome.point else { return Ok(()) };
        let point = points::find(&from, &self.id.name, points::When::Id(id))?;
        run.monitor.stage(&self.id.name, "archive");
        let copying =
            Copying { from: &from, to: &to, settings: run.settings, monitor: run.monitor, cancel: run.cancel };
        let copied =
            copying.one(&point, &mut |path: &Path| record.update(|entry| entry.partial = Some(path.to_owned())));
        // What could not be discarded stays in the journal.
        if copied.is_ok() {
            record.update(|entry| entry.partial = None)?;
        }
        if let Transfer::Copied(Point { bytes, .. }) = copied? {
            self.outcome.stored_bytes += bytes;
        }
        Ok(())
    }
}
