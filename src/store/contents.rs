//! Owns: what a restore point holds, the same for every kind of store. Must not: be trusted: it comes from the target.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{BootEntry, FileEntry};
use crate::model::{DomainRef, Format, Owner, Source};

/// What a restore point holds, whoever made it.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Where the point is, for messages.
    pub location: PathBuf,
    /// The domain.
    pub domain: DomainRef,
    /// Its disks.
    pub disks: Vec<SavedDisk>,
    /// Why disks are not in it, by target.
    pub skipped: BTreeMap<String, String>,
    /// What else is not in it.
    pub not_saved: Vec<String>,
    /// UEFI variables.
    pub nvram: Option<FileEntry>,
    /// Kernel and initrd of a direct boot, and firmware that the guest writes.
    pub boot: Vec<BootEntry>,
    /// State of an emulated TPM.
    pub tpm: Vec<FileEntry>,
    /// Why there is no such state, where the domain has a TPM.
    pub tpm_missing: Option<String>,
    /// Manifest and XML: the member, and the name of its file after a restore.
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
    /// QEMU encrypted the image; the restore point holds it unencrypted.
    pub encrypted: bool,
}
