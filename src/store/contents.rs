//! Describes the contents of a restore point of any kind. Must not be trusted: the data comes from the target.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{BootEntry, FileEntry};
use crate::model::{DomainRef, Format, Owner, Source};

/// The contents of a restore point.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Path of the restore point, for messages.
    pub location: PathBuf,
    /// Name and UUID of the saved domain.
    pub domain: DomainRef,
    /// Saved disks.
    pub disks: Vec<SavedDisk>,
    /// Reasons why disks are missing, by target.
    pub skipped: BTreeMap<String, String>,
    /// Other missing parts, as text.
    pub not_saved: Vec<String>,
    /// UEFI variables.
    pub nvram: Option<FileEntry>,
    /// Kernel and initrd of a direct boot, and firmware that the guest writes.
    pub boot: Vec<BootEntry>,
    /// State of an emulated TPM.
    pub tpm: Vec<FileEntry>,
    /// Why the TPM state is missing, if the domain has a TPM.
    pub tpm_missing: Option<String>,
    /// Manifest and XML: member name and file name after a restore.
    pub documents: Vec<(String, String)>,
    /// Length of each member in bytes.
    pub lengths: BTreeMap<String, u64>,
}

/// A saved disk.
#[derive(Debug, Clone)]
pub struct SavedDisk {
    /// Target name, such as `vda`.
    pub target: String,
    /// Name of its member.
    pub member: String,
    /// Original location.
    pub source: Source,
    /// Original format.
    pub format: Format,
    /// Virtual size in bytes; `None` for an image stored as is.
    pub virtual_bytes: Option<u64>,
    /// Owner of the image, if saved.
    pub owner: Option<Owner>,
    /// QEMU encrypted the image; the restore point contains plaintext.
    pub encrypted: bool,
}
