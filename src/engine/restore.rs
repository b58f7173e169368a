//! Owns: getting a restore point back: as files in a folder, in block devices, or as a domain that libvirt knows. Must not:
//! leave half of anything: until all is written, checked and synced, nothing has its name, and nothing is defined.
//!
//! | file | owns |
//! |---|---|
//! | `request`, `saved` | what is asked for, what the point holds |
//! | `plan`, `names` | what goes where and what changes in the definition, as values |
//! | `contents` | members of our archives, brought there |
//! | `seed`, `foreign` | archives of the seed script, whose images other programs wrote |
//! | `sparse`, `device` | holes for zeros; block devices |
//! | `staging` | temporary names, all or none |
//! | `salvage` | what is left of a damaged point |
//! | `define` | libvirt |
//!
//! A block device cannot be taken back: after an error it holds part of the disk, which the log says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use self::plan::{Host, How, Plan, Write};
use self::saved::Saved;
use self::staging::Staging;
use self::work::Work;
use super::journal::{Journal, Record};
use super::points::{self, When};
use super::{Error, Monitor};
use crate::archive::seed::Seed;
use crate::archive::{Archive, Hasher};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::domain_xml::rewrite;
use crate::model::{DomainOutcome, DomainRef, Failure, PointId, size};
use crate::store::{Origin, Point, Store};
use crate::sys::signals::Cancel;
use crate::sys::space;

mod contents;
mod define;
mod device;
mod foreign;
mod names;
mod plan;
mod request;
pub mod salvage;
mod saved;
mod seed;
mod sparse;
mod staging;
#[cfg(test)]
mod tests;
mod work;

pub use request::{Define, DiskChoice, Request};

/// Where libvirt keeps the state of emulated TPMs, by UUID.
const TPM_STATE: &str = "/var/lib/libvirt/swtpm";

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
    let hint = "see what holds recovery up: kvmbackup recover; or restore beside it: --to DIR, or --define --name NEW";
    Err(other(&message, Some(hint)))
}

/// Restores a point. Without `request.define`, no hypervisor is needed. Before a domain is defined, and before anything is
/// written for that, `tell` hears the notes that there are by then: what the definition reaches for is one of them.
///
/// # Errors
/// After any error, nothing that was written to files is left and nothing is defined. [`Error::is_damage`] tells that the
/// restore point is at fault.
pub fn restore(
    request: &Request,
    store: &Store,
    hypervisor: Option<&dyn Hypervisor>,
    monitor: &dyn Monitor,
    cancel: &Cancel,
    tell: &mut dyn FnMut(&[String]),
) -> Result<Restored, Error> {
    let point = points::find(store, &request.domain, request.when)?;
    let work = Work { archive: &point.path, patience: store.patience(), domain: &request.domain, monitor, cancel };
    let mut restored = restore_point(request, &point, hypervisor, &work, Path::new(TPM_STATE), tell);
    if let (Ok(restored), When::Newest) = (&mut restored, request.when) {
        restored.notes.extend(points::beside_other_guests(store, &point)?);
    }
    monitor.done(&DomainOutcome::new(&request.domain, None));
    restored
}

fn restore_point(
    request: &Request,
    point: &Point,
    hypervisor: Option<&dyn Hypervisor>,
    work: &Work<'_>,
    swtpm: &Path,
    tell: &mut dyn FnMut(&[String]),
) -> Result<Restored, Error> {
    let monitor = work.monitor;
    monitor.stage(&request.domain, "look");
    let mut source = Source::open(point, work)?;
    let saved = source.saved(point)?;
    let mut staging = Staging::new(request.overwrite, &work.patience.apart());
    let libvirt = match (&request.define, hypervisor) {
        (Some(how), Some(hypervisor)) => Some((how, hypervisor)),
        (Some(_), None) => return Err(other("a domain can be defined only with libvirt", None)),
        (None, _) => None,
    };
    let (mut plan, definition) = match libvirt {
        None => (plan::files(&saved, request)?, None),
        Some((how, hypervisor)) => {
            let to = identity(&saved, how)?;
            define::check(hypervisor, &to, request.overwrite)?;
            let xml = source.xml(point)?;
            let described = define::describe(&saved, &xml)?;
            let same = source.same_files(&saved, work)?;
            // Where that hangs, the next look at it fails.
            let exists = |path: &Path| {
                let path = path.to_owned();
                staging.patience().call(move || fs::symlink_metadata(path).is_ok()).unwrap_or(false)
            };
            let plan = plan::domain(&saved, request, &described, &to, &Host { exists: &exists, same: &same, swtpm })?;
            let definition = rewrite(&xml, &plan.changes).map_err(define::xml_error(&saved))?;
            (plan, Some((to, definition)))
        }
    };
    if saved.domain.name != point.domain {
        plan.notes.push(format!("the archive lies with those of {}, and is of another domain", point.domain));
    }
    if let (Some((_, hypervisor)), When::Newest) = (libvirt, request.when) {
        plan.notes.extend(define::another_guest(hypervisor, &saved.domain)?);
    }
    if let Some((_, definition)) = &definition {
        plan.notes.extend_from_slice(&definition.notes);
        tell(&plan.notes);
    }
    expect_room(&plan, request, &staging)?;

    make_folders(&plan, request, swtpm, &mut staging)?;
    monitor.stage(&request.domain, "restore");
    monitor.expect(&request.domain, plan.writes.iter().map(|write| write.length).sum());
    source.write(work, &plan, &mut staging).inspect_err(|_| warn_of_devices(&plan))?;
    let tpm_note = own_tpm_state(&plan, swtpm, &staging)?;
    work.go_on()?;
    monitor.stage(&request.domain, "write");

    let mut restored = Restored {
        domain: saved.domain.name.clone(),
        point: point.id,
        files: Vec::new(),
        devices: devices(&plan),
        defined: None,
        started: false,
        start_failure: None,
        notes: plan.notes,
    };
    restored.notes.extend(tpm_note);
    if let (Some((how, hypervisor)), Some((to, definition))) = (libvirt, definition) {
        // A guest may have been started since.
        define::check(hypervisor, &to, request.overwrite)?;
        staging.place()?;
        define::define(hypervisor, &definition.xml, how.start, &mut restored)?;
    } else {
        staging.place()?;
    }
    restored.files = staging.keep();
    Ok(restored)
}

/// An open archive, of either origin.
enum Source {
    Ours(Archive, Box<Saved>),
    Seed(Seed, seed::Survey),
}

impl Source {
    fn open(point: &Point, work: &Work<'_>) -> Result<Source, Error> {
        match point.origin {
            Origin::Kvmbackup => {
                let (archive, manifest) = points::open(point, work.patience)?;
                let saved = contents::saved(point, &archive, manifest)?;
                Ok(Source::Ours(archive, Box::new(saved)))
            }
            Origin::Seed { .. } => {
                let seed = Seed::open_patiently(&point.path, &point.domain, work.patience)
                    .map_err(Error::archive(&point.path))?;
                let survey = seed::survey(&seed, work)?;
                Ok(Source::Seed(seed, survey))
            }
        }
    }

    fn saved(&self, point: &Point) -> Result<Saved, Error> {
        match self {
            Source::Ours(_, saved) => Ok(Saved::clone(saved)),
            Source::Seed(_, survey) => seed::saved(survey, point),
        }
    }

    fn xml(&self, point: &Point) -> Result<String, Error> {
        match self {
            Source::Ours(archive, _) => contents::xml(point, archive),
            Source::Seed(_, survey) => seed::xml(survey, point),
        }
    }

    /// The boot files whose original is on this host, byte for byte.
    fn same_files(&self, saved: &Saved, work: &Work<'_>) -> Result<BTreeSet<String>, Error> {
        let Source::Ours(archive, _) = self else { return Ok(BTreeSet::new()) };
        let sums = archive.sums().map_err(Error::archive(work.archive))?;
        let is_same = |member: &str, path: &Path| {
            let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|status| status.len());
            length == saved.lengths.get(member).copied() && digest(path).as_ref() == sums.get(member)
        };
        let same = saved.boot.iter().filter(|file| is_same(&file.member, &file.path));
        Ok(same.map(|file| file.member.clone()).collect())
    }

    fn write(&mut self, work: &Work<'_>, plan: &Plan, staging: &mut Staging) -> Result<(), Error> {
        match self {
            Source::Ours(archive, _) => {
                plan.writes.iter().try_for_each(|write| contents::write(work, archive, write, staging))
            }
            Source::Seed(seed, _) => seed::write(work, seed, plan, staging),
        }
    }
}

/// Who the restored domain is.
fn identity(saved: &Saved, how: &Define) -> Result<DomainRef, Error> {
    match &how.name {
        Some(name) if !names::is_plain(name) => {
            Err(other(&format!("{name:?} cannot be the name of a domain and its files"), None))
        }
        Some(name) if *name != saved.domain.name => Ok(DomainRef { name: name.clone(), uuid: Uuid::new_v4() }),
        _ => Ok(saved.domain.clone()),
    }
}

/// What can be known to fail is found before anything is written: files that are there, and file systems without room.
fn expect_room(plan: &Plan, request: &Request, staging: &Staging) -> Result<(), Error> {
    let Some(first) = plan.writes.first() else { return Ok(()) };
    let (writes, overwrite) = (plan.writes.clone(), request.overwrite);
    staging.call("look at", request.to.as_ref().unwrap_or(&first.to), move || check_writes(&writes, overwrite))
}

fn check_writes(writes: &[Write], overwrite: bool) -> Result<(), Error> {
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    // All are held open at once: a device that has two names is in use the second time.
    let mut devices = Vec::new();
    for write in writes {
        if let How::Device(part) = &write.how {
            devices.push(device::open(&write.to, part.virtual_bytes)?);
            continue;
        }
        staging::check_target(&write.to, overwrite)?;
        let (folder, file_system) = nearest_folder(&write.to)?;
        let entry = needed.entry(file_system).or_insert((folder, 0));
        entry.1 = entry.1.saturating_add(write.length);
    }
    for (folder, wanted) in needed.into_values() {
        expect_free(&folder, wanted)?;
    }
    Ok(())
}

/// Whether the file system of a folder has room for so many bytes.
fn expect_free(folder: &Path, wanted: u64) -> Result<(), Error> {
    let free = space::of(folder).map_err(Error::file("ask for the free space of", folder))?.free;
    match free < wanted {
        true => Err(Error::Room { path: folder.to_owned(), free: size::bytes(free), wanted: size::bytes(wanted) }),
        false => Ok(()),
    }
}

/// The nearest folder above a file that exists, and its file system.
fn nearest_folder(file: &Path) -> Result<(PathBuf, u64), Error> {
    use std::os::unix::fs::MetadataExt;
    for folder in file.ancestors().skip(1) {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        if let Ok(status) = fs::metadata(folder) {
            return Ok((folder.to_owned(), status.dev()));
        }
    }
    Err(Error::file("look at", file)(std::io::ErrorKind::NotFound.into()))
}

/// Makes the chosen folder, what lies in it, and the folders of TPM state; no other folder is made.
fn make_folders(plan: &Plan, request: &Request, swtpm: &Path, staging: &mut Staging) -> Result<(), Error> {
    if let Some(folder) = &request.to {
        staging.folder(folder)?;
    }
    for write in &plan.writes {
        let base = match (&write.how, &request.to) {
            (How::Device(_), _) => continue,
            (How::Tpm, _) => swtpm,
            (_, Some(folder)) => folder,
            _ => continue,
        };
        let Some(inner) = write.to.parent().and_then(|parent| parent.strip_prefix(base).ok()) else { continue };
        let mut folder = base.to_owned();
        for part in inner.components() {
            folder.push(part);
            staging.folder_within(&folder)?;
        }
    }
    Ok(())
}

/// swtpm runs as a user of its own, so its state belongs to whom other state here belongs.
fn own_tpm_state(plan: &Plan, swtpm: &Path, staging: &Staging) -> Result<Option<String>, Error> {
    let written: Vec<&Write> = plan.writes.iter().filter(|write| write.how == How::Tpm).collect();
    let Some(folder) = written.first().and_then(|write| write.to.strip_prefix(swtpm).ok()?.components().next()) else {
        return Ok(None);
    };
    let ours = swtpm.join(folder);
    let others = fs::read_dir(swtpm).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let like = others.filter(|path| *path != ours && path.is_dir()).min();
    let from = like.as_deref().unwrap_or(swtpm);
    written.iter().try_for_each(|write| staging.own_like(&write.to, &ours, from))?;
    let unknown = || format!("the TPM state in {} may have to be given to the user that swtpm runs as", ours.display());
    Ok(like.is_none().then(unknown))
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

/// The digest of a file; `None` when it cannot be read.
fn digest(path: &Path) -> Option<crate::archive::Digest> {
    let mut file = File::open(path).ok()?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn other(message: &str, hint: Option<&str>) -> Error {
    Error::Other { message: message.to_owned(), hint: hint.map(str::to_owned) }
}
