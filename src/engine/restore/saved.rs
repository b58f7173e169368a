//! Owns: what a restore point holds, as the other parts of a restore are told it. Must not: believe it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::archive::manifest::{BootEntry, FileEntry};
use crate::model::{DomainRef, Format, Owner, Source};

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
    /// Whose the image was, if that was saved.
    pub owner: Option<Owner>,
    /// It was encrypted, and is not in the archive.
    pub encrypted: bool,
}
