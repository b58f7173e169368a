//! Owns: what a restore point holds beside disks: the domain XML, UEFI variables, TPM state, boot files, what hooks left.
//! Must not: read disks.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::engine::{Error, users};
use crate::model::{Domain, Failure, NotSaved};
use crate::plan::{CapturePlan, PlannedDisk};
use crate::store::{DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, PointWriter};
use crate::sys::opened::{self, Opened};

/// Internal snapshots of a disk that are named.
const SNAPSHOTS_NAMED: usize = 5;

/// A file of the host that goes into the archive.
pub(in crate::engine) struct Extra {
    /// Its member.
    pub member: String,
    /// Its path on this host.
    pub original: PathBuf,
    /// It is a block device.
    pub device: bool,
    file: File,
    length: u64,
}

/// The files beside the disks.
#[derive(Default)]
pub(in crate::engine) struct Collected {
    /// UEFI variables.
    pub nvram: Option<Extra>,
    /// The element of the XML that names it, and the file.
    pub boot: Vec<(String, Extra)>,
    /// State of the emulated TPM.
    pub tpm: Vec<Extra>,
    /// What hooks left: the member and its bytes.
    pub artifacts: Vec<(String, Vec<u8>)>,
    /// What of these could not be read.
    pub warnings: Vec<Failure>,
}

impl Collected {
    /// Files that the guest writes.
    pub fn written(&self) -> impl Iterator<Item = &Path> {
        let firmware = self.boot.iter().filter(|(element, _)| element == "loader").map(|(_, extra)| extra);
        self.nvram.iter().chain(&self.tpm).chain(firmware).map(|extra| extra.original.as_path())
    }

    /// Adds what hooks left: the hook, the file and its bytes.
    pub fn add_artifacts(&mut self, artifacts: Vec<(String, String, Vec<u8>)>) {
        let member = |(hook, file, bytes): (String, String, Vec<u8>)| (format!("hooks/{hook}/{file}"), bytes);
        self.artifacts.extend(artifacts.into_iter().map(member));
    }

    fn warn(&mut self, what: &str, error: &Error, hint: Option<&str>) {
        let Failure { message, .. } = error.failure();
        self.warnings.push(Failure { message: format!("{what}: {message}"), hint: hint.map(str::to_owned) });
    }

    /// Bytes of all the files.
    pub fn bytes(&self) -> u64 {
        let boot = self.boot.iter().map(|(_, extra)| extra);
        let artifacts: u64 = self.artifacts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.nvram.iter().chain(&self.tpm).chain(boot).map(|extra| extra.length).sum::<u64>() + artifacts
    }
}

/// Warnings of what is not saved though it may hold data of the guest.
pub(in crate::engine) fn not_saved(domain: &Domain) -> impl Iterator<Item = Failure> {
    domain.outside.iter().filter(|not_saved| not_saved.data).map(|NotSaved { what, hint, .. }| Failure {
        message: format!("not backed up, although it may hold guest data: {what}"),
        hint: hint.clone(),
    })
}

/// Opens the files beside the disks. A file that cannot be read is a warning, because the guest may do without.
pub(super) fn collect(domain: &Domain) -> Collected {
    let mut collected = Collected::default();
    if let Some(nvram) = &domain.nvram {
        let name = nvram.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match open(&nvram.path, format!("nvram/{name}")) {
            Ok(extra) => collected.nvram = Some(extra),
            Err(error) => collected.warn("the UEFI variables are not backed up", &error, None),
        }
    }
    for file in &domain.boot {
        match open(&file.path, format!("boot/{}", file.element)) {
            Ok(extra) => collected.boot.push((file.element.clone(), extra)),
            Err(error) => collected.warn("a boot file is not backed up", &error, None),
        }
    }
    if let Some(state) = &domain.tpm {
        let found = if state.is_dir() || !state.exists() {
            tpm_files(state, "tpm", &mut collected.tpm)
        } else {
            open(state, "tpm/state".to_owned()).map(|extra| collected.tpm.push(extra))
        };
        let hint = "A guest that seals keys in its TPM (BitLocker) needs its recovery key after a restore.";
        match found {
            Ok(()) if !collected.tpm.is_empty() => {}
            Ok(()) => {
                let error = Error::file("read", state)(io::Error::other("it is empty"));
                collected.warn("the TPM state is not backed up", &error, Some(hint));
            }
            Err(error) => {
                // Half a state is worse than none.
                collected.tpm.clear();
                collected.warn("the TPM state is not backed up", &error, Some(hint));
            }
        }
    }
    collected
}

/// The emulator's user owns the folder, and may put anything there.
fn tpm_files(path: &Path, member: &str, files: &mut Vec<Extra>) -> Result<(), Error> {
    let folder = Opened::open(path).map_err(Error::file("open the directory", path))?;
    let kinds = |entries: Vec<fs::DirEntry>| {
        entries.into_iter().map(|entry| Ok((entry.file_name(), entry.file_type()?))).collect()
    };
    let listing = folder.entries().and_then(kinds);
    let mut entries: Vec<_> = listing.map_err(Error::file("list the directory", path))?;
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (name, kind) in entries {
        let path = path.join(&name);
        let member = format!("{member}/{}", name.to_string_lossy());
        if kind.is_dir() && member.matches('/').count() < 4 {
            tpm_files(&path, &member, files)?;
        } else if kind.is_file() && !member.ends_with("/.lock") {
            let file = folder.file(&name).map_err(Error::file("open", &path))?;
            files.push(extra(file, &path, member)?);
        }
    }
    Ok(())
}

fn open(path: &Path, member: String) -> Result<Extra, Error> {
    extra(opened::open_followed(path).map_err(Error::file("open", path))?, path, member)
}

fn extra(mut file: File, path: &Path, member: String) -> Result<Extra, Error> {
    let device = file.metadata().map_err(Error::file("access", path))?.file_type().is_block_device();
    // The metadata of a block device has no length.
    let length = file.seek(SeekFrom::End(0)).and_then(|length| file.rewind().map(|()| length));
    let length = length.map_err(Error::file("access", path))?;
    Ok(Extra { member, original: path.to_owned(), file, length, device })
}

/// The internal snapshots of the images to read: only what the guest sees now is saved.
pub(super) fn internal_snapshots(plan: &CapturePlan) -> Vec<NotSaved> {
    let of_disk = |planned: &PlannedDisk| {
        let image = planned.image();
        let links = users::links(image.source.path()?, &image.format);
        let names =
            links.inspect_err(|error| tracing::warn!(%error, "cannot read the header of an image")).ok()??.snapshots;
        let more = if names.len() > SNAPSHOTS_NAMED { ", …" } else { "" };
        let shown = names.iter().take(SNAPSHOTS_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| NotSaved {
            what: format!("internal snapshots of disk {}: {shown}{more}", planned.disk.target),
            data: false,
            hint: Some("They stay in the image. Restoring over it with `--overwrite` removes them.".to_owned()),
        })
    };
    plan.disks.iter().filter_map(of_disk).collect()
}

/// Writes all files before the disks, in the order of the format.
pub(super) fn write(point: &mut PointWriter, domain: &Domain, collected: Collected) -> Result<(), Error> {
    let xml = &domain.xml;
    for (member, text) in
        [(DOMAIN_XML, &xml.live), (DOMAIN_INACTIVE_XML, &xml.inactive), (DOMAIN_MIGRATABLE_XML, &xml.migratable)]
    {
        point.add(member, text.as_bytes())?;
    }
    let boot = collected.boot.into_iter().map(|(_, extra)| extra);
    for extra in collected.nvram.into_iter().chain(collected.tpm).chain(boot) {
        copy(point, extra)?;
    }
    for (member, bytes) in collected.artifacts {
        point.add(&member, &bytes)?;
    }
    Ok(())
}

/// The member has the length the file had when it was opened; a file that shrinks meanwhile is an error.
fn copy(point: &mut PointWriter, extra: Extra) -> Result<(), Error> {
    let mut file = extra.file.take(extra.length);
    point.file(&extra.member, extra.length, &mut |out| {
        let count = file.read(out).map_err(Error::file("read", &extra.original))?;
        if count == 0 && file.limit() > 0 {
            let shorter = io::Error::new(io::ErrorKind::UnexpectedEof, "it was truncated while it was read");
            return Err(Error::file("read", &extra.original)(shorter));
        }
        Ok(count)
    })
}

#[cfg(test)]
mod tests;
