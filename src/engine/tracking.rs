//! Decides which disks are read only where they changed since the previous restore point, and which checkpoint of ours
//! a guest has. Must not read a disk, or touch a checkpoint that is not ours.
//!
//! A checkpoint is a dirty bitmap in each qcow2 image: QEMU records there what the guest writes from then on. Invariants:
//!
//! - The note of a restore point names a checkpoint that is not newer than the contents of the point. So what changed since
//!   the point is part of what changed since the checkpoint.
//! - A bitmap is used only in the image in which it was created: a mark identifies the file, or the block device until the
//!   next boot. The bitmap and the data that it describes are in the same image, so an older state of it has both.
//! - A checkpoint becomes that of a point only when the point is committed. Until then the journal names it, and recovery
//!   deletes it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Error;
use super::journal::Record;
use super::qemu_img::{self, Limits};
use crate::config::{DomainSettings, Incremental};
use crate::hypervisor::{BackupJobs, Guests, Hypervisor, Kind, SavedState, StateKind};
use crate::model::{Disk, Domain, DomainRef, DomainState, Format, Image, Method, WholeRead};
use crate::plan::{CapturePlan, PlannedDisk, ReadFrom};
use crate::store::PointWriter;
use crate::sys::mark::{self, Mark};

/// Start of the names of our checkpoints; the ID of the run follows, so that every name is unique.
const PREFIX: &str = "kvmbackup-";

/// Limits of `qemu-img info`.
pub(super) const LIMITS: Limits = Limits { stall: Duration::from_secs(60), answer: 1 << 20 };

/// What the backup of a restore point leaves for the backup that builds on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Name of the checkpoint, and of its bitmaps.
    pub checkpoint: String,
    /// The image of each disk with a bitmap, by target.
    pub disks: BTreeMap<String, Mark>,
}

/// How the changes of a domain's disks are tracked during one backup.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    /// Since when changes are known, for the disks that are read only where they changed.
    since: Option<Note>,
    /// The checkpoint to create, with its disks.
    new: Option<Note>,
    /// Why the other disks are read whole, by target.
    whole: BTreeMap<String, WholeRead>,
}

impl Note {
    /// The note that the previous point left. One in another form is ignored.
    fn of(point: &PointWriter) -> Option<Note> {
        serde_json::from_value(point.note()?).ok()
    }
}

impl Tracking {
    /// Decides for each disk of the plan. An archive tracks nothing.
    pub fn plan(
        hypervisor: &dyn Guests,
        (domain, plan): (&Domain, &CapturePlan),
        settings: &DomainSettings,
        point: &PointWriter,
        run: Uuid,
    ) -> Result<Tracking, Error> {
        if !point.is_incremental() {
            return Ok(Tracking::default());
        }
        let states = hypervisor.saved_states(&domain.id)?;
        let general = against(settings.incremental, plan.method, &states);
        let note = Note::of(point);
        let is_known = |checkpoint: &str| {
            // While a domain is off, the bitmap in the image is what counts.
            plan.method == Method::Direct
                || states.iter().any(|state| state.kind == StateKind::Checkpoint && state.name == checkpoint)
        };
        let mut tracking = Tracking::default();
        let (mut since, mut new) = (BTreeMap::new(), BTreeMap::new());
        for planned in &plan.disks {
            let target = &planned.disk.target;
            let is_live = planned.how == ReadFrom::Capture;
            let able = general.map_or_else(|| bitmap(&planned.disk, planned.image(), is_live, domain.state), Err);
            let found = able.and_then(|mark| {
                if is_live {
                    new.insert(target.clone(), mark.clone());
                }
                let note = note.as_ref().filter(|note| is_known(&note.checkpoint));
                match note.and_then(|note| note.disks.get(target)) {
                    None if !point.has_previous() => Err(WholeRead::First),
                    None if domain.state == DomainState::Off => Err(WholeRead::Off),
                    None => Err(WholeRead::NoCheckpoint),
                    Some(before) if !before.is_certainly_same(&mark) => Err(WholeRead::Replaced),
                    Some(_) => Ok(mark),
                }
            });
            match found {
                Ok(mark) => drop(since.insert(target.clone(), mark)),
                Err(why) => drop(tracking.whole.insert(target.clone(), why)),
            }
        }
        let checkpoint = format!("{PREFIX}{}", run.simple());
        tracking.new = (!new.is_empty()).then_some(Note { checkpoint, disks: new });
        tracking.since =
            note.filter(|_| !since.is_empty()).map(|note| Note { checkpoint: note.checkpoint, disks: since });
        Ok(tracking)
    }

    /// The checkpoint since which the changes of this disk are known.
    pub fn since(&self, target: &str) -> Option<&str> {
        self.since.as_ref().filter(|note| note.disks.contains_key(target)).map(|note| note.checkpoint.as_str())
    }

    /// The checkpoint to create.
    pub fn new_checkpoint(&self) -> Option<&str> {
        self.new.as_ref().map(|note| note.checkpoint.as_str())
    }

    /// Whether the checkpoint to create includes this disk.
    pub fn includes(&self, target: &str) -> bool {
        self.new.as_ref().is_some_and(|note| note.disks.contains_key(target))
    }

    /// Why this disk is read whole, if changes are tracked at all.
    pub fn why_whole(&self, target: &str) -> Option<WholeRead> {
        self.whole.get(target).copied()
    }

    /// Requests less of QEMU: first no changes, then no new checkpoint either. `false` if neither was requested.
    pub fn request_less(&mut self) -> bool {
        if let Some(note) = self.since.take() {
            self.whole.extend(note.disks.into_keys().map(|target| (target, WholeRead::Refused)));
            return true;
        }
        self.new.take().is_some()
    }

    /// What the new point leaves for the next backup. `only_changed` are the disks that were read only where they changed.
    pub fn note(self, method: Method, only_changed: &[&str]) -> Option<Note> {
        if method == Method::Pull {
            return self.new;
        }
        // No checkpoint was created. The old one is still not newer than this point.
        let mut note = self.since?;
        note.disks.retain(|target, _| only_changed.contains(&target.as_str()));
        (!note.disks.is_empty()).then_some(note)
    }
}

/// Why no disk of a guest is read only where it changed.
fn against(wanted: Incremental, method: Method, states: &[SavedState]) -> Option<WholeRead> {
    let has_internal = states.iter().any(|state| state.kind == StateKind::InternalSnapshot);
    match wanted {
        Incremental::Never => Some(WholeRead::Never),
        // Reverting to an internal snapshot fails beside a bitmap, and ends the guest on libvirt 9.
        Incremental::Auto if has_internal => Some(WholeRead::InternalSnapshot),
        Incremental::Auto | Incremental::Always if method == Method::Snapshot => Some(WholeRead::Method),
        Incremental::Auto | Incremental::Always => None,
    }
}

/// For each disk of a plan, why it will be read whole every time; `None` if only what changed will be read.
pub(super) fn prospects<'a>(
    (domain, plan): (&Domain, &'a CapturePlan),
    wanted: Incremental,
    states: &[SavedState],
) -> Vec<(&'a str, Option<WholeRead>)> {
    let general = against(wanted, plan.method, states);
    let of_disk = |planned: &'a PlannedDisk| {
        let is_live = planned.how == ReadFrom::Capture;
        let able = general.map_or_else(|| bitmap(&planned.disk, planned.image(), is_live, domain.state), Err);
        (planned.disk.target.as_str(), able.err())
    };
    plan.disks.iter().map(of_disk).collect()
}

/// The mark of an image that can contain a dirty bitmap which records every change.
fn bitmap(disk: &Disk, image: &Image, is_live: bool, state: DomainState) -> Result<Mark, WholeRead> {
    if disk.shareable {
        return Err(WholeRead::Shareable);
    }
    if !is_live && state != DomainState::Off {
        return Err(WholeRead::Direct);
    }
    if image.format != Format::Qcow2 {
        return Err(WholeRead::Format);
    }
    image.source.path().and_then(mark_of_version_3).ok_or(WholeRead::Format)
}

/// The mark of a qcow2 image of version 3; older ones cannot contain bitmaps.
fn mark_of_version_3(path: &Path) -> Option<Mark> {
    let read = || -> io::Result<(Mark, [u8; 8])> {
        let (mut file, mark) = mark::open(path)?;
        let mut start = [0; 8];
        file.read_exact(&mut start)?;
        Ok((mark, start))
    };
    let (mark, [.., a, b, c, d]) = read()
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot read the image's header"))
        .ok()?;
    (u32::from_be_bytes([a, b, c, d]) >= 3).then_some(mark)
}

/// Whether a checkpoint with this name was created by this program.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|run| run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Deletes the checkpoint of an unfinished point, as the journal names it. One of a guest that is off cannot be deleted: the
/// next backup of the running guest does it.
pub(super) fn abandon(hypervisor: &dyn Hypervisor, record: &mut Record) -> Result<(), Error> {
    let Some(name) = record.entry().checkpoint.clone() else { return Ok(()) };
    let domain = record.entry().domain.clone();
    match checkpoints(hypervisor, &domain) {
        Ok(names) if names.contains(&name) && hypervisor.state(&domain)? != DomainState::Off => {
            delete(hypervisor, &domain, &name)?;
        }
        Ok(_) => {}
        Err(error) if error.kind() == Kind::NoDomain => {}
        Err(error) => return Err(error.into()),
    }
    record.update(|entry| entry.checkpoint = None)
}

/// Deletes our checkpoints of a running guest except this one, and our bitmaps in these images that no checkpoint has.
pub(super) fn keep_only(
    hypervisor: &dyn Hypervisor,
    domain: &DomainRef,
    kept: Option<&str>,
    images: &[&Path],
) -> Result<(), Error> {
    let is_kept = |name: &str| Some(name) == kept;
    for name in checkpoints(hypervisor, domain)?.iter().filter(|name| !is_kept(name)) {
        delete(hypervisor, domain, name)?;
    }
    for image in images {
        for name in bitmaps(image)?.iter().filter(|name| !is_kept(name)) {
            hypervisor.remove_bitmap(domain, name)?;
        }
    }
    Ok(())
}

/// The names of our bitmaps in a qcow2 image. Of a running guest, those that QEMU found when it opened the image.
pub(super) fn bitmaps(image: &Path) -> Result<Vec<String>, Error> {
    let info = qemu_img::info(image, "qcow2", LIMITS)?;
    let found = info.pointer("/format-specific/data/bitmaps").and_then(Value::as_array).into_iter().flatten();
    let names = found.filter_map(|bitmap| bitmap["name"].as_str());
    Ok(names.filter(|name| is_ours(name)).map(str::to_owned).collect())
}

/// The names of our checkpoints of a domain.
pub(super) fn checkpoints(
    hypervisor: &dyn Guests,
    domain: &DomainRef,
) -> Result<Vec<String>, crate::hypervisor::Error> {
    let states = hypervisor.saved_states(domain)?.into_iter();
    let ours = states.filter(|state| state.kind == StateKind::Checkpoint && is_ours(&state.name));
    Ok(ours.map(|state| state.name).collect())
}

/// Deletes a checkpoint with its bitmaps. libvirt does not find the inconsistent ones that a killed QEMU left.
fn delete(hypervisor: &dyn BackupJobs, domain: &DomainRef, name: &str) -> Result<(), Error> {
    hypervisor.delete_checkpoint(domain, name, false).or_else(|error| {
        tracing::warn!(domain = domain.name, checkpoint = name, "cannot delete the bitmaps: {error}");
        hypervisor.delete_checkpoint(domain, name, true)?;
        hypervisor.remove_bitmap(domain, name)
    })?;
    Ok(())
}
