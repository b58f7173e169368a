//! Decides which disks are read only where they changed since the previous restore point, and which checkpoint of ours
//! a guest has. Must not read a disk, or touch a checkpoint that is not ours.
//!
//! A checkpoint is a dirty bitmap in each qcow2 image: QEMU records there what the guest writes from then on. Invariants:
//!
//! - The note of a restore point names a checkpoint that is not newer than the contents of the point. So what changed since
//!   the point is part of what changed since the checkpoint.
//! - A bitmap is used only in the image in which it was created: a mark identifies the file, or the block device until the
//!   next boot. The bitmap and the data that it describes are in the same image, so an older state of it has both. The
//!   images below must be as they were, because the bitmap does not describe them.
//! - A checkpoint becomes that of a point only when the point is committed. Until then the journal names it, and recovery
//!   deletes it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::journal::Record;
use super::qemu_img::{self, Limits};
use super::stamps::stamp;
use super::{Error, users};
use crate::config::{DomainSettings, Incremental};
use crate::hypervisor::{BackupJobs, Guests, Hypervisor, Kind, SavedState, StateKind};
use crate::model::{Domain, DomainRef, DomainState, Image, Method, WholeRead};
use crate::plan::{CapturePlan, PlannedDisk, ReadFrom};
use crate::store::PointWriter;
use crate::sys::mark::Mark;

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
    pub disks: BTreeMap<String, Tracked>,
}

/// An image with a bitmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tracked {
    /// Identifies the image.
    image: Mark,
    /// The files of the images below, and what changes when they are written.
    below: Vec<(PathBuf, String)>,
}

impl Tracked {
    /// Whether the bitmap of the other one describes all changes of this one.
    fn is_certainly_same(&self, other: &Tracked) -> bool {
        self.image.is_certainly_same(&other.image) && self.below == other.below
    }
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
            let found = trackable(planned, general, domain.state).and_then(|now| {
                if planned.how == ReadFrom::Capture {
                    new.insert(target.clone(), now.clone());
                }
                let note = note.as_ref().filter(|note| is_known(&note.checkpoint));
                match note.and_then(|note| note.disks.get(target)) {
                    None if !point.has_previous() => Err(WholeRead::First),
                    None if domain.state == DomainState::Off => Err(WholeRead::Off),
                    None => Err(WholeRead::NoCheckpoint),
                    Some(before) if !before.is_certainly_same(&now) => Err(WholeRead::Replaced),
                    Some(_) => Ok(now),
                }
            });
            match found {
                Ok(now) => drop(since.insert(target.clone(), now)),
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
    let disks = plan.disks.iter();
    disks.map(|planned| (planned.disk.target.as_str(), trackable(planned, general, domain.state).err())).collect()
}

/// What identifies the image of a disk, if a bitmap in it records every change. `against` is why no disk is tracked.
fn trackable(planned: &PlannedDisk, against: Option<WholeRead>, state: DomainState) -> Result<Tracked, WholeRead> {
    let (disk, image) = (&planned.disk, planned.image());
    if let Some(why) = against {
        return Err(why);
    }
    if disk.shareable {
        return Err(WholeRead::Shareable);
    }
    if planned.how != ReadFrom::Capture && state != DomainState::Off {
        return Err(WholeRead::Direct);
    }
    // Nothing tells whether an image of another host was replaced or written.
    if disk.backing.iter().any(|image| image.source.path().is_none()) {
        return Err(WholeRead::Format);
    }
    tracked(image).ok_or(WholeRead::Format)
}

/// `None` if the image cannot contain a bitmap, or if its data is in another file, which can be replaced alone.
fn tracked(image: &Image) -> Option<Tracked> {
    let path = image.source.path()?;
    let warn = |error: &io::Error| tracing::warn!(path = %path.display(), %error, "cannot examine the image");
    let links = users::links(path, &image.format).inspect_err(warn).ok()??;
    if links.version < 3 || links.data_file.is_some() {
        return None;
    }
    let files = users::files_of(image).inspect_err(warn).ok()?.into_iter().filter(|file| file != path);
    let below = files.map(|file| stamp(&file).map(|stamp| (file, stamp))).collect::<Option<_>>()?;
    Some(Tracked { image: Mark::at(path).inspect_err(warn).ok()?, below })
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
