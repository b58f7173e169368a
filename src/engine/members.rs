//! Owns: what an archive holds beside disks: the manifest, the domain XML, UEFI variables, TPM state, boot files.
//! Must not: read disks.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::context::Context;
use super::{Error, rights};
use crate::archive::manifest::{
    BootEntry, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, DiskEntry, FORMAT, FileEntry, disk_member,
};
use crate::archive::{self, Manifest, Writer};
use crate::config::{DomainSettings, Quiesce};
use crate::model::{Consistency, DiskOutcome, Domain, DomainOutcome, Failure, HookResult, PointId};
use crate::plan::{CapturePlan, How, PlannedDisk};

/// Where libvirt keeps the state of emulated TPMs, by UUID.
const TPM_STATE: &str = "/var/lib/libvirt/swtpm";

/// A file of the host that goes into the archive.
pub(super) struct Extra {
    /// Its member.
    pub member: String,
    /// Its path on this host.
    pub original: PathBuf,
    file: File,
    length: u64,
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

/// Opens the files beside the disks. What is not there is said in `outcome`, for the guest may do without.
pub(super) fn collect(domain: &Domain, outcome: &mut DomainOutcome) -> Result<Collected, Error> {
    let mut collected = Collected::default();
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
    if domain.tpm {
        let folder = Path::new(TPM_STATE).join(domain.id.uuid.to_string());
        let found = tpm_files(&folder, "tpm", &mut collected.tpm);
        let hint = "a guest that seals keys in its TPM (BitLocker) needs its recovery key after a restore";
        match found {
            Ok(()) if !collected.tpm.is_empty() => {}
            Ok(()) => {
                let error = Error::Other { message: format!("{}: empty", folder.display()), hint: None };
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

fn tpm_files(folder: &Path, member: &str, files: &mut Vec<Extra>) -> Result<(), Error> {
    let listing = fs::read_dir(folder).map_err(Error::file("list the folder", folder))?;
    let paths: std::io::Result<Vec<_>> = listing.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(Error::file("list the folder", folder))?;
    paths.sort();
    for path in paths {
        let kind = path.symlink_metadata().map_err(Error::file("look at", &path))?.file_type();
        let name = format!("{member}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if kind.is_dir() && name.matches('/').count() < 4 {
            tpm_files(&path, &name, files)?;
        } else if kind.is_file() && !name.ends_with("/.lock") {
            files.push(open(&path, name)?);
        }
    }
    Ok(())
}

fn open(path: &Path, member: String) -> Result<Extra, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let metadata = file.metadata().map_err(Error::file("look at", path))?;
    if !metadata.is_file() {
        return Err(Error::Other { message: format!("{}: not a regular file", path.display()), hint: None });
    }
    Ok(Extra { member, original: path.to_owned(), length: metadata.len(), file })
}

fn warn(outcome: &mut DomainOutcome, what: &str, error: &Error, hint: Option<&str>) {
    let Failure { message, .. } = error.failure();
    outcome.warnings.push(Failure { message: format!("{what}: {message}"), hint: hint.map(str::to_owned) });
}

/// What changes when an image is written: times and size of a file, the counters of a block device. They tell a domain
/// that was started and stopped while it was read.
pub(super) fn image_stamps(domain: &Domain, plan: &CapturePlan) -> Vec<Option<String>> {
    if domain.state.is_active() {
        return Vec::new();
    }
    plan.disks.iter().map(|planned| planned.disk.image.source.path().and_then(stamp)).collect()
}

fn stamp(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let times = format!("{}.{} {}", metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    if !metadata.file_type().is_block_device() {
        return Some(times);
    }
    // QEMU writes through a device node of its own, so the times of this one say little. Writes done and sectors
    // written: https://docs.kernel.org/block/stat.html
    let device = metadata.rdev();
    let file = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    let counters = fs::read_to_string(file).unwrap_or_default();
    let written: Vec<&str> = counters.split_whitespace().skip(4).take(3).collect();
    Some(format!("{times} {}", written.join(" ")))
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
    let file = |extra: &Extra| FileEntry { member: extra.member.clone(), path: extra.original.clone() };
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
        suspect: None,
        tpm_missing: (domain.tpm && collected.tpm.is_empty()).then(|| "its state could not be read".to_owned()),
        warnings: outcome.warnings.clone(),
        hooks: hooks.to_vec(),
        artifacts: collected.artifacts.iter().map(|(member, _)| member.clone()).collect(),
    }
}

fn disk_entry(planned: &PlannedDisk, saved: &DiskOutcome) -> DiskEntry {
    let image = match &planned.how {
        How::Capture => &planned.disk.image,
        How::Direct(image) => image,
    };
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
