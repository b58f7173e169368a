//! Owns: what an archive holds beside disks: the manifest, the domain XML, UEFI variables, TPM state, boot files.
//! Must not: read disks.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::archive::Writer;
use crate::model::{Domain, DomainOutcome, Failure};
use crate::plan::CapturePlan;

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
            Err(error) => warn(outcome, "the TPM state is not saved", &error, Some(hint)),
        }
    }
    Ok(collected)
}

fn tpm_files(folder: &Path, member: &str, files: &mut Vec<Extra>) -> Result<(), Error> {
    let listing = fs::read_dir(folder).map_err(Error::file("list the folder", folder))?;
    let mut paths: Vec<_> = listing.filter_map(Result::ok).map(|entry| entry.path()).collect();
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

/// When each image was last written, and its size: they tell a domain that was started and stopped while it was read.
pub(super) fn image_stamps(domain: &Domain, plan: &CapturePlan) -> Vec<Option<(i64, i64, u64)>> {
    if domain.state.is_active() {
        return Vec::new();
    }
    let stamp = |path: &Path| {
        fs::metadata(path).ok().map(|metadata| (metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    };
    plan.disks.iter().map(|planned| planned.disk.image.source.path().and_then(stamp)).collect()
}
