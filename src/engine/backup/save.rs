//! Makes one attempt at a restore point: begin, capture, copy, release, publish. Must not retry or rotate.

use std::path::Path;
use std::time::Instant;

use chrono::Utc;

use super::Backup;
use super::copy::{Prepared, Watched};
use super::members::{self, Collected};
use crate::engine::capture::{self, Capture};
use crate::engine::journal::Record;
use crate::engine::ready::{self, Worth};
use crate::engine::shrunk::Before;
use crate::engine::stamps::Stamps;
use crate::engine::tracking::{self, Tracking};
use crate::engine::{Error, target};
use crate::model::{Consistency, DiskOutcome, Domain, DomainState, Failure, Format, NewId, Span, WholeRead};
use crate::plan::{CapturePlan, ReadFrom};
use crate::store::{Added, Intent, PointWriter};
use crate::sys::host;

/// Bytes read between two checks of the free space.
const SPACE_CHECK: u64 = 16 << 20;

impl Backup<'_> {
    /// Begins the restore point and writes it. On failure, removes what exists of it.
    pub(super) fn save(&mut self, domain: &Domain, plan: &CapturePlan, record: &mut Record) -> Result<(), Error> {
        let intent = Intent {
            id: NewId::Taken(Utc::now()),
            codec: self.settings.compression,
            threads: (host::cores() / self.context.run.settings.parallel).max(1),
            cancel: self.context.run.cancel.clone(),
        };
        let begun =
            self.store.begin(&domain.id, &intent, |path| record.update(|entry| entry.partial = Some(path.to_owned())));
        // A hung target may still create the file after this run, so its journal entry stays.
        let mut point = begun.inspect_err(|error: &Error| {
            let left = error.is_target_stall().then(|| error.failure());
            self.outcome.leftovers.extend(left);
        })?;
        let written = self.write(domain, plan, &mut point, record);
        if written.is_err() {
            let left = point.discard().err().map(Error::from);
            self.outcome.leftovers.extend(left.map(|error| error.failure()));
            let left = tracking::abandon(self.context.run.hypervisor, record).err();
            self.outcome.leftovers.extend(left.map(|error| error.failure()));
        }
        written
    }

    fn write(
        &mut self,
        domain: &Domain,
        plan: &CapturePlan,
        point: &mut PointWriter,
        record: &mut Record,
    ) -> Result<(), Error> {
        let (name, hypervisor) = (&domain.id.name, self.context.run.hypervisor);
        // The state directory is locked, so no other run uses this path.
        let sockets = self.context.run.settings.state_dir.join("sockets").join(domain.id.uuid.simple().to_string());
        record.update(|entry| entry.sockets = Some(sockets.clone()))?;
        let mut collected = members::collect(domain);
        self.outcome.warnings.extend(members::not_saved(domain).chain(std::mem::take(&mut collected.warnings)));
        self.outcome.not_saved = domain.outside.iter().cloned().chain(members::internal_snapshots(plan)).collect();

        self.context.run.monitor.stage(name, "snapshot");
        let stamps = Stamps::of(domain, plan, collected.written());
        if !capture::is_needed(plan) {
            self.note_worth(ready::at_rest(hypervisor, domain)?);
        }
        self.note_worth(ready::read_directly(domain, plan)?);
        let tracking = Tracking::plan(hypervisor, (domain, plan), self.settings, point, self.context.run_id)?;
        let mut capture = Capture::prepare(hypervisor, domain, (plan, self.settings, tracking), &sockets, record)?;
        let copied = self
            .hold_still(&mut capture, plan, record)
            .and_then(|()| self.phases.artifacts().map(|artifacts| collected.add_artifacts(artifacts)))
            .and_then(|()| self.copy((domain, plan), &capture, point, collected));
        let note = capture.note(plan.method, &only_changed(&self.outcome.disks));
        self.outcome.captured_ms = capture.age().map(|age| age.as_millis() as u64);
        self.context.run.monitor.stage(name, "commit");
        let commit = Instant::now();
        let committed = self.give_back(capture, record, copied.as_ref().err());
        self.outcome.stages_ms.insert("commit".into(), commit.elapsed().as_millis() as u64);
        copied?;
        committed?;

        if domain.state == DomainState::Off {
            let state = hypervisor.state(&domain.id)?;
            if state != DomainState::Off || stamps.changed() {
                return Err(Error::Changed { what: "the domain was started, or one of its files changed,".into() });
            }
        }
        self.context.run.monitor.stage(name, "write");
        if let Some(note) = &note {
            point.leave_note(serde_json::to_value(note).map_err(Error::Json)?);
        }
        let stored = point.commit()?;
        self.outcome.stored_bytes = stored.bytes;
        self.outcome.point = Some(stored.id);
        record.update(|entry| (entry.partial, entry.checkpoint) = (None, None))?;
        if point.is_incremental() && domain.state != DomainState::Off {
            // A failure does not harm this point, and the next run tries again.
            let kept = note.as_ref().map(|note| note.checkpoint.as_str());
            let kept = tracking::keep_only(hypervisor, &domain.id, kept, &read_whole(plan, &self.outcome.disks));
            self.outcome.warnings.extend(kept.err().map(|error| error.failure()));
        }
        Ok(())
    }

    /// The worst consistency of all disks counts.
    fn note_worth(&mut self, worth: Worth) {
        self.outcome.consistency = self.outcome.consistency.max(worth.consistency);
        self.outcome.warnings.extend(worth.warnings);
    }

    /// Captures the disks between the snapshot hooks. Does nothing if all disks can be read directly.
    fn hold_still(&mut self, capture: &mut Capture<'_>, plan: &CapturePlan, record: &mut Record) -> Result<(), Error> {
        if capture.is_empty() {
            return Ok(());
        }
        self.phases.know(&self.outcome);
        self.phases.enter(Span::Snapshot)?;
        let (reached, started) = capture.start(plan, self.settings, record);
        if reached.consistency.is_some() {
            self.outcome.consistency = reached.consistency;
        }
        self.outcome.frozen_ms = reached.frozen.map(|time| time.as_millis() as u64);
        self.outcome.warnings.extend(reached.told);
        self.phases.know(&self.outcome);
        let left = self.phases.leave(Span::Snapshot, started.as_ref().err().map(Error::failure).as_ref());
        if self.outcome.consistency == Some(Consistency::Filesystem) && self.phases.quiesced() {
            self.outcome.consistency = Some(Consistency::Application);
        }
        started.and(left)
    }

    /// Releases the capture even if a commit hook fails, because the guest comes first.
    fn give_back(&mut self, capture: Capture<'_>, record: &mut Record, failed: Option<&Error>) -> Result<(), Error> {
        let commits = capture.has_overlays();
        self.phases.know(&self.outcome);
        let entered = if commits { self.phases.enter(Span::Commit) } else { Ok(()) };
        let left = capture.release(record);
        self.outcome.leftovers.extend(left.iter().map(Error::failure));
        let failed = left.first().or(failed).map(Error::failure);
        self.phases.know(&self.outcome);
        entered.and(self.phases.leave(Span::Commit, failed.as_ref()))
    }

    /// Reads the disks into the restore point, after the manifest and the other files.
    fn copy(
        &mut self,
        (domain, plan): (&Domain, &CapturePlan),
        capture: &Capture<'_>,
        point: &mut PointWriter,
        collected: Collected,
    ) -> Result<(), Error> {
        let (began, context, name) = (Instant::now(), self.context, &domain.id.name);
        context.run.monitor.stage(name, "read");
        let prepared = prepare(domain, plan, capture)?;
        self.note_disks(plan, &prepared);
        let of_files = collected.bytes();
        let expected = prepared.iter().map(|disk| disk.changed_bytes.unwrap_or(disk.data_bytes));
        context.run.monitor.expect(name, expected.sum());

        point.manifest(&self.manifest((domain, plan), point, &collected))?;
        members::write(point, domain, collected)?;
        let (mut since, store) = (0, &self.store);
        let mut may_go_on = |bytes: u64| {
            if let Some(signal) = context.run.cancel.signal() {
                return Err(Error::Cancelled(signal));
            }
            context.run.monitor.advance(name, bytes);
            since += bytes;
            if since < SPACE_CHECK {
                return Ok(());
            }
            since = 0;
            capture.check_space()?;
            target::expect_room(context.run.settings, store)
        };
        let mut read = 0;
        for (disk, outcome) in prepared.into_iter().zip(&mut self.outcome.disks) {
            let member = point.disk_member(&disk.target);
            let mut watched = Watched { disk, may_go_on: &mut may_go_on };
            let added = point.disk(&member, &mut watched)?;
            note_read(outcome, &watched.disk, added);
            read += outcome.read_bytes;
            watched.disk.finish()?;
        }
        // Set only now, so that a report never counts bytes that were not read.
        self.outcome.read_bytes = read + of_files;
        self.outcome.stages_ms.insert("read".into(), began.elapsed().as_millis() as u64);
        Ok(())
    }

    /// Records the disks that will be read, and warns about those that lost most of their contents.
    fn note_disks(&mut self, plan: &CapturePlan, prepared: &[Prepared]) {
        let targets: Vec<&str> = prepared.iter().map(|disk| disk.target.as_str()).collect();
        let before = (!self.context.run.selection.accept_smaller).then(|| Before::of(&self.store, self.id, &targets));
        for (planned, disk) in plan.disks.iter().zip(prepared) {
            let mut saved = DiskOutcome {
                target: disk.target.clone(),
                virtual_bytes: disk.virtual_bytes,
                data_bytes: disk.data_bytes,
                encrypted: planned.disk.encrypted,
                ..DiskOutcome::default()
            };
            let lost: Option<Failure> = before.as_ref().and_then(|before| before.lost(&saved));
            saved.shrunk = lost.is_some();
            self.outcome.warnings.extend(lost);
            self.outcome.disks.push(saved);
        }
    }
}

/// Records what reading a disk cost.
fn note_read(outcome: &mut DiskOutcome, disk: &Prepared, added: Option<Added>) {
    outcome.read_bytes = disk.read_bytes;
    if let Some(added) = added {
        outcome.changed_bytes = disk.changed_bytes.filter(|_| added.only_changed);
        // The changes were known, but the previous point does not have this disk in this size.
        let resized = (disk.changed_bytes.is_some() && !added.only_changed).then_some(WholeRead::Resized);
        outcome.whole_read = disk.why_whole().or(resized);
        (outcome.new_bytes, outcome.stored_bytes) = (Some(added.new_bytes), Some(added.stored_bytes));
    }
}

/// The qcow2 images that were read whole: they may contain bitmaps that no checkpoint has.
fn read_whole<'a>(plan: &'a CapturePlan, disks: &[DiskOutcome]) -> Vec<&'a Path> {
    let whole = plan.disks.iter().zip(disks).filter(|(_, disk)| disk.whole_read.is_some()).map(|(planned, _)| planned);
    let captured =
        whole.filter(|planned| planned.how == ReadFrom::Capture && planned.disk.image.format == Format::Qcow2);
    captured.filter_map(|planned| planned.disk.image.source.path()).collect()
}

/// The targets of the disks that were read only where they changed.
fn only_changed(disks: &[DiskOutcome]) -> Vec<&str> {
    disks.iter().filter(|disk| disk.changed_bytes.is_some()).map(|disk| disk.target.as_str()).collect()
}

/// Connects to every disk and queries its extents.
fn prepare(domain: &Domain, plan: &CapturePlan, capture: &Capture<'_>) -> Result<Vec<Prepared>, Error> {
    let prepare = |planned: &crate::plan::PlannedDisk| {
        let disk = &planned.disk;
        let force_share = domain.state == DomainState::Off || disk.readonly || disk.transient;
        let reading = capture.open(disk, &planned.how, force_share);
        let reading = reading.map_err(|source| Error::Read { target: disk.target.clone(), source })?;
        Prepared::new(&disk.target, reading)
    };
    plan.disks.iter().map(prepare).collect()
}
