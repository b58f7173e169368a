//! Owns: what a restore writes and what it changes in the definition, as values; here, of files and devices alone. Pure.
//! Must not: look at the host; what is there, it is told.
//!
//! Nothing of an archive is trusted here: its names and paths choose nothing outside the folders that the operator chose, or
//! in which images usually lie.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::choice::{choose, names};
use super::Request;
use super::staging::Rights;
use crate::engine::Error;
use crate::hypervisor::domain_xml::{Changes, Reach};
use crate::model::command::quoted;
use crate::model::{Format, Image, Source};
use crate::store::{Contents, SavedDisk};

mod choice;
mod definition;
#[cfg(test)]
mod tests;

pub use definition::{Host, domain};

/// What a restore does.
#[derive(Debug, Default)]
pub struct Plan {
    /// The files and devices.
    pub writes: Vec<Write>,
    /// What changes in the definition.
    pub changes: Changes,
    /// What to tell the operator.
    pub notes: Vec<String>,
    /// What the definition reaches for on this host; also in the notes.
    pub reaches: Vec<Reach>,
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
    /// Who may use it.
    pub rights: Rights,
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
pub fn files(saved: &Contents, request: &Request) -> Result<Plan, Error> {
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
        plan.notes
            .extend(skipped.map(|(target, reason)| format!("disk {target} is not in the restore point: {reason}")));
        plan.add_not_saved(saved);
    }
    let names = names(saved, &chosen, true);
    for ((disk, device), name) in chosen.into_iter().zip(names) {
        match device {
            Some(device) => plan.write_device(saved, disk, device)?,
            None => plan.write_image(saved, disk, folder.join(name))?,
        };
    }
    plan.check_distinct(saved)?;
    let is_document = |write: &Write| saved.documents.iter().any(|(member, _)| *member == write.member);
    for write in plan.writes.iter_mut().filter(|write| !is_document(write)) {
        write.rights = Rights::Kept(None);
    }
    Ok(plan)
}

fn no_folder(disk: &SavedDisk) -> Error {
    Error::Rejected {
        message: format!("disk {}: no directory to restore it to", disk.target),
        hint: Some(format!("Set a directory: --to DIR; or a block device: --disk {}=/dev/…", disk.target)),
    }
}

pub fn suspect(saved: &Contents, what: &str) -> Error {
    Error::suspect(&saved.location, what)
}

impl Plan {
    /// Says which disks were encrypted: what is written of them is not.
    pub fn note_plaintext(&mut self, saved: &Contents) {
        let is_written = |disk: &&SavedDisk| self.writes.iter().any(|write| write.member == disk.member);
        let notes = saved.disks.iter().filter(|disk| disk.encrypted).filter(is_written).map(|disk| {
            let to = self.writes.iter().find(|write| write.member == disk.member).map(|write| write.to.display());
            let to = to.map(|to| to.to_string()).unwrap_or_default();
            format!("disk {} was encrypted and is restored UNENCRYPTED: {to}", disk.target)
        });
        let notes: Vec<String> = notes.collect();
        self.notes.extend(notes);
    }

    fn write(&mut self, saved: &Contents, member: &str, to: PathBuf, how: How) -> Result<(), Error> {
        let length = saved.lengths.get(member).copied();
        let length = length.ok_or_else(|| suspect(saved, &format!("member {member} is missing")))?;
        self.writes.push(Write { member: member.to_owned(), length, to, how, rights: Rights::Private });
        Ok(())
    }

    /// The format stays what it was; one that this program cannot write becomes qcow2.
    fn write_image(&mut self, saved: &Contents, disk: &SavedDisk, to: PathBuf) -> Result<Image, Error> {
        let (how, format) = match (part(disk), &disk.format) {
            (None, format) => {
                if !is_flat(format) {
                    self.notes.push(foreign_image(disk, &to));
                }
                (How::Image(format.clone()), format.clone())
            }
            (Some(part), Format::Raw) => (How::Raw(part), Format::Raw),
            (Some(part), _) => (How::Qcow2(part), Format::Qcow2),
        };
        let source = Source::File(to.clone());
        self.write(saved, &disk.member, to, how)?;
        Ok(Image { source, format })
    }

    fn write_device(&mut self, saved: &Contents, disk: &SavedDisk, device: &Path) -> Result<Image, Error> {
        let Some(part) = part(disk) else {
            return Err(Error::Rejected {
                message: format!(
                    "disk {}: an image of the legacy script cannot be restored directly to a device",
                    disk.target
                ),
                hint: Some("Restore it to a directory, then: qemu-img convert -n IMAGE -O raw DEVICE".to_owned()),
            });
        };
        self.write(saved, &disk.member, device.to_owned(), How::Device(part))?;
        Ok(Image { source: Source::Block(device.to_owned()), format: Format::Raw })
    }

    fn add_not_saved(&mut self, saved: &Contents) {
        self.notes.extend(saved.not_saved.iter().map(|what| format!("not in the restore point: {what}")));
    }

    /// Two members in one file would be a restore that is silently wrong.
    fn check_distinct(&self, saved: &Contents) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        match self.writes.iter().find(|write| !seen.insert(&write.to)) {
            Some(twice) => Err(suspect(saved, &format!("two of its files have the path {}", twice.to.display()))),
            None => Ok(()),
        }?;
        let files = self.writes.iter().filter(|write| matches!(write.how, How::Copy | How::Tpm | How::Image(_)));
        let mut members = BTreeSet::new();
        match files.into_iter().find(|write| !members.insert(&write.member)) {
            Some(twice) => Err(suspect(saved, &format!("two of its files are the member {}", twice.member))),
            None => Ok(()),
        }
    }
}

/// Whether an image of this format that another program wrote can be known to read from no other file.
fn is_flat(format: &Format) -> bool {
    matches!(format, Format::Raw | Format::Qcow2)
}

fn foreign_image(disk: &SavedDisk, to: &Path) -> String {
    let path = quoted(&to.display().to_string());
    format!(
        "disk {}: an image in format {} is restored as a file only, without a definition, because it may refer QEMU \
         to other files of this host; check which files it names, and convert it: qemu-img info {path}",
        disk.target,
        disk.format.driver()
    )
}

/// Which disk it is, unless another program wrote its image.
pub fn part(disk: &SavedDisk) -> Option<DiskPart> {
    disk.virtual_bytes.map(|virtual_bytes| DiskPart { target: disk.target.clone(), virtual_bytes })
}
