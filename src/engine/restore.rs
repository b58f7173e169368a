//! Restores a point as files, into block devices, or as a domain that libvirt defines. Must not leave a partial
//! result: until everything is written, checked and synced, no file has its name and no domain is defined.
//!
//! | module | contents |
//! |---|---|
//! | `request` | the request |
//! | `unasked` | directories and devices that an archive may choose without `--to` |
//! | `plan`, `names` | destinations and changes to the definition, as values |
//! | `contents` | writing the members |
//! | `foreign` | images written by other programs |
//! | `sparse`, `device` | sparse files and block devices |
//! | `staging` | temporary names, all or none |
//! | `restorable` | whether a restore would accept an archive |
//! | `salvage` | what is left of a damaged restore point |
//! | `folders` | directories that QEMU and swtpm can enter |
//! | `in_use` | users of files and devices that are overwritten |
//! | `room` | free space and existing files |
//! | `definition` | a definition that this host accepts |
//! | `define` | calls to libvirt |
//!
//! Everything that can be checked is checked before the first write: the definition is tried, the destinations are
//! examined. A write to a block device cannot be undone: after an error the device contains part of the disk, and the
//! log says so.

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

/// The result of a restore.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// Name of the saved domain.
    pub domain: String,
    /// Its restore point.
    pub point: PointId,
    /// Files written.
    pub files: Vec<PathBuf>,
    /// Block devices written.
    pub devices: Vec<PathBuf>,
    /// The domain, if it was defined.
    pub defined: Option<DomainRef>,
    /// Whether the domain was started.
    pub started: bool,
    /// Nothing was written; the other fields describe the plan.
    pub dry_run: bool,
    /// Why the start failed; the restored domain is kept.
    pub start_failure: Option<Failure>,
    /// Notes for the operator: changes, omissions, and host resources that the definition uses.
    pub notes: Vec<String>,
}

/// Fails if recovery could not commit an overlay of the domain: the overlay depends on the image that would be
/// replaced. A copy leaves both alone.
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
    let hint = "Find out why recovery cannot finish: kvmbackup recover; or restore a copy: --to DIR alone, or --define --name NEW";
    Err(other(&message, Some(hint)))
}

/// The inputs of a restore. A hypervisor is required for `request.define`, and is otherwise used to find out which
/// guests use the files that are overwritten.
pub struct Restore<'a> {
    /// The request.
    pub request: &'a Request,
    /// The store that contains the restore point.
    pub store: &'a Store,
    /// `None` if libvirt is unreachable.
    pub hypervisor: Option<&'a dyn Hypervisor>,
    /// Receives progress.
    pub monitor: &'a dyn Monitor,
    /// Stops the restore.
    pub cancel: &'a Cancel,
}

impl Restore<'_> {
    /// Restores a point. Before the first write, the operator sees the plan and must accept the host resources that
    /// the definition uses.
    ///
    /// # Errors
    /// After an error no written file is left and no domain is defined. [`Error::is_damage`] is true if the restore
    /// point is at fault.
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
                // A hang counts as "does not exist": the next call on the path reports it.
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
        // A copy must not overwrite what the original uses.
        let own = match &target {
            Some((_, _, to)) => Some(to).filter(|to| to.uuid == saved.domain.uuid),
            None => Some(&saved.domain),
        };
        if hypervisor.is_none() && !in_use::replaced(&plan, &staging)?.is_empty() {
            let note =
                "cannot ask libvirt whether a guest that is shut off uses the replaced files; make sure that none does";
            plan.notes.push(note.to_owned());
        }
        plan.note_plaintext(&saved);
        if saved.domain.name != point.domain {
            plan.notes
                .push(format!("the archive is stored with those of {}, but belongs to another domain", point.domain));
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

        // A guest may have been started or defined since the first check.
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

/// Name and UUID of the restored domain.
fn identity(saved: &Contents, how: &Define) -> Result<DomainRef, Error> {
    match &how.name {
        Some(name) if !is_plain(name) => {
            Err(other(&format!("{name:?} cannot be the name of a domain and its files"), None))
        }
        Some(name) if *name != saved.domain.name => Ok(DomainRef { name: name.clone(), uuid: Uuid::new_v4() }),
        _ => Ok(saved.domain.clone()),
    }
}

/// A write to a device cannot be undone.
fn warn_of_devices(plan: &Plan) {
    for device in devices(plan) {
        tracing::warn!(device = %device.display(), "the device may now contain part of a disk");
    }
}

fn devices(plan: &Plan) -> Vec<PathBuf> {
    let devices = plan.writes.iter().filter(|write| matches!(write.how, How::Device(_)));
    devices.map(|write| write.to.clone()).collect()
}

fn other(message: &str, hint: Option<&str>) -> Error {
    Error::Rejected { message: message.to_owned(), hint: hint.map(str::to_owned) }
}
