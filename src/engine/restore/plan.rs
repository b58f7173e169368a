//! Owns: what a restore writes and what it changes in the definition. Pure. Must not: look at the host; what is there, it is
//! told.
//!
//! Nothing of an archive is trusted here: its names and paths choose nothing outside the folders that the operator chose, or
//! in which images usually lie.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Request;
use super::names::{file_name, fresh_name, is_plain, usable_folder};
use crate::archive::manifest::{BootEntry, FileEntry};
use crate::engine::Error;
use crate::hypervisor::domain_xml::Changes;
use crate::model::{Device, Disk, Domain, DomainRef, Format, Image, Source};

/// What a restore point holds, whoever made it.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The archive, for messages.
    pub archive: PathBuf,
    /// The domain.
    pub domain: DomainRef,
    /// Its disks.
    pub disks: Vec<SavedDisk>,
    /// Why disks are not in it, by target.
    pub skipped: BTreeMap<String, String>,
    /// UEFI variables.
    pub nvram: Option<FileEntry>,
    /// Kernel and initrd of a direct boot.
    pub boot: Vec<BootEntry>,
    /// State of an emulated TPM.
    pub tpm: Vec<FileEntry>,
    /// Why there is no such state, where the domain has a TPM.
    pub tpm_missing: Option<String>,
    /// Manifest and XML: the member, and the name of its file.
    pub documents: Vec<(String, String)>,
    /// Bytes of each member.
    pub lengths: BTreeMap<String, u64>,
}

/// A disk of a restore point.
#[derive(Debug, Clone)]
pub struct SavedDisk {
    /// The guest's name for it.
    pub target: String,
    /// The member that holds it.
    pub member: String,
    /// Where it was.
    pub source: Source,
    /// The format it had there.
    pub format: Format,
    /// Its size as the guest sees it, in bytes; `None` for an image that is kept as it was.
    pub virtual_bytes: Option<u64>,
}

/// What is known of the host.
pub struct Host<'a> {
    /// Whether a path exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// Members whose original path has the same bytes as they.
    pub same: &'a BTreeSet<String>,
    /// Where libvirt keeps the state of emulated TPMs, by UUID.
    pub swtpm: &'a Path,
}

/// What a restore does.
#[derive(Debug, Default)]
pub struct Plan {
    /// The files and devices.
    pub writes: Vec<Write>,
    /// What changes in the definition.
    pub changes: Changes,
    /// What to tell the operator.
    pub notes: Vec<String>,
}

/// One member and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The member.
    pub member: String,
    /// Its bytes.
    pub length: u64,
    /// The file or device.
    pub to: PathBuf,
    /// As what.
    pub how: How,
}

/// As what a member is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// As it is.
    Copy,
    /// As it is, with the owner that TPM state has here.
    Tpm,
    /// A disk, as a qcow2 file.
    Qcow2(DiskPart),
    /// A disk, as a raw file.
    Raw(DiskPart),
    /// A disk, into a block device.
    Device(DiskPart),
    /// An image of another program as it is, in the format that it is said to have.
    Image(Format),
}

/// Which disk it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPart {
    /// The guest's name for it.
    pub target: String,
    /// Its size as the guest sees it, in bytes.
    pub virtual_bytes: u64,
}

/// Files in the folder of the request, and block devices; the definition is left alone. Of chosen disks, only the saved
/// definition goes with them.
pub fn files(saved: &Saved, request: &Request) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let chosen = choose(saved, request)?;
    let Some(folder) = &request.to else {
        for (disk, device) in chosen {
            let device = device.ok_or_else(|| no_folder(disk))?;
            plan.write_device(saved, disk, device)?;
        }
        return Ok(plan);
    };
    let whole = request.disks.is_empty();
    for (member, name) in saved.documents.iter().filter(|(_, name)| whole || name.ends_with(".xml")) {
        plan.write(saved, member, folder.join(name), How::Copy)?;
    }
    if whole {
        let boot = saved.boot.iter().map(|file| &file.member);
        for member in saved.nvram.iter().chain(&saved.tpm).map(|file| &file.member).chain(boot) {
            plan.write(saved, member, folder.join(member), How::Copy)?;
        }
        let skipped = saved.skipped.iter();
        plan.notes.extend(skipped.map(|(target, reason)| format!("disk {target} is not in the restore point: {reason}")));
    }
    let names = names(saved, &chosen, true);
    for ((disk, device), name) in chosen.into_iter().zip(names) {
        match device {
            Some(device) => plan.write_device(saved, disk, device)?,
            None => plan.write_image(saved, disk, folder.join(name))?,
        };
    }
    plan.check_distinct(saved)?;
    Ok(plan)
}

/// Images, and all that the definition of `to` needs beside them; `described` is what the saved definition says.
pub fn domain(
    saved: &Saved,
    request: &Request,
    described: &Domain,
    to: &DomainRef,
    host: &Host<'_>,
) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let renamed = to.uuid != saved.domain.uuid;
    if renamed {
        plan.changes.rename = Some(to.clone());
    }
    let chosen = choose(saved, request)?;
    let names = names(saved, &chosen, request.to.is_some());
    for ((disk, device), name) in chosen.iter().zip(names) {
        let name = if renamed { fresh_name(&to.name, disk) } else { name };
        let image = match (device, image_folder(request, disk, renamed)?) {
            (Some(device), _) => plan.write_device(saved, disk, device)?,
            (None, Place::Device(device)) => plan.write_device(saved, disk, &device)?,
            (None, Place::Folder(folder)) => plan.write_image(saved, disk, folder.join(name))?,
        };
        plan.changes.disks.insert(disk.target.clone(), image);
    }
    for disk in &described.disks {
        if !plan.changes.disks.contains_key(&disk.target) {
            plan.without(disk, saved, renamed, host);
        }
    }
    let beside = plan.folder_of_images(request);
    plan.add_nvram(saved, to, renamed, &beside, host)?;
    plan.add_boot(saved, to, &beside, host)?;
    for file in &saved.tpm {
        let within = file.member.strip_prefix("tpm/").ok_or_else(|| suspect(saved, "a TPM member is misplaced"))?;
        let path = host.swtpm.join(to.uuid.to_string()).join(within);
        plan.write(saved, &file.member, path, How::Tpm)?;
    }
    if let Some(why) = &saved.tpm_missing {
        plan.notes.push(format!("the state of the TPM was not saved ({why}); the guest starts with an empty one"));
    }
    plan.check_distinct(saved)?;
    Ok(plan)
}

/// Where an image goes, when the request names no device for it.
enum Place {
    Folder(PathBuf),
    Device(PathBuf),
}

fn image_folder(request: &Request, disk: &SavedDisk, renamed: bool) -> Result<Place, Error> {
    if let Some(folder) = &request.to {
        return Ok(Place::Folder(folder.clone()));
    }
    match &disk.source {
        Source::File(path) => match path.parent().filter(|folder| usable_folder(folder)) {
            Some(folder) => Ok(Place::Folder(folder.to_owned())),
            None => Err(Error::Other {
                message: format!(
                    "disk {}: it was in {}, where no image is restored to unasked",
                    disk.target,
                    path.display()
                ),
                hint: Some("say where its image shall lie: --to DIR".to_owned()),
            }),
        },
        Source::Block(path) if !renamed && request.overwrite => Ok(Place::Device(path.clone())),
        Source::Block(path) if !renamed => Err(Error::Other {
            message: format!("disk {}: it was the block device {}", disk.target, path.display()),
            hint: Some(format!(
                "replace what that device holds: --overwrite; or name one: --disk {}=/dev/…; or restore to files: --to DIR",
                disk.target
            )),
        }),
        _ => Err(no_folder(disk)),
    }
}

fn no_folder(disk: &SavedDisk) -> Error {
    Error::Other {
        message: format!("disk {}: there is no folder to restore it to", disk.target),
        hint: Some(format!("name a folder: --to DIR; or a block device: --disk {}=/dev/…", disk.target)),
    }
}

/// The disks of the request, each with the device it goes to, if any.
fn choose<'a>(saved: &'a Saved, request: &'a Request) -> Result<Vec<(&'a SavedDisk, Option<&'a Path>)>, Error> {
    if let Some(bad) = saved.disks.iter().find(|disk| !is_plain(&disk.target)) {
        return Err(suspect(saved, &format!("a disk has the name {:?}", bad.target)));
    }
    if request.disks.is_empty() {
        return Ok(saved.disks.iter().map(|disk| (disk, None)).collect());
    }
    let mut chosen: Vec<(&SavedDisk, Option<&Path>)> = Vec::new();
    for choice in &request.disks {
        let Some(disk) = saved.disks.iter().find(|disk| disk.target == choice.target) else {
            let why = saved.skipped.get(&choice.target).map_or(String::new(), |reason| format!(": {reason}"));
            let targets: Vec<&str> = saved.disks.iter().map(|disk| disk.target.as_str()).collect();
            return Err(Error::Other {
                message: format!("disk {} is not in the restore point{why}", choice.target),
                hint: Some(format!("it holds: {}", targets.join(", "))),
            });
        };
        if chosen.iter().any(|(other, _)| other.target == disk.target) {
            return Err(Error::Other { message: format!("disk {} is named twice", disk.target), hint: None });
        }
        chosen.push((disk, choice.device.as_deref()));
    }
    Ok(chosen)
}

/// A name for the file of each disk: the one it had; where all go to one folder, with the target before it if need be.
fn names(saved: &Saved, chosen: &[(&SavedDisk, Option<&Path>)], one_folder: bool) -> Vec<String> {
    let plain: Vec<String> = chosen.iter().map(|(disk, _)| file_name(disk)).collect();
    let is_taken = |name: &String| {
        plain.iter().filter(|other| *other == name).count() > 1
            || saved.documents.iter().any(|(_, document)| document == name)
            || ["nvram", "boot", "tpm"].contains(&name.as_str())
    };
    let name = |(name, (disk, _)): (&String, &(&SavedDisk, _))| {
        if one_folder && is_taken(name) { format!("{}-{name}", disk.target) } else { name.clone() }
    };
    plain.iter().zip(chosen).map(name).collect()
}

fn suspect(saved: &Saved, what: &str) -> Error {
    Error::Suspect { path: saved.archive.clone(), what: what.to_owned() }
}

impl Plan {
    fn write(&mut self, saved: &Saved, member: &str, to: PathBuf, how: How) -> Result<(), Error> {
        let length = saved.lengths.get(member).copied();
        let length = length.ok_or_else(|| suspect(saved, &format!("member {member} is missing")))?;
        self.writes.push(Write { member: member.to_owned(), length, to, how });
        Ok(())
    }

    /// The format stays what it was; one that this program cannot write becomes qcow2.
    fn write_image(&mut self, saved: &Saved, disk: &SavedDisk, to: PathBuf) -> Result<Image, Error> {
        let (how, format) = match (part(disk), &disk.format) {
            (None, format) => (How::Image(format.clone()), format.clone()),
            (Some(part), Format::Raw) => (How::Raw(part), Format::Raw),
            (Some(part), _) => (How::Qcow2(part), Format::Qcow2),
        };
        let source = Source::File(to.clone());
        self.write(saved, &disk.member, to, how)?;
        Ok(Image { source, format })
    }

    fn write_device(&mut self, saved: &Saved, disk: &SavedDisk, device: &Path) -> Result<Image, Error> {
        let Some(part) = part(disk) else {
            return Err(Error::Other {
                message: format!("disk {}: an image of the seed script cannot go straight into a device", disk.target),
                hint: Some("restore it to a folder, then: qemu-img convert -n IMAGE -O raw DEVICE".to_owned()),
            });
        };
        self.write(saved, &disk.member, device.to_owned(), How::Device(part))?;
        Ok(Image { source: Source::Block(device.to_owned()), format: Format::Raw })
    }

    /// A disk of the definition that is not restored.
    fn without(&mut self, disk: &Disk, saved: &Saved, renamed: bool, host: &Host<'_>) {
        let target = &disk.target;
        if disk.image.source == Source::None("no medium".to_owned()) {
            return;
        }
        let missing = disk.image.source.path().filter(|path| !(host.exists)(path));
        let shared = disk.readonly || disk.shareable;
        if matches!(disk.device, Device::Cdrom | Device::Floppy) {
            if missing.is_some() || (renamed && !shared) {
                let what = missing.map_or(String::new(), |path| format!("; {} is not on this host", path.display()));
                self.notes.push(format!("drive {target} is empty{what}"));
                self.changes.eject.insert(target.clone());
            }
            return;
        }
        let why = saved.skipped.get(target).map_or("it was not chosen", String::as_str);
        let keeps = missing.is_none() && (!renamed || shared);
        self.notes.push(match (keeps, missing) {
            (true, _) => format!("disk {target} is not restored ({why}); the domain uses what this host has of it"),
            (false, Some(path)) => {
                format!("the domain has no disk {target}: not restored ({why}), and {} is not here", path.display())
            }
            (false, None) => format!("the domain has no disk {target}: not restored ({why}), and it is the original's"),
        });
        if !keeps {
            self.changes.drop_disks.insert(target.clone());
        }
    }

    /// The folder for files that belong to the images.
    fn folder_of_images(&self, request: &Request) -> Option<PathBuf> {
        let is_file = |write: &&Write| !matches!(write.how, How::Device(_));
        let first = || self.writes.iter().find(is_file).and_then(|write| write.to.parent()).map(Path::to_owned);
        request.to.clone().or_else(first)
    }

    fn add_nvram(
        &mut self,
        saved: &Saved,
        to: &DomainRef,
        renamed: bool,
        beside: &Option<PathBuf>,
        host: &Host<'_>,
    ) -> Result<(), Error> {
        let Some(nvram) = &saved.nvram else { return Ok(()) };
        let old = nvram.path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
        let name = match old {
            Some(old) if !renamed => old.to_owned(),
            _ => format!("{}_VARS.fd", to.name),
        };
        let original = nvram.path.parent().filter(|folder| usable_folder(folder) && (host.exists)(folder));
        let folder = original.map(Path::to_owned).or_else(|| beside.clone()).ok_or_else(nowhere)?;
        let path = folder.join(name);
        self.changes.nvram = Some(path.clone());
        self.write(saved, &nvram.member, path, How::Copy)
    }

    fn add_boot(
        &mut self,
        saved: &Saved,
        to: &DomainRef,
        beside: &Option<PathBuf>,
        host: &Host<'_>,
    ) -> Result<(), Error> {
        for file in &saved.boot {
            if host.same.contains(&file.member) {
                continue;
            }
            if !["kernel", "initrd", "dtb"].contains(&file.element.as_str()) {
                return Err(suspect(saved, &format!("a boot file is called {:?}", file.element)));
            }
            let path = beside.clone().ok_or_else(nowhere)?.join(format!("{}-{}", to.name, file.element));
            self.notes.push(format!(
                "{} is not what the guest booted from; the saved {} is {}",
                file.path.display(),
                file.element,
                path.display()
            ));
            self.changes.boot.insert(file.element.clone(), path.clone());
            self.write(saved, &file.member, path, How::Copy)?;
        }
        Ok(())
    }

    /// Two members in one file would be a restore that is silently wrong.
    fn check_distinct(&self, saved: &Saved) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        match self.writes.iter().find(|write| !seen.insert(&write.to)) {
            Some(twice) => Err(suspect(saved, &format!("two of its files would both be {}", twice.to.display()))),
            None => Ok(()),
        }
    }
}

fn part(disk: &SavedDisk) -> Option<DiskPart> {
    disk.virtual_bytes.map(|virtual_bytes| DiskPart { target: disk.target.clone(), virtual_bytes })
}

fn nowhere() -> Error {
    Error::Other {
        message: "there is no folder for the files beside the disks".to_owned(),
        hint: Some("name one: --to DIR".to_owned()),
    }
}

#[cfg(test)]
mod tests;
