//! Owns: what an archive holds beside disks: the manifest, the domain XML, UEFI variables, TPM state, boot files.
//! Must not: read disks.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::{Error, rights, users};
use crate::archive::manifest::{
    BootEntry, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, DiskEntry, FORMAT, FileEntry, disk_member,
};
use crate::archive::{self, Manifest, Writer};
use crate::config::{DomainSettings, Quiesce};
use crate::model::{Consistency, DiskOutcome, Domain, DomainOutcome, Failure, HookResult, NotSaved, PointId};
use crate::plan::{CapturePlan, PlannedDisk};
use crate::sys::opened::{self, Opened};

/// Internal snapshots of a disk that are named.
const SNAPSHOTS_NAMED: usize = 5;

/// A file of the host that goes into the archive.
pub(super) struct Extra {
    /// Its member.
    pub member: String,
    /// Its path on this host.
    pub original: PathBuf,
    file: File,
    length: u64,
    device: bool,
}

/// The files beside the disks.
#[derive(Default)]
pub(super) struct Collected {
    /// UEFI variables.
    pub nvram: Option<Extra>,
    /// The element of the XML that names it, and the file.
    pub boot: Vec<(String, Extra)>,
    /// State of the emulated TPM.
    pub tpm: Vec<Extra>,
    /// What hooks left: the member and its bytes.
    pub artifacts: Vec<(String, Vec<u8>)>,
}

impl Collected {
    /// Files that the guest writes.
    pub fn written(&self) -> impl Iterator<Item = &Path> {
        let firmware = self.boot.iter().filter(|(element, _)| element == "loader").map(|(_, extra)| extra);
        self.nvram.iter().chain(&self.tpm).chain(firmware).map(|extra| extra.original.as_path())
    }

    /// Bytes of all the files.
    pub fn bytes(&self) -> u64 {
        let boot = self.boot.iter().map(|(_, extra)| extra);
        let artifacts: u64 = self.artifacts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.nvram.iter().chain(&self.tpm).chain(boot).map(|extra| extra.length).sum::<u64>() + artifacts
    }
}

/// Adds what hooks left: the hook, the file and its bytes.
pub(super) fn add_artifacts(collected: &mut Collected, artifacts: Vec<(String, String, Vec<u8>)>) -> Result<(), Error> {
    let member = |(hook, file, bytes): (String, String, Vec<u8>)| (format!("hooks/{hook}/{file}"), bytes);
    collected.artifacts.extend(artifacts.into_iter().map(member));
    Ok(())
}

/// Warnings of what is not saved though it may hold data of the guest.
pub(super) fn not_saved(domain: &Domain) -> impl Iterator<Item = Failure> {
    domain.outside.iter().filter(|not_saved| not_saved.data).map(|NotSaved { what, hint, .. }| Failure {
        message: format!("not saved, though it may hold data of the guest: {what}"),
        hint: hint.clone(),
    })
}

/// Opens the files beside the disks. What is not there, and what is not saved at all, is said in `outcome`, because the guest
/// may do without.
pub(super) fn collect(domain: &Domain, outcome: &mut DomainOutcome) -> Result<Collected, Error> {
    let mut collected = Collected::default();
    outcome.not_saved.clone_from(&domain.outside);
    outcome.warnings.extend(not_saved(domain));
    if let Some(nvram) = &domain.nvram {
        let name = nvram.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match open(&nvram.path, format!("nvram/{name}")) {
            Ok(extra) => collected.nvram = Some(extra),
            Err(error) => warn(outcome, "the UEFI variables are not saved", &error, None),
        }
    }
    for file in &domain.boot {
        match open(&file.path, format!("boot/{}", file.element)) {
            Ok(extra) => collected.boot.push((file.element.clone(), extra)),
            Err(error) => warn(outcome, "a boot file is not saved", &error, None),
        }
    }
    if let Some(state) = &domain.tpm {
        let found = if state.is_dir() || !state.exists() {
            tpm_files(state, "tpm", &mut collected.tpm)
        } else {
            open(state, "tpm/state".to_owned()).map(|extra| collected.tpm.push(extra))
        };
        let hint = "a guest that seals keys in its TPM (BitLocker) needs its recovery key after a restore";
        match found {
            Ok(()) if !collected.tpm.is_empty() => {}
            Ok(()) => {
                let error = Error::Other { message: format!("{}: empty", state.display()), hint: None };
                warn(outcome, "the TPM state is not saved", &error, Some(hint));
            }
            Err(error) => {
                // Half a state is worse than none.
                collected.tpm.clear();
                warn(outcome, "the TPM state is not saved", &error, Some(hint));
            }
        }
    }
    Ok(collected)
}

/// The emulator's user owns the folder, and may put anything there.
fn tpm_files(path: &Path, member: &str, files: &mut Vec<Extra>) -> Result<(), Error> {
    let folder = Opened::open(path).map_err(Error::file("open the folder", path))?;
    let kinds = |entries: Vec<fs::DirEntry>| {
        entries.into_iter().map(|entry| Ok((entry.file_name(), entry.file_type()?))).collect()
    };
    let listing = folder.entries().and_then(kinds);
    let mut entries: Vec<_> = listing.map_err(Error::file("list the folder", path))?;
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
    let device = file.metadata().map_err(Error::file("look at", path))?.file_type().is_block_device();
    // The metadata of a block device has no length.
    let length = file.seek(SeekFrom::End(0)).and_then(|length| file.rewind().map(|()| length));
    let length = length.map_err(Error::file("look at", path))?;
    Ok(Extra { member, original: path.to_owned(), file, length, device })
}

fn warn(outcome: &mut DomainOutcome, what: &str, error: &Error, hint: Option<&str>) {
    let Failure { message, .. } = error.failure();
    outcome.warnings.push(Failure { message: format!("{what}: {message}"), hint: hint.map(str::to_owned) });
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
            hint: Some("they stay in the image; restoring over it with `--overwrite` removes them".to_owned()),
        })
    };
    plan.disks.iter().filter_map(of_disk).collect()
}

/// What the archive says about itself.
#[expect(clippy::too_many_arguments, reason = "one call, and a structure for it would only rename the arguments")]
pub(super) fn manifest(
    context: &Context<'_>,
    domain: &Domain,
    plan: &CapturePlan,
    settings: &DomainSettings,
    point: PointId,
    collected: &Collected,
    hooks: &[HookResult],
    outcome: &DomainOutcome,
) -> Manifest {
    let file =
        |extra: &Extra| FileEntry { member: extra.member.clone(), path: extra.original.clone(), device: extra.device };
    Manifest {
        format: FORMAT,
        program: format!("kvmbackup {}", env!("CARGO_PKG_VERSION")),
        run_id: context.run_id,
        point,
        host: context.settings.host.clone(),
        domain: domain.id.clone(),
        state: domain.state,
        method: plan.method,
        method_reason: plan.method_reason.clone(),
        consistency: outcome.consistency.unwrap_or(Consistency::Crash),
        quiesce_asked: settings.quiesce != Quiesce::Never,
        frozen_ms: outcome.frozen_ms,
        disks: plan.disks.iter().zip(&outcome.disks).map(|(planned, saved)| disk_entry(planned, saved)).collect(),
        skipped: outcome.skipped.clone(),
        nvram: collected.nvram.as_ref().map(file),
        boot: collected
            .boot
            .iter()
            .map(|(element, extra)| BootEntry {
                element: element.clone(),
                member: extra.member.clone(),
                path: extra.original.clone(),
            })
            .collect(),
        tpm: collected.tpm.iter().map(file).collect(),
        suspect: suspect(outcome),
        tpm_missing: (domain.tpm.is_some() && collected.tpm.is_empty())
            .then(|| "its state could not be read".to_owned()),
        not_saved: outcome.not_saved.clone(),
        warnings: outcome.warnings.clone(),
        hooks: hooks.to_vec(),
        artifacts: collected.artifacts.iter().map(|(member, _)| member.clone()).collect(),
    }
}

/// Why the point is no reason to remove an older one.
fn suspect(outcome: &DomainOutcome) -> Option<String> {
    let shrunk: Vec<&str> = outcome.disks.iter().filter(|disk| disk.shrunk).map(|disk| disk.target.as_str()).collect();
    (!shrunk.is_empty()).then(|| format!("much smaller than before, or with much less data: {}", shrunk.join(", ")))
}

fn disk_entry(planned: &PlannedDisk, saved: &DiskOutcome) -> DiskEntry {
    let image = planned.image();
    DiskEntry {
        target: saved.target.clone(),
        member: disk_member(&saved.target),
        virtual_bytes: saved.virtual_bytes,
        read_bytes: saved.read_bytes,
        source: image.source.clone(),
        format: image.format.clone(),
        backing: planned.disk.backing.clone(),
        owner: image.source.path().and_then(rights::of_file),
        encrypted: planned.disk.encrypted,
        shrunk: saved.shrunk,
    }
}

/// Writes all members before the disks, in the order of the format.
pub(super) fn write(
    writer: &mut Writer,
    domain: &Domain,
    manifest: &Manifest,
    collected: Collected,
    archive_error: &dyn Fn(archive::Error) -> Error,
) -> Result<(), Error> {
    let json = manifest.to_json().map_err(archive_error)?;
    writer.add(archive::MANIFEST, &json).map_err(archive_error)?;
    let xml = &domain.xml;
    for (member, text) in
        [(DOMAIN_XML, &xml.live), (DOMAIN_INACTIVE_XML, &xml.inactive), (DOMAIN_MIGRATABLE_XML, &xml.migratable)]
    {
        writer.add(member, text.as_bytes()).map_err(archive_error)?;
    }
    let boot = collected.boot.into_iter().map(|(_, extra)| extra);
    for extra in collected.nvram.into_iter().chain(collected.tpm).chain(boot) {
        copy(writer, extra, archive_error)?;
    }
    for (member, bytes) in collected.artifacts {
        writer.add(&member, &bytes).map_err(archive_error)?;
    }
    Ok(())
}

/// The member has the length the file had when it was opened; a file that shrinks meanwhile is an error.
fn copy(writer: &mut Writer, extra: Extra, archive_error: &dyn Fn(archive::Error) -> Error) -> Result<(), Error> {
    writer.member(&extra.member, extra.length).map_err(archive_error)?;
    let mut file = extra.file.take(extra.length);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(Error::file("read", &extra.original))?;
        if count == 0 {
            break;
        }
        writer.write(&buffer[..count]).map_err(archive_error)?;
    }
    if file.limit() > 0 {
        let message = format!("{}: it became shorter while it was read", extra.original.display());
        return Err(Error::Other { message, hint: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
