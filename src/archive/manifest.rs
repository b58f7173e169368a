//! Defines `manifest.json`, the description of an archive. Must not contain how a domain is captured or restored.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Error, MANIFEST};
use crate::model::{
    Consistency, DomainRef, DomainState, Failure, Format, HookResult, Image, Method, NotSaved, Owner, PointId,
    SkippedDisk, Source,
};

/// The format that this program writes, and the newest it reads. It is raised if readers of the older format would
/// misread an archive, not for a field that they can ignore.
pub const FORMAT: u32 = 1;

/// Member with the live domain XML.
pub const DOMAIN_XML: &str = "domain.xml";

/// Member with the inactive domain XML, for the next start.
pub const DOMAIN_INACTIVE_XML: &str = "domain-inactive.xml";

/// Member with the migratable domain XML, for other hosts.
pub const DOMAIN_MIGRATABLE_XML: &str = "domain-migratable.xml";

/// Member name of a disk.
pub fn disk_member(target: &str) -> String {
    format!("disks/{target}.qcow2")
}

/// The contents of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Program and version, for information: `kvmbackup 0.1.0`.
    pub program: String,
    /// ID of the run that wrote the archive.
    pub run_id: Uuid,
    /// ID of the restore point, from the time of the capture.
    pub point: PointId,
    /// Name of the host section in the configuration.
    pub host: String,
    /// Name and UUID.
    pub domain: DomainRef,
    /// State at the time of the capture.
    pub state: DomainState,
    /// Capture method.
    pub method: Method,
    /// Why this method, if it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_reason: Option<String>,
    /// Consistency that was reached.
    pub consistency: Consistency,
    /// Whether a freeze of the guest's file systems was requested.
    pub quiesce_asked: bool,
    /// Duration of the freeze in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// Saved disks, in the order of the XML.
    pub disks: Vec<DiskEntry>,
    /// Disks that were not saved.
    pub skipped: Vec<SkippedDisk>,
    /// UEFI variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvram: Option<FileEntry>,
    /// Boot files of a direct-boot guest, and firmware that the guest writes.
    #[serde(default)]
    pub boot: Vec<BootEntry>,
    /// Files of an emulated TPM's state.
    #[serde(default)]
    pub tpm: Vec<FileEntry>,
    /// Why the TPM state is missing, if the domain has a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_missing: Option<String>,
    /// Why the contents are suspect, such as a disk that became empty. While the newest restore point is suspect,
    /// rotation removes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<String>,
    /// Parts of the guest that are not in the archive, except disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_saved: Vec<NotSaved>,
    /// Warnings of the backup.
    #[serde(default)]
    pub warnings: Vec<Failure>,
    /// Results of the operator's hooks, as far as known before the disks were read.
    #[serde(default)]
    pub hooks: Vec<HookResult>,
    /// Members that hooks added.
    #[serde(default)]
    pub artifacts: Vec<String>,
}

/// A saved disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEntry {
    /// Target name, such as `vda`.
    pub target: String,
    /// Name of its member, always a standalone qcow2 image.
    pub member: String,
    /// Virtual size in bytes.
    pub virtual_bytes: u64,
    /// Bytes read, which is what was allocated.
    pub read_bytes: u64,
    /// Original location.
    pub source: Source,
    /// Original format.
    pub format: Format,
    /// Backing chain, nearest image first; for information only, because the member contains their data.
    #[serde(default)]
    pub backing: Vec<Image>,
    /// Owner of the image file; `None` if the disk was not a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// QEMU encrypted the image (LUKS); the member is not encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// It is much smaller than in earlier restore points, or contains much less. They are kept until this is
    /// resolved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shrunk: bool,
}

/// A saved file of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name of its member.
    pub member: String,
    /// Original path.
    pub path: PathBuf,
    /// Whether it was a block device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device: bool,
}

/// A boot file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// Element of the domain XML (`kernel`, `initrd`, `dtb`, `loader`).
    pub element: String,
    /// Name of its member.
    pub member: String,
    /// Original path.
    pub path: PathBuf,
}

impl Manifest {
    /// The members that an archive with this manifest must have, except `SHA256SUMS`.
    pub fn members(&self) -> Vec<&str> {
        let always = [MANIFEST, DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML];
        let files = self.nvram.iter().chain(&self.tpm).map(|file| &file.member);
        let boot = self.boot.iter().map(|boot| &boot.member);
        let disks = self.disks.iter().map(|disk| &disk.member);
        always.into_iter().chain(files.chain(boot).chain(&self.artifacts).chain(disks).map(String::as_str)).collect()
    }

    /// Serialises the manifest. Fails for a path that is not UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|source| Error::MakeManifest { source })?;
        json.push(b'\n');
        Ok(json)
    }

    /// Parses `manifest.json`; a newer format has its own error.
    pub fn from_json(json: &[u8]) -> Result<Manifest, Error> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |source| Error::Manifest { source };
        let Head { format } = serde_json::from_slice(json).map_err(damaged)?;
        match format {
            FORMAT => serde_json::from_slice(json).map_err(damaged),
            _ => Err(Error::NewerFormat { format }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::manifest;

    #[test]
    fn every_released_version_is_readable() {
        crate::model::version::history::assert_read("manifest", Manifest::from_json, |manifest| {
            manifest.to_json().unwrap()
        });
    }

    #[test]
    fn manifest_round_trips_and_newer_formats_are_refused() {
        let manifest = manifest(&["vda", "vdb"]);
        let json = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
        let newer = String::from_utf8(json).unwrap().replace("\"format\": 1,", "\"format\": 2, \"new\": {},");
        let error = Manifest::from_json(newer.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { format: 2 }));
        assert!(error.hint().is_some());
        assert!(Manifest::from_json(b"{}").is_err());
    }

    #[test]
    fn every_file_in_the_manifest_is_a_member() {
        let mut manifest = manifest(&["vda", "vdb"]);
        manifest.artifacts = vec!["artifacts/dump.sql".to_owned()];
        assert_eq!(
            manifest.members(),
            [
                "manifest.json",
                "domain.xml",
                "domain-inactive.xml",
                "domain-migratable.xml",
                "artifacts/dump.sql",
                "disks/vda.qcow2",
                "disks/vdb.qcow2"
            ]
        );
    }
}
