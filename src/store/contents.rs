//! Describes the contents of a restore point of any kind. Must not be trusted: the data comes from the target.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{BootEntry, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, FileEntry, Manifest};
use crate::archive::MANIFEST;
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

impl Contents {
    /// As the manifest describes it, with the length of each member.
    pub(super) fn of(location: &Path, manifest: Manifest, lengths: BTreeMap<String, u64>) -> Contents {
        let disks = manifest.disks.into_iter().map(|disk| SavedDisk {
            target: disk.target,
            member: disk.member,
            source: disk.source,
            format: disk.format,
            virtual_bytes: Some(disk.virtual_bytes),
            owner: disk.owner.map(Owner::sane),
            encrypted: disk.encrypted,
        });
        let documents = [MANIFEST, DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML];
        Contents {
            location: location.to_owned(),
            domain: manifest.domain,
            disks: disks.collect(),
            skipped: manifest.skipped.into_iter().map(|disk| (disk.target, disk.reason)).collect(),
            not_saved: manifest.not_saved.into_iter().map(|not_saved| not_saved.what).collect(),
            nvram: manifest.nvram,
            boot: manifest.boot,
            tpm: manifest.tpm,
            tpm_missing: manifest.tpm_missing,
            documents: documents.map(|name| (name.to_owned(), name.to_owned())).to_vec(),
            lengths,
        }
    }
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
