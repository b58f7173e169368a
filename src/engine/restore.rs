//! Owns: getting a restore point back: as files in a folder, in block devices, or as a domain that libvirt knows. Must not:
//! leave half of anything: until all is written, checked and synced, nothing has its name, and nothing is defined.
//!
//! | file | owns |
//! |---|---|
//! | `request` | what is asked for |
//! | `unasked` | the places to which an archive alone may send its images |
//! | `plan`, `names` | what goes where and what changes in the definition, as values |
//! | `contents` | what the point holds, brought there |
//! | `foreign` | images that other programs wrote |
//! | `sparse`, `device` | holes for zeros; block devices |
//! | `staging` | temporary names, all or none |
//! | `restorable` | whether a restore would take an archive |
//! | `salvage` | what is left of a damaged point |
//! | `folders` | folders that users of guests can pass |
//! | `in_use` | that nobody uses what is written over |
//! | `room` | what can be known to be in the way |
//! | `definition` | the definition that this host accepts |
//! | `define` | libvirt |
//!
//! What can be known to fail is found before anything is written: the definition is tried out, the places are looked at.
//! A block device cannot be taken back: after an error it holds part of the disk, which the log says.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use self::definition::{Accepted, Wanted};
use self::plan::{Host, How, Plan};
use self::staging::Staging;
use self::unasked::Unasked;
use self::work::Work;
use super::journal::{Journal, Record};
use super::points::{self, When};
use super::rights::{self, Places};
use super::{Error, Monitor};
use crate::hypervisor::Hypervisor;
use crate::model::{DomainOutcome, DomainRef, Failure, PointId, is_plain};
use crate::store::{Contents, Point, Store};
use crate::sys::signals::Cancel;

mod contents;
mod define;
mod definition;
mod device;
mod folders;
mod foreign;
mod in_use;
mod names;
mod plan;
mod request;
pub mod restorable;
mod room;
pub mod salvage;
mod sparse;
mod staging;
#[cfg(test)]
mod tests;
mod unasked;
mod work;

pub use request::{Define, DiskChoice, Operator, Request};

/// What was restored.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// The domain that was saved.
    pub domain: String,
    /// The restore point.
    pub point: PointId,
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// The block devices that were written.
    pub devices: Vec<PathBuf>,
    /// The domain that is defined now.
    pub defined: Option<DomainRef>,
    /// Whether it was started.
    pub started: bool,
    /// Nothing was written; everything here is what is to be done.
    pub dry_run: bool,
    /// Why it could not be started; what was restored stays.
    pub start_failure: Option<Failure>,
    /// What to know: what was changed or left out, and what of the host the definition reaches for.
    pub notes: Vec<String>,
}

/// Fails while recovery could not bring a disk of the domain back from its overlay: what the overlay holds belongs to the
/// very image that would be replaced. A copy leaves both alone.
pub fn expect_settled(request: &Request, journal: &Journal) -> Result<(), Error> {
    if request.copies() && !request.names_device() {
        return Ok(());
    }
    let left = journal.left()?;
    let entries = left.iter().flatten().map(Record::entry).filter(|entry| entry.domain.name == request.domain);
    let Some(overlay) =
        entries.flat_map(|entry| &entry.overlays).find(|overlay| overlay.path.try_exists().unwrap_or(true))
    else {
        return Ok(());
    };
    let message = format!(
        "{}: disk {}: what the guest wrote during an interrupted backup is still in the overlay {}",
        request.domain,
        overlay.target,
        overlay.path.display()
    );
    let hint =
        "see what holds recovery up: kvmbackup recover; or restore beside it: --to DIR alone, or --define --name NEW";
    Err(other(&message, Some(hint)))
}

/// What a restore works with. Only `request.define` needs a hypervisor; where something is written over, it is asked who uses
/// that.
pub struct Restore<'a> {
    /// What is asked for.
    pub request: &'a Request,
    /// Where the restore points are.
    pub store: &'a Store,
    /// libvirt, if it can be reached.
    pub hypervisor: Option<&'a dyn Hypervisor>,
    /// Who hears of progress.
    pub monitor: &'a dyn Monitor,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

impl Restore<'_> {
    /// Restores a point. Before anything is written, the operator is shown what is planned and accepts what the definition
    /// reaches for.
    ///
    /// # Errors
    /// After any error, nothing that was written to files is left and nothing is defined. [`Error::is_damage`] tells that the
    /// restore point is at fault.
    pub fn run(&self, operator: &mut dyn Operator) -> Result<Restored, Error> {
        let Restore { request, store, monitor, .. } = *self;
        let point = points::find(store, &request.domain, request.when)?;
        monitor.stage(&request.domain, "look");
        let mut restored = self.point(&point, &Places::default(), operator);
        if let (Ok(restored), When::Newest) = (&mut restored, request.when) {
            restored.notes.extend(points::beside_other_guests(store, &point)?);
        }
        monitor.done(&DomainOutcome::new(&request.domain, None));
        restored
    }

    fn point(&self, point: &Point, places: &Places, operator: &mut dyn Operator) -> Result<Restored, Error> {
        let Restore { request, store, hypervisor, monitor, cancel } = *self;
        let reader = &store.open(point, cancel)?;
        let work =
            &Work { archive: point.location(), patience: store.patience(), domain: &request.domain, monitor, cancel };
        let saved = reader.contents()?;
        let mut staging = Staging::new(request.overwrite, &work.patience.apart());
        if let Some(folder) = &request.to {
            folders::expect_trusted(folder, &staging)?;
        }
        let target = match (&request.define, hypervisor) {
            (Some(how), Some(hypervisor)) => Some((how, hypervisor, identity(&saved, how)?)),
            (Some(_), None) => return Err(other("a domain can be defined only with libvirt", None)),
            (None, _) => None,
        };
        let (mut plan, xml) = match &target {
            None => (plan::files(&saved, request)?, None),
            Some((how, hypervisor, to)) => {
                define::check(*hypervisor, to, request.overwrite)?;
                let same = contents::same_files(reader, &saved)?;
                // Where that hangs, the next look at it fails.
                let exists = |path: &Path| {
                    let path = path.to_owned();
                    staging.patience().call(move || fs::symlink_metadata(path).is_ok()).unwrap_or(false)
                };
                let leads_to = |path: &Path| {
                    let path = path.to_owned();
                    staging.patience().call(move || rights::trusted_link(&path)).ok().flatten()
                };
                let unasked = Unasked::look(*hypervisor, places, &request.kept_out, &saved.domain, staging.patience())?;
                let unasked = Arc::new(unasked);
                let may_lie_in = |folder: &Path| {
                    let (unasked, folder) = (unasked.clone(), folder.to_owned());
                    staging.patience().call(move || unasked.folder(&folder)).unwrap_or(false)
                };
                let may_be_on = |device: &Path| unasked.device(device);
                let owners = (places.qemu_owner(), places.swtpm_owner());
                let host = Host {
                    exists: &exists,
                    leads_to: &leads_to,
                    may_lie_in: &may_lie_in,
                    may_be_on: &may_be_on,
                    same: &same,
                    swtpm: &places.swtpm,
                    qemu_owner: owners.0,
                    swtpm_owner: owners.1,
                };
                let texts = match &how.xml {
                    Some(file) => vec![definition::read_file(file)?],
                    None => contents::definitions(reader, &saved)?,
                };
                let wanted = Wanted { request, how, saved: &saved, hypervisor: *hypervisor, host: &host };
                let Accepted { mut plan, xml } = wanted.accepted(to, &texts, operator)?;
                plan.notes.extend(define::lost_states(*hypervisor, to)?);
                plan.notes.extend(folders::barred(&plan, places, &staging));
                (plan, Some(xml))
            }
        };
        // A copy has no claim on what the original uses.
        let own = match &target {
            Some((_, _, to)) => Some(to).filter(|to| to.uuid == saved.domain.uuid),
            None => Some(&saved.domain),
        };
        if hypervisor.is_none() && !in_use::replaced(&plan, &staging)?.is_empty() {
            let note = "libvirt could not be asked whether a guest that is off uses what is replaced: make sure that none does";
            plan.notes.push(note.to_owned());
        }
        plan.note_plaintext(&saved);
        if saved.domain.name != point.domain {
            plan.notes.push(format!("the archive lies with those of {}, and is of another domain", point.domain));
        }
        if let (Some((_, hypervisor, _)), When::Newest) = (&target, request.when) {
            plan.notes.extend(define::another_guest(*hypervisor, &saved.domain)?);
        }
        let planned = Restored::planned(&saved, point, &plan, request, target.as_ref().map(|(_, _, to)| to));
        operator.plan(&planned);
        operator.tell(&plan.notes);
        in_use::expect_unused(&plan, hypervisor, own, &staging)?;
        room::expect_room(&plan, request, &staging)?;
        if request.dry_run {
            return Ok(planned);
        }
        if let Some((_, hypervisor, _)) = &target {
            define::expect_accepted(*hypervisor, &saved.domain, &plan.reaches, operator)?;
        }

        folders::make(&plan, request, places, &mut staging)?;
        monitor.stage(&request.domain, "restore");
        monitor.expect(&request.domain, plan.writes.iter().map(|write| write.length).sum());
        contents::write(work, reader, &plan, &mut staging).inspect_err(|_| warn_of_devices(&plan))?;
        work.go_on()?;
        monitor.stage(&request.domain, "write");

        // A guest may have been started, and another defined, since.
        if let Some((_, hypervisor, to)) = &target {
            define::check(*hypervisor, to, request.overwrite)?;
        }
        in_use::expect_unused(&plan, hypervisor, own, &staging).inspect_err(|_| warn_of_devices(&plan))?;
        let mut restored = Restored { files: Vec::new(), defined: None, started: false, ..planned };
        staging.place()?;
        if let (Some((how, hypervisor, _)), Some(xml)) = (&target, xml) {
            define::define(*hypervisor, &xml, how.start, &mut restored)?;
        }
        restored.notes.extend_from_slice(staging.notes());
        restored.files = staging.keep();
        Ok(restored)
    }
}

impl Restored {
    /// What is to be restored.
    fn planned(saved: &Contents, point: &Point, plan: &Plan, request: &Request, to: Option<&DomainRef>) -> Restored {
        let devices = devices(plan);
        let files = plan.writes.iter().map(|write| write.to.clone()).filter(|path| !devices.contains(path));
        Restored {
            domain: saved.domain.name.clone(),
            point: point.id,
            files: files.collect(),
            devices,
            defined: to.cloned(),
            started: request.define.as_ref().is_some_and(|how| how.start),
            dry_run: request.dry_run,
            start_failure: None,
            notes: plan.notes.clone(),
        }
    }
}

/// Who the restored domain is.
fn identity(saved: &Contents, how: &Define) -> Result<DomainRef, Error> {
    match &how.name {
        Some(name) if !is_plain(name) => {
            Err(other(&format!("{name:?} cannot be the name of a domain and its files"), None))
        }
        Some(name) if *name != saved.domain.name => Ok(DomainRef { name: name.clone(), uuid: Uuid::new_v4() }),
        _ => Ok(saved.domain.clone()),
    }
}

/// What was written into a device before an error stays there.
fn warn_of_devices(plan: &Plan) {
    for device in devices(plan) {
        tracing::warn!(device = %device.display(), "the device may hold part of a disk now");
    }
}

fn devices(plan: &Plan) -> Vec<PathBuf> {
    let devices = plan.writes.iter().filter(|write| matches!(write.how, How::Device(_)));
    devices.map(|write| write.to.clone()).collect()
}

fn other(message: &str, hint: Option<&str>) -> Error {
    Error::Rejected { message: message.to_owned(), hint: hint.map(str::to_owned) }
}
